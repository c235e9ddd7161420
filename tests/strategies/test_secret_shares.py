"""Shares: enough of them give the secret, fewer or wrong ones never a wrong one."""

from __future__ import annotations

import os

import pytest

from mfm_core.errors import UpdateRejected
from strategies.secret_shares import join_shares, seal, split_secret, unseal

NAMES = ("a", "b", "c", "d", "e")


def test_any_threshold_of_shares_gives_the_secret_and_fewer_none():
    secret = os.urandom(32)
    shares = split_secret(secret, 3, NAMES)
    for chosen in (("a", "b", "c"), ("c", "d", "e"), ("a", "c", "e"), NAMES):
        part = {name: shares[name] for name in chosen}
        assert join_shares(part, 3, secret.__eq__) == (secret, ())
    with pytest.raises(UpdateRejected, match="2 whole shares of 2, 3 are needed"):
        join_shares({name: shares[name] for name in ("a", "b")}, 3, secret.__eq__)


def test_a_wrong_share_is_found_and_its_sender_named():
    secret = os.urandom(32)
    shares = split_secret(secret, 3, NAMES)
    shares["a"] = shares["a"][:4] + os.urandom(48)
    assert join_shares(shares, 3, secret.__eq__) == (secret, ("a",))
    shares["b"] = b"short"
    assert join_shares(shares, 3, secret.__eq__)[0] == secret
    shares["c"] = shares["d"]
    with pytest.raises(UpdateRejected, match="promised secret"):
        join_shares(shares, 3, secret.__eq__)


def test_a_sealed_share_opens_for_what_it_was_sealed_for_only():
    key = os.urandom(32)
    sealed = seal(key, b"share", b"a to b, exchange 3")
    assert unseal(key, sealed, b"a to b, exchange 3") == b"share"
    assert seal(key, b"share", b"") != seal(key, b"share", b"")
    altered = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for wrong in (
        (key, altered, b"a to b, exchange 3"),
        (key, sealed, b"a to c, exchange 3"),
        (os.urandom(32), sealed, b"a to b, exchange 3"),
        (key, b"", b"a to b, exchange 3"),
    ):
        with pytest.raises(UpdateRejected) as caught:
            unseal(*wrong)
        assert caught.value.reason == "tampered"
