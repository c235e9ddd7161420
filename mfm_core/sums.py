"""The one noun for everything that leaves a hospital: a mergeable sum.

A `Sum` is a set of named float64 arrays that add. Image counts times weight changes, cell counts,
latent sums, second moments, patch moments, confusion matrices and score histograms are all Sums;
a finished result (an atlas, a table of metrics, a new model) is computed from the merged Sum.
Merging is addition, so the order of sites never matters mathematically; the `Accumulator` makes
it exact as well by adding fixed-point integers (FRACTION_BITS fractional bits in 64).
What crosses the hospital boundary: the arrays of a Sum, through the client's outbox.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Schema = tuple[tuple[str, tuple[int, ...]], ...]

FRACTION_BITS = 32
"""Fractional bits of the fixed point: a resolution of 2.3e-10, a range of +-1.07e9."""


@dataclass(frozen=True)
class Sum:
    """Named float64 arrays that add. Keys are kept sorted."""

    arrays: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ordered = {k: np.asarray(self.arrays[k], dtype=np.float64) for k in sorted(self.arrays)}
        object.__setattr__(self, "arrays", ordered)

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    @property
    def schema(self) -> Schema:
        """Names and shapes, in order: what two Sums must share to be merged."""
        return tuple((name, array.shape) for name, array in self.arrays.items())

    def merge(self, other: Sum) -> Sum:
        """Return the sum of both.

        Raises:
            ValueError: names or shapes differ.
        """
        if self.schema != other.schema:
            raise ValueError(f"sums of different schema: {self.schema} and {other.schema}")
        return Sum({name: array + other.arrays[name] for name, array in self.arrays.items()})

    def flatten(self) -> Array:
        """Return all arrays as one `[D] float64`, in schema order."""
        parts = [array.ravel() for array in self.arrays.values()]
        return np.concatenate(parts) if parts else np.zeros(0)

    @staticmethod
    def unflatten(schema: Schema, flat: Array) -> Sum:
        """Rebuild a Sum from `flatten`; raises ValueError when the length does not fit."""
        sizes = [int(np.prod(shape)) for _, shape in schema]
        if flat.shape != (sum(sizes),):
            raise ValueError(f"expected {sum(sizes)} numbers, found shape {flat.shape}")
        pieces = np.split(flat, np.cumsum(sizes)[:-1]) if sizes else []
        named = zip(schema, pieces, strict=True)
        return Sum({name: piece.reshape(shape) for (name, shape), piece in named})


def schema_hash(schema: Schema) -> str:
    """Return the SHA-256 (hex) of names and shapes."""
    return hashlib.sha256(json.dumps(schema).encode()).hexdigest()


class Accumulator:
    """Adds flat vectors as fixed-point integers: exact, in any order, in constant memory.

    `[D] float64` values are rounded to 2**-FRACTION_BITS and added as int64, so the result has
    the same bits whatever the order of arrival.
    """

    def __init__(self, size: int) -> None:
        self._total = np.zeros(size, dtype=np.int64)
        self._headroom = float(2**62)
        self.count = 0

    def add(self, flat: Array) -> None:
        """Add one vector.

        Raises:
            ValueError: another length, a value that is not finite, or the range is exhausted.
        """
        if flat.shape != self._total.shape:
            raise ValueError(f"expected {self._total.shape[0]} numbers, found shape {flat.shape}")
        largest = float(np.abs(flat).max(initial=0.0)) * 2.0**FRACTION_BITS + 1.0
        if not np.isfinite(flat).all():
            raise ValueError("a value is not finite")
        if largest >= self._headroom:
            raise ValueError("a value is too large for the fixed-point sum")
        self._headroom -= largest
        scaled = np.rint(np.asarray(flat, dtype=np.float64) * 2.0**FRACTION_BITS)
        self._total += scaled.astype(np.int64)
        self.count += 1

    def result(self) -> Array:
        """Return the sum as `[D] float64`."""
        return self._total / 2.0**FRACTION_BITS
