"""95 % intervals of shares, ranks and gaps from a delete-a-group jackknife.

Patients fall at random into G groups; a figure is computed anew without each group, and the
spread of these G figures gives its variance, (G - 1) / G sum (f_g - mean)^2, with G - 1 degrees of
freedom (Kott 2001, "The delete-a-group jackknife", J. Official Statistics 17:521). Images of one
patient share a group, so that they are not taken for independent ones.

A figure in [0, 1] gets Wilson's interval for the number of patients that would give this variance
(as Korn and Graubard 1998 do for surveys), because value +- t s.e. collapses near 0 and 1: there
the number of patients itself is taken. A gap between several groups is the largest absolute
difference of two; its interval holds when those of all pairs hold (Bonferroni), each pair by
Zou and Donner (2008, "MOVER") from the two single intervals. Groups that share patients make that
interval wider than it need be, never narrower.
What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Literal

import numpy as np
from scipy.special import ndtri
from scipy.stats import t as student

from mfm_core.evaluation import DIGITS, Estimate
from mfm_core.sums import Array

GROUPS = 20
"""Random groups of patients (G)."""

LEVEL = 0.95

Kind = Literal["share", "rank", "error", "signed"]
"""A part of n images; a figure in [0, 1] that is no such part; a distance in [0, 1]; a figure in
[-1, 1]. The last two get a plain t interval."""

NOISE = 1e-12
"""A variance below this is rounding, not spread."""


@dataclass(frozen=True)
class Measured:
    """One figure before its interval.

    Attributes:
        value: the figure.
        variance: of the jackknife; NaN where a group holds all patients of a cell.
        patients: what a share of 0 or 1 rests on.
        n: images the figure is read from.
        kind: decides the shape of the interval.
    """

    value: float
    variance: float
    patients: float
    n: int
    kind: Kind = "share"

    def interval(self, comparisons: int = 1) -> tuple[float, float]:
        """Return the interval at 1 - 0.05 / comparisons; NaN where there is no variance."""
        if not math.isfinite(self.variance):
            return math.nan, math.nan
        t = quantile(comparisons)
        if self.kind in ("error", "signed"):
            reach, lowest = t * math.sqrt(self.variance), 0.0 if self.kind == "error" else -1.0
            return max(lowest, self.value - reach), min(1.0, self.value + reach)
        return wilson(self.value, self._effective_patients(), t)

    def _effective_patients(self) -> float:
        spread = self.value * (1.0 - self.value)
        if self.variance < NOISE or spread < NOISE:
            return max(self.patients, 1.0)
        found = spread / self.variance
        return min(found, float(self.n)) if self.kind == "share" else found


@cache
def quantile(comparisons: int) -> float:
    """Return the two-sided quantile of Student's t at 1 - 0.05 / comparisons."""
    return float(student.ppf(1.0 - (1.0 - LEVEL) / (2.0 * comparisons), GROUPS - 1))


def wilson(value: float, patients: float, t: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share of so many patients."""
    square = t * t / patients
    middle = (value + square / 2.0) / (1.0 + square)
    part = max(value * (1.0 - value), 0.0)
    spread = math.sqrt(part * square + square * square / 4.0) / (1.0 + square)
    return max(0.0, min(value, middle - spread)), min(1.0, max(value, middle + spread))


def share_interval(hits: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of `hits` out of n > 0 (Wilson 1927), within [0, 1]."""
    return wilson(hits / n, n, float(ndtri(0.5 + level / 2)))


def jackknife_variance(without: Array) -> Array:
    """Return the variance over the first axis of `[G, ...]`, the figures without each group."""
    groups = len(without)
    variance: Array = (groups - 1) * np.var(without, axis=0)
    return variance


def estimate_of(found: Measured | None, n: int = 0) -> Estimate:
    """Return the figure with its 95 % interval; None three times where nothing was measured."""
    if found is None:
        return Estimate(None, None, None, n)
    return _rounded(found.value, *found.interval(), found.n)


def gap_of(groups: Sequence[Measured | None]) -> Estimate:
    """Return the largest difference between any two groups, and its interval.

    Args:
        groups: one figure a group; None where a group has none. Fewer than two give None.

    Returns:
        value in [0, 1] (signed figures: [0, 2]); n counts the images of all groups compared.
    """
    return worst_of([groups])


def worst_of(families: Sequence[Sequence[Measured | None]]) -> Estimate:
    """Return the largest gap of several figures, e.g. of TPR and FPR for equalised odds.

    A family with fewer than two groups is left out; without any the estimate is None.
    """
    known = [[group for group in family if group is not None] for family in families]
    pairs = [pair for family in known for pair in combinations(family, 2)]
    if not pairs:
        return Estimate(None, None, None, sum(group.n for family in known for group in family))
    gaps = [abs(one.value - other.value) for one, other in pairs]
    ends = np.array([_pair(one, other, len(pairs)) for one, other in pairs])
    n = max(sum(group.n for group in family) for family in known)
    return _rounded(max(gaps), float(ends[:, 0].max()), float(ends[:, 1].max()), n)


def _pair(one: Measured, other: Measured, comparisons: int) -> tuple[float, float]:
    """Return the interval of the absolute difference of two figures."""
    (low_1, high_1), (low_0, high_0) = one.interval(comparisons), other.interval(comparisons)
    difference = one.value - other.value
    low = difference - math.hypot(one.value - low_1, high_0 - other.value)
    high = difference + math.hypot(high_1 - one.value, other.value - low_0)
    if not (math.isfinite(low) and math.isfinite(high)):
        return math.nan, math.nan
    largest = 2.0 if one.kind == "signed" else 1.0
    nearest = 0.0 if low <= 0.0 <= high else min(abs(low), abs(high))
    return nearest, min(largest, max(abs(low), abs(high)))


def _rounded(value: float, low: float, high: float, n: int) -> Estimate:
    if not (math.isfinite(low) and math.isfinite(high)):
        return Estimate(round(value, DIGITS), None, None, n)
    return Estimate(round(value, DIGITS), round(low, DIGITS), round(high, DIGITS), n)
