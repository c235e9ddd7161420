"""Secrets in shares: any `threshold` of them give a secret back, fewer tell nothing.

Shamir's scheme is Flower's published primitive. A share travels encrypted from site to site
through the server, which can neither read nor alter it. What was put together is held against a
public check, so that a wrong share is found and its sender named.

Source: Shamir 1979; Bonawitz et al. 2017, section 4. What crosses the hospital's boundary:
shares of keys of one exchange, encrypted for one other site each; never a number of a patient.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares

from mfm_core.errors import UpdateRejected

SECRET_BYTES, SHARE_BYTES, NONCE_BYTES = 32, 52, 12
TRIES = 2000
"""Most subsets of shares that are tried when one of them is wrong."""


def split_secret(secret: bytes, threshold: int, names: tuple[str, ...]) -> dict[str, bytes]:
    """Return one share of 32 secret bytes per name."""
    return dict(zip(names, create_shares(secret, threshold, len(names)), strict=True))


def join_shares(
    shares: Mapping[str, bytes], threshold: int, is_right: Callable[[bytes], bool]
) -> tuple[bytes, tuple[str, ...]]:
    """Return the secret of some shares and who sent a wrong one.

    Args:
        shares: share by sender.
        threshold: how many are needed.
        is_right: tells whether a secret is the one that was promised in public.

    Raises:
        UpdateRejected: "shares"; no `threshold` of them give the promised secret.
    """
    whole = {name: share for name, share in shares.items() if len(share) == SHARE_BYTES}
    tried = itertools.islice(itertools.combinations(sorted(whole), threshold), TRIES)
    for names in tried:
        secret = _joined([whole[name] for name in names])
        if secret is not None and is_right(secret):
            return secret, _liars(shares, names, secret)
    found = f"{len(whole)} whole shares of {len(shares)}, {threshold} are needed"
    raise UpdateRejected("shares", f"the shares do not give the promised secret ({found})")


def _joined(shares: list[bytes]) -> bytes | None:
    """Return the 32 bytes of shares, None where they do not fit together."""
    try:
        secret = combine_shares(shares)
    except (ValueError, IndexError):
        return None
    return secret if len(secret) == SECRET_BYTES else None


def _liars(shares: Mapping[str, bytes], honest: tuple[str, ...], secret: bytes) -> tuple[str, ...]:
    """Return the senders whose share does not lie on the curve of the honest ones."""
    rest = [shares[name] for name in honest[1:]]
    outside = (name for name in sorted(shares) if name not in honest)
    return tuple(name for name in outside if _joined([shares[name], *rest]) != secret)


def seal(key: bytes, content: bytes, about: bytes) -> bytes:
    """Return content encrypted with a 32-byte key; `about` is what it must be opened for."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, content, about)


def unseal(key: bytes, sealed: bytes, about: bytes) -> bytes:
    """Return the content of `seal`.

    Raises:
        UpdateRejected: "tampered"; it was altered, or meant for somebody or something else.
    """
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], about)
    except (InvalidTag, ValueError):
        raise UpdateRejected("tampered", "a sealed share was altered or is not for us") from None
