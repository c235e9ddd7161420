"""Bytes of keys and shares: what was packed comes back, and no foreign bytes do."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from mfm_core.errors import UpdateRejected
from strategies.secret_shares import seal
from strategies.secure_layout import (
    SEALED_BYTES,
    advert_bytes,
    pack_about,
    pack_advert,
    pack_parts,
    pack_roster,
    pack_shares,
    sealed_for,
    unpack_about,
    unpack_advert,
    unpack_parts,
    unpack_roster,
)
from strategies.secure_sum import Advert, Roster, SiteKeys, advertise, share_secrets

NAMES = ("a", "b", "c")


def adverts(steps: int) -> dict[str, Advert]:
    return {name: advertise(SiteKeys("s", name, os.urandom(32)), steps) for name in NAMES}


@pytest.mark.parametrize("signature", [b"", b"x", os.urandom(104)])
def test_an_advert_comes_back_with_its_signature(signature):
    advert = adverts(3)["a"]
    signed = replace(advert, public=os.urandom(49), signature=signature)
    packed = pack_advert(signed)
    assert len(packed) == advert_bytes(3)
    assert unpack_advert("a", 3, packed) == signed


def test_a_roster_comes_back_and_other_lengths_do_not():
    shown = adverts(2)
    packed = pack_roster(shown)
    assert unpack_roster(NAMES, 2, packed) == tuple(shown[name] for name in NAMES)
    for wrong in (packed[:-1], packed[:-3], b"", packed * 2):
        with pytest.raises(UpdateRejected) as caught:
            unpack_roster(NAMES, 2, wrong)
        assert caught.value.reason == "roster"


def test_each_receiver_finds_its_sealed_share():
    keys = {name: SiteKeys("s", name, os.urandom(32)) for name in NAMES}
    roster = Roster("s", tuple(advertise(key, 2) for key in keys.values()))
    sealed = share_secrets(keys["b"], roster)
    packed = pack_shares(sealed)
    for name in NAMES:
        for step in range(2):
            assert sealed_for(packed, NAMES, name, step) == sealed[name][step]
    assert len(sealed["a"][0]) == SEALED_BYTES
    assert len(seal(os.urandom(32), bytes(104), b"")) == SEALED_BYTES


def test_parts_come_back_by_name():
    parts = {name: os.urandom(52) for name in NAMES}
    assert unpack_parts(NAMES, pack_parts(parts), 52) == parts
    with pytest.raises(UpdateRejected, match="expected 3 parts of 52 bytes"):
        unpack_parts(NAMES, pack_parts(parts)[:-1], 52)


def test_only_agreed_fields_of_agreed_types_are_read():
    wanted = {"step": int, "names": tuple, "norm": float, "session": str}
    text = pack_about({"step": 1, "names": ("a", "b"), "norm": 2, "session": "s"})
    assert unpack_about(text, wanted) == {
        "step": 1, "names": ("a", "b"), "norm": 2.0, "session": "s",
    }  # fmt: skip
    for wrong in (
        "", "[]", "{}", "null", '{"step": 1}',
        text.replace("1", "true", 1),
        text.replace('"a"', "3"),
        text.replace('"s"', "7"),
        text[:-1] + ', "more": 1}',
    ):  # fmt: skip
        with pytest.raises(UpdateRejected) as caught:
            unpack_about(wrong, wanted)
        assert caught.value.reason == "secure"
