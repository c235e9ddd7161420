"""How the keys and shares of a secure sum lie in the bytes of a message.

Everything has a length that follows from the number of sites and exchanges, so that a receiver
compares sizes before it reads. What crosses the hospital's boundary: public keys and sealed shares.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mfm_core.errors import UpdateRejected
from strategies.secret_shares import NONCE_BYTES, SHARE_BYTES
from strategies.secure_sum import KEY_BYTES, Advert, Told

SEALED_BYTES = NONCE_BYTES + 2 * SHARE_BYTES + 16
"""Nonce, two shares and the tag of AES-GCM."""

SIGNATURE_BYTES = 160
"""Room for an ECDSA P-384 signature (at most 104 bytes) and its key (49), each with its length."""


def advert_bytes(steps: int) -> int:
    """Return the length of a packed advert of so many exchanges."""
    return KEY_BYTES * (1 + 2 * steps) + SIGNATURE_BYTES


def pack_advert(advert: Advert) -> bytes:
    """Return an advert as bytes: channel, pair keys, promises, signature and the key it is of."""
    signed = (len(part).to_bytes(2, "big") + part for part in (advert.signature, advert.public))
    room = b"".join(signed).ljust(SIGNATURE_BYTES, b"\0")
    return b"".join([advert.channel, *advert.pairs, *advert.promises, room])


def unpack_advert(site: str, steps: int, content: bytes) -> Advert:
    """Return the advert of a site for so many exchanges.

    Raises:
        UpdateRejected: "roster"; the bytes are not such an advert.
    """
    if len(content) != advert_bytes(steps):
        raise UpdateRejected("roster", f"{len(content)} bytes are no advert of {steps} exchanges")
    keys = _cut(content[:-SIGNATURE_BYTES], KEY_BYTES)
    signature, rest = _first_part(content[-SIGNATURE_BYTES:])
    public, rest = _first_part(rest)
    if rest.strip(b"\0"):
        raise UpdateRejected("roster", "something stands behind the signature")
    pairs, promises = tuple(keys[1 : 1 + steps]), tuple(keys[1 + steps :])
    return Advert(site, keys[0], pairs, promises, public, signature)


def _first_part(room: bytes) -> tuple[bytes, bytes]:
    """Return the part whose length stands before it, and what follows it."""
    end = 2 + int.from_bytes(room[:2], "big")
    if len(room) < end:
        raise UpdateRejected("roster", "the signature is longer than its room")
    return room[2:end], room[end:]


def pack_roster(adverts: Mapping[str, Advert]) -> bytes:
    """Return the adverts in the order of the names."""
    return b"".join(pack_advert(adverts[name]) for name in sorted(adverts))


def unpack_roster(names: tuple[str, ...], steps: int, content: bytes) -> tuple[Advert, ...]:
    """Return the adverts of the named sites for so many exchanges, sorted by name.

    Raises:
        UpdateRejected: "roster".
    """
    if len(content) != len(names) * advert_bytes(steps):
        raise UpdateRejected("roster", f"{len(content)} bytes are no roster of {len(names)} sites")
    parts = zip(sorted(names), _cut(content, advert_bytes(steps)), strict=True)
    return tuple(unpack_advert(name, steps, part) for name, part in parts)


def pack_shares(sealed: Mapping[str, tuple[bytes, ...]]) -> bytes:
    """Return a site's sealed shares: for each receiver in the order of names, each exchange."""
    return b"".join(part for name in sorted(sealed) for part in sealed[name])


def sealed_for(content: bytes, names: tuple[str, ...], receiver: str, step: int) -> bytes:
    """Return what a site's `pack_shares` holds for one receiver in one exchange."""
    steps = len(content) // (len(names) * SEALED_BYTES)
    start = (names.index(receiver) * steps + step) * SEALED_BYTES
    return content[start : start + SEALED_BYTES]


def pack_parts(parts: Mapping[str, bytes]) -> bytes:
    """Return parts of equal length in the order of names."""
    return b"".join(parts[name] for name in sorted(parts))


def unpack_parts(names: tuple[str, ...], content: bytes, size: int) -> dict[str, bytes]:
    """Return the parts of `pack_parts`, each of `size` bytes.

    Raises:
        UpdateRejected: "shares"; another length.
    """
    if len(content) != len(names) * size:
        raise UpdateRejected("shares", f"expected {len(names)} parts of {size} bytes")
    return dict(zip(sorted(names), _cut(content, size), strict=True))


def _cut(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


def pack_about(content: Mapping[str, Any]) -> str:
    """Return what the header of a message says of the secure sum, as JSON."""
    return json.dumps(content, sort_keys=True)


def unpack_about(text: str, wanted: Mapping[str, type]) -> dict[str, Any]:
    """Return the fields of `pack_about`; lists of names become tuples.

    Args:
        text: from a header.
        wanted: field to type: str, int, float, or tuple for a list of names.

    Raises:
        UpdateRejected: "secure"; other fields or types.
    """
    try:
        found = json.loads(text)
        if not isinstance(found, dict) or set(found) != set(wanted):
            raise ValueError("other fields")
        values = {name: _typed(found[name], kind) for name, kind in wanted.items()}
    except (ValueError, OverflowError, RecursionError):
        fields = ", ".join(sorted(wanted))
        raise UpdateRejected("secure", f"expected the fields {fields} of a secure sum") from None
    return values


def _typed(value: Any, kind: type) -> Any:
    """Return a value of the wanted type; raise ValueError otherwise."""
    if kind is tuple:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise ValueError("no list of names")
        return tuple(value)
    if kind is float and type(value) in (int, float):
        return float(value)
    if type(value) is not kind:
        raise ValueError("another type")
    return value


def request_hash(agreed: tuple[str, str, int], arrays: str, about: str) -> str:
    """Return the hash of all that a site was asked in a masked exchange.

    Args:
        agreed: hash of the agreed run, kind and round of the exchange.
        arrays: hash of the arrays that were sent (`wire.payload_hash`).
        about: what the header said of the secure sum.
    """
    return hashlib.sha256(json.dumps([*agreed, arrays, about]).encode()).hexdigest()


def told_of(about: Mapping[str, Any]) -> Told:
    """Return what the server tells in an unmask message."""
    return Told(about["step"], about["participants"], about["survivors"])
