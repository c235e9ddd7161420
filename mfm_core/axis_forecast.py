"""How good an axis will be after the noise, from numbers that are known before any release.

The released axis is the true one plus noise of the same size in every direction, so its cosine
with the true one is about 1 / sqrt(1 + r^2), with r the length of the noise over that of the axis:
r = deviation x B x sqrt(d) x sqrt(1/n1^2 + 1/n0^2) / |mu1 - mu0|, where the deviation is that of
the noise of every number, sigma Delta. Noise of the counts is left out; it matters only where the
count is so small that the cell is suppressed.

Source: design notes of this project, where the law met the measured table to 0.02.
What crosses the hospital's boundary: nothing; a site reads it before it agrees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mfm_core.private_cells import CellPlan
from mfm_core.sums import Array, Sum


@dataclass(frozen=True)
class AxisForecast:
    """One axis of a release to come.

    Attributes:
        axis: the class, or class and value of an attribute.
        n1, n0: patients on either side.
        length: of the true axis, in clip radii.
        cosine: expected, of the noisy axis with the true one inside the public directions; 0
            where a side is too small to be shown.
    """

    axis: str
    n1: float
    n0: float
    length: float
    cosine: float

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def axis_cosine(length: float, sides: tuple[float, float], deviation: float, d: int) -> float:
    """Return the expected cosine, 0 to 1.

    Args:
        length: of the true axis over the clip radius, >= 0.
        sides: patients n1 and n0.
        deviation: of the noise of every number, in patients; 0 without noise.
        d: public directions.
    """
    if min(sides) <= 0 or length <= 0:
        return 0.0
    noise = deviation * math.sqrt(d) * math.hypot(1 / sides[0], 1 / sides[1])
    return 1.0 / math.sqrt(1.0 + (noise / length) ** 2)


def forecast(
    exact: Sum, plan: CellPlan, classes: Sequence[str], deviation: float, smallest: float
) -> tuple[AxisForecast, ...]:
    """Return one row per class with patients, then one per attribute value within classes.

    Args:
        exact: cells without noise, of `plan.schema`; they stay where they are.
        plan: what would be released.
        classes: names of the K classes.
        deviation: of the noise that the released sum would have, in patients.
        smallest: least count of a cell that is shown.
    """
    counts, sums = exact["class.count"], exact["class.sum"]
    rows = []
    for index, name in enumerate(classes):
        sides = (float(counts[index]), float(counts.sum() - counts[index]))
        if sides[0] > 0 and sides[1] > 0:
            rest = (sums.sum(axis=0) - sums[index]) / sides[1]
            axis = sums[index] / sides[0] - rest
            rows.append(_row(name, axis, sides, (deviation, smallest)))
    for name, values in plan.attributes:
        count, total = exact[f"attribute.{name}.count"], exact[f"attribute.{name}.sum"]
        for value in range(values):
            rows += _value_rows(f"{name} {value}", count, total, value, (deviation, smallest))
    return tuple(rows)


def _value_rows(
    name: str, count: Array, total: Array, value: int, noise: tuple[float, float]
) -> list[AxisForecast]:
    """Return the class-conditional axis of one value against the others, if a class has both."""
    n1, n0 = count[:, value], count.sum(axis=1) - count[:, value]
    both = (n1 > 0) & (n0 > 0)
    if not both.any():
        return []
    omega = n1[both] * n0[both] / (n1[both] + n0[both])
    one = total[both, value] / n1[both, None]
    others = (total[both].sum(axis=1) - total[both, value]) / n0[both, None]
    axis = omega @ (one - others) / omega.sum()
    return [_row(name, axis, (float(n1[both].sum()), float(n0[both].sum())), noise)]


def _row(
    name: str, axis: Array, sides: tuple[float, float], noise: tuple[float, float]
) -> AxisForecast:
    deviation, smallest = noise
    length = float(np.linalg.norm(axis))
    shown = min(sides) >= smallest
    cosine = axis_cosine(length, sides, deviation, len(axis)) if shown else 0.0
    return AxisForecast(name, *sides, length, cosine)
