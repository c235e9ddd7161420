"""Numbers in a ring: fixed point, masks out of a key, and their sum modulo 2**64 or 2**16.

Secure sums add integers that wrap round, so that a mask added at one site and subtracted at
another is gone from the sum without a trace. The 64-bit ring holds the same fixed point as
`mfm_core.sums.Accumulator`, so a masked sum has the bits of the plain one.

Source: masks as a stream cipher's key stream, Bonawitz et al. 2017, "Practical Secure Aggregation
for Privacy-Preserving Machine Learning", section 3; the cipher is AES-256 in counter mode.
What crosses the hospital's boundary: nothing here; masked numbers leave through the outbox.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from mfm_core.errors import ConfigError
from mfm_core.sums import FRACTION_BITS, Array

Ring64 = NDArray[np.uint64]
Ring16 = NDArray[np.uint16]

MOST_SITES = 256
"""Sites of one secure sum: 256 numbers of 8 bits with a sign fit into 16 bits."""


@dataclass(frozen=True)
class Masked:
    """Numbers in a ring: of one site under its masks, or the sum of several.

    Attributes:
        update: `[P] uint16`, a quantised change of the weights; `[0]` without one.
        total: `[S] uint64`, the fixed point of a flat Sum.
    """

    update: Ring16
    total: Ring64

    @property
    def sizes(self) -> tuple[int, int]:
        """Return P and S."""
        return self.update.size, self.total.size

    def plus(self, other: Masked) -> Masked:
        """Return the sum in the ring."""
        return Masked(self.update + other.update, self.total + other.total)

    def minus(self, other: Masked) -> Masked:
        """Return the difference in the ring."""
        return Masked(self.update - other.update, self.total - other.total)


def largest_number() -> float:
    """Return the least magnitude that `to_ring` refuses: MOST_SITES smaller ones never wrap."""
    return float(2.0 ** (63 - FRACTION_BITS) / MOST_SITES)


def to_ring(values: Array) -> Ring64:
    """Return `[S] uint64`, the fixed point of `[S] float64` with FRACTION_BITS fractional bits.

    Raises:
        ConfigError: a number is not finite, or too large to be added up over MOST_SITES sites.
    """
    if not np.isfinite(values).all():
        raise ConfigError("secure sum", ["a number is not finite; nothing was masked"])
    most = largest_number()
    largest = float(np.abs(values).max(initial=0.0))
    if largest >= most:
        raise ConfigError(
            "secure sum", [f"a number is {largest:.3g}; the ring takes less than {most:.3g}"]
        )
    scaled = np.rint(np.asarray(values, dtype=np.float64) * 2.0**FRACTION_BITS)
    return scaled.astype(np.int64).view(np.uint64)


def from_ring(total: Ring64) -> Array:
    """Return `[S] float64` of a sum of `to_ring`."""
    return np.asarray(total.view(np.int64) / 2.0**FRACTION_BITS)


def stream(key: bytes, count: int, kind: type[np.uint16] | type[np.uint64]) -> NDArray[Any]:
    """Return `[count]` integers that look random to whoever lacks the key.

    Args:
        key: 32 bytes, used for one stream only.
        count: how many.
        kind: np.uint16 or np.uint64.
    """
    size = np.dtype(kind).itemsize
    cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(cipher.update(bytes(count * size)), dtype=np.dtype(kind).newbyteorder("<"))
