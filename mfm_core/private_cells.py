"""One patient's part of a private release is bounded: cells of clipped latents, as integers.

With u a latent in a public basis (`public_basis`), clipped to length 1, a patient adds to

- each table of cells (class; class x value of an attribute): counts, the shares of the patient's
  labelled images in each cell, which sum to at most 1, and sums, the same shares of u. Either block
  has an L2 norm of at most 1;
- the second moment (if agreed): the shares of the classes times u u' of the patient's mean in each,
  as the upper triangle with off-diagonals times sqrt 2, whose L2 norm is the Frobenius norm: at
  most 1.

So one patient more or less moves m tables by at most sqrt(2 m) and with the second moment by at
most sqrt(2 m + 1): sqrt 2 with one table, sqrt 3 with covariance. Every patient's numbers are cut
towards zero to whole grains before they are added, so the bound holds for the integers, not only
for real numbers. Images are clipped one by one and then averaged, so that a class and its attribute
cells agree.

Source: design notes of this project; the mechanism is the Gaussian one on a bounded sum.
What crosses the hospital's boundary: nothing here; these integers leave with noise only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from mfm_core.sums import Array, Schema, Sum

Integers = NDArray[np.int64]
GRAIN_BITS = 20
GRAINS = 2.0**GRAIN_BITS
"""Grains of 1: the resolution of what leaves is 1e-6 of a patient."""

SLACK = 1.0 - 1e-12
"""Keeps rounding of floating point from lengthening a clipped vector."""

_ROWS = 512


@dataclass(frozen=True)
class CellPlan:
    """What one release holds, the same at every site.

    Attributes:
        classes: K.
        attributes: name and number of values of each attribute that gets a table.
        directions: d, numbers of a latent in the public basis.
        covariance: whether the second moment is part of it.
    """

    classes: int
    attributes: tuple[tuple[str, int], ...]
    directions: int
    covariance: bool = True

    @property
    def tables(self) -> int:
        """Return m, tables of cells: the classes and one per attribute."""
        return 1 + len(self.attributes)

    @property
    def sensitivity(self) -> float:
        """Return the most that one patient moves everything together, L2."""
        return math.sqrt(2 * self.tables + int(self.covariance))

    @property
    def schema(self) -> Schema:
        """Return names and shapes of what is released, in the order of the flat vector."""
        d = self.directions
        shapes: dict[str, tuple[int, ...]] = {}
        shapes["class.count"], shapes["class.sum"] = (self.classes,), (self.classes, d)
        if self.covariance:
            shapes["second_moment"] = (d * (d + 1) // 2,)
        for name, values in self.attributes:
            shapes[f"attribute.{name}.count"] = (self.classes, values)
            shapes[f"attribute.{name}.sum"] = (self.classes, values, d)
        return tuple((name, shapes[name]) for name in sorted(shapes))

    @property
    def size(self) -> int:
        """Return D, the numbers of one release."""
        return sum(math.prod(shape) for _, shape in self.schema)


def clipped(latents: Array) -> Array:
    """Return `[N, d]` rows shortened to a length of at most 1; longer ones keep their direction."""
    lengths = np.linalg.norm(latents, axis=1, keepdims=True)
    rows: Array = latents * (SLACK / np.maximum(lengths, 1.0))
    return rows


def exact_cells(
    latents: Array, labels: Integers, attributes: Integers, patients: Integers, plan: CellPlan
) -> Integers:
    """Return `[D] int64`, the cells in grains without noise, in the order of `plan.schema`.

    Args:
        latents: `[N, d] float64` in units of the clip radius, finite; clipped here.
        labels: `[N]` class; -1 is left out of everything, and so of a patient's shares.
        attributes: `[N, m - 1]` value of each released attribute; -1 is left out of its table.
        patients: `[N]` equal for images of one patient.
        plan: what is released.

    Raises:
        ValueError: shapes disagree or a latent is not finite.
    """
    expected = (len(labels), plan.directions), (len(labels), len(plan.attributes))
    if (latents.shape, attributes.shape) != expected or not np.isfinite(latents).all():
        raise ValueError(f"expected finite latents and attributes of the shapes {expected}")
    kept = np.flatnonzero(labels >= 0)
    rows, classes = clipped(latents[kept].astype(np.float64)), labels[kept]
    _, patient, images = np.unique(patients[kept], return_inverse=True, return_counts=True)
    share = 1.0 / images[patient]
    arrays: dict[str, Integers] = {}
    arrays |= _table("class", (patient, classes), share, rows, (plan.classes,))
    if plan.covariance:
        arrays["second_moment"] = _second_moment(patient * plan.classes + classes, share, rows)
    for column, (name, values) in enumerate(plan.attributes):
        value = attributes[kept, column]
        known = np.flatnonzero(value >= 0)
        cell = classes[known] * values + value[known]
        where, shape = (patient[known], cell), (plan.classes, values)
        arrays |= _table(f"attribute.{name}", where, share[known], rows[known], shape)
    return np.concatenate([arrays[name].ravel() for name, _ in plan.schema])


def as_sum(integers: Integers, plan: CellPlan) -> Sum:
    """Return `[D]` grains as named arrays in patients and clip radii; the moment stays packed."""
    return Sum.unflatten(plan.schema, integers / GRAINS)


def unpacked(packed: Array, directions: int) -> Array:
    """Return the symmetric `[d, d]` of its upper triangle with off-diagonals times sqrt 2."""
    square = np.zeros((directions, directions))
    square[np.triu_indices(directions)] = packed
    square = (square + square.T) / math.sqrt(2.0)
    square[np.diag_indices(directions)] /= math.sqrt(2.0)
    return square


def _cut(values: NDArray[np.floating]) -> Integers:
    """Return whole grains, towards zero: never longer than the vector was."""
    return np.asarray(np.trunc(values * GRAINS), dtype=np.int64)


def _table(
    name: str,
    where: tuple[Integers, Integers],
    share: Array,
    rows: Array,
    shape: tuple[int, ...],
) -> dict[str, Integers]:
    """Return counts and sums of one table; each patient's part of a cell is cut on its own."""
    patient, cell = where
    cells = math.prod(shape)
    units, unit = np.unique(patient * cells + cell, return_inverse=True)
    part = np.bincount(unit, share, minlength=len(units))
    add = csr_array((share, (unit, np.arange(len(unit)))), shape=(len(units), len(unit)))
    count = np.zeros(cells, dtype=np.int64)
    total = np.zeros((cells, rows.shape[1]), dtype=np.int64)
    np.add.at(count, units % cells, _cut(part * SLACK))
    np.add.at(total, units % cells, _cut(add @ rows))
    return {
        f"{name}.count": count.reshape(shape),
        f"{name}.sum": total.reshape(*shape, -1),
    }


def _second_moment(pair: Integers, share: Array, rows: Array) -> Integers:
    """Return the packed second moment; `pair` names patient and class of each image."""
    units, unit = np.unique(pair, return_inverse=True)
    weight = np.bincount(unit, share, minlength=len(units))
    add = csr_array((share, (unit, np.arange(len(unit)))), shape=(len(units), len(unit)))
    spread = (add @ rows) / np.sqrt(weight)[:, None]
    upper = np.triu_indices(rows.shape[1])
    factor = np.where(upper[0] == upper[1], 1.0, math.sqrt(2.0))
    total = np.zeros(len(factor), dtype=np.int64)
    for start in range(0, len(units), _ROWS):
        block = spread[start : start + _ROWS]
        total += _cut(block[:, upper[0]] * block[:, upper[1]] * factor).sum(axis=0)
    return total
