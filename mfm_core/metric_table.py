"""Metrics as histograms of fixed bins that add, and figures with 95 % intervals read from them.

A metric's values are rounded to the nearest of `points` even steps from `low` to `high`; what lies
outside counts at the end. One histogram holds one value a patient, so it is a sample of patients,
and an interval can be drawn from it without any patient's row:

- a share: Wilson's score interval (Wilson, JASA 1927), which stays honest at 0 and 1;
- a median: order statistics (the binomial interval; distribution-free), none below 6 values;
- a mean: percentiles of 2,000 bootstrap samples of the histogram, none below MEAN_NEEDS values.

Goals are those of the explanation metrics (ours; the paper scores no explanation). A difference of
two methods on the same image (`paired`) meets its goal when its whole interval lies above 0.
What crosses the hospital's boundary: the histograms, inside a Sum. Values rounded to a grid are
still values of single patients where a row holds few of them; see `smallest` in
`explanation_sums`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from mfm_core.config import OntologyConfig
from mfm_core.intervals import share_interval
from mfm_core.sums import Array

METHOD_NAMES = (
    "class_shift",
    "counterfactual",
    "located_change",
    "latent_gradient",
    "grad_cam",
    "integrated_gradients",
)
"""The compared methods of explanation, in the order of every table."""

OWN_METHOD = "class_shift"
"""The method whose curve is scored."""

PLACE_METHOD = "located_change"
"""The method whose map is compared with the others' maps, image by image."""

REPLICATES = 2000
MEAN_NEEDS = 5
LEVEL = 0.95
DIGITS = 6

Statistic = Literal["share", "median", "mean"]


@dataclass(frozen=True)
class Metric:
    """One metric: its grid of values, what is reported of them and what is wished for.

    Attributes:
        family: what is measured, e.g. "iou".
        part: the method or attribute that it is measured for, or empty.
        low, high: ends of the grid; values outside count at the ends.
        points: numbers of the grid, both ends among them.
        statistic: what is reported.
        goal: the wished value, None where there is none.
        at_most: the goal is an upper bound.
        paired: a difference of two methods on one image; its goal is an interval above `goal`.
    """

    family: str
    low: float
    high: float
    points: int
    statistic: Statistic
    goal: float | None = None
    at_most: bool = False
    paired: bool = False
    part: str = ""

    @property
    def name(self) -> str:
        """Return the name of the histogram: the family, a dot and the part."""
        return f"{self.family}.{self.part}" if self.part else self.family

    @property
    def grid(self) -> Array:
        """Return `[points] float64`, the values that the bins stand for."""
        return np.linspace(self.low, self.high, self.points)

    def place(self, values: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the bin of each finite value, `[N] int64`."""
        step = (self.high - self.low) / (self.points - 1)
        bins = np.rint((np.asarray(values, dtype=np.float64) - self.low) / step)
        placed: NDArray[np.int64] = np.clip(bins, 0, self.points - 1).astype(np.int64)
        return placed


@dataclass(frozen=True)
class Figure:
    """One figure: value, 95 % interval, patients behind it, goal and whether it is met.

    None stands for what is not defined: no patient, too few for an interval, no goal.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    goal: float | None
    met: bool | None


_SINGLE = (
    # Spearman's coefficient of 11 steps without ties takes exactly the values of this grid.
    Metric("spearman", -1, 1, 221, "median", 0.95),
    Metric("strictly_monotone", 0, 1, 2, "share", 0.9),
    Metric("flip_rate", 0, 1, 2, "share", 0.9),
    Metric("flip_alpha", 0, 2, 6, "median"),
    Metric("cycle", 0, 2, 201, "median", 0.15, at_most=True),
    Metric("ssim", 0, 1, 101, "median", 0.85),
    Metric("ssim_outside", 0, 1, 101, "median", 0.95),
    Metric("ssim_whole", 0, 1, 101, "median"),
    Metric("sanity_labels", -1, 1, 101, "median", 0.3, at_most=True),
)

_BY_METHOD = (
    Metric("iou", 0, 1, 201, "mean"),
    Metric("pointing", 0, 1, 2, "share"),
    Metric("sanity_head", -1, 1, 101, "median", 0.3, at_most=True),
    Metric("deletion", -1, 1, 201, "mean", 0.0, paired=True),
    Metric("insertion", -1, 1, 201, "mean", 0.0, paired=True),
)

_AGAINST_METHOD = (
    Metric("iou_gain", -1, 1, 201, "mean", 0.0, paired=True),
    Metric("pointing_gain", -1, 1, 3, "mean", 0.0, paired=True),
)

_COLLATERAL = Metric("collateral", 0, 2, 201, "median", 0.1, at_most=True)


def metrics_of(ontology: OntologyConfig) -> tuple[Metric, ...]:
    """Return every metric of the table, in a fixed order.

    Families without a part stand first; then one metric per attribute of the ontology, per method
    and per method that `PLACE_METHOD` is compared with.
    """
    others = [name for name in METHOD_NAMES if name != PLACE_METHOD]
    return (
        *_SINGLE,
        *_for_each([_COLLATERAL], ontology.attributes),
        *_for_each(_BY_METHOD, METHOD_NAMES),
        *_for_each(_AGAINST_METHOD, others),
    )


def _for_each(families: Iterable[Metric], parts: Iterable[str]) -> list[Metric]:
    names = tuple(parts)
    return [Metric(**{**vars(metric), "part": name}) for metric in families for name in names]


def figure_of(metric: Metric, histogram: Array, seed: int = 0) -> Figure:
    """Return the figure of one histogram.

    Args:
        metric: what the histogram holds.
        histogram: `[points]` counts of patients; parts of one are rounded.
        seed: of the bootstrap of a mean.
    """
    counts = np.rint(histogram).astype(np.int64)
    n = int(counts.sum())
    if n == 0:
        return Figure(None, None, None, 0, metric.goal, None)
    ends: tuple[float, float] | None
    if metric.statistic == "share":
        value, ends = counts[-1] / n, share_interval(int(counts[-1]), n, LEVEL)
    elif metric.statistic == "median":
        values = np.repeat(metric.grid, counts)
        value, ends = float(np.median(values)), _order_interval(values)
    else:
        value = float(counts @ metric.grid / n)
        ends = _bootstrap(counts, metric.grid, seed)
    low, high = (None, None) if ends is None else (_short(ends[0]), _short(ends[1]))
    return Figure(_short(value), low, high, n, metric.goal, _met(metric, _short(value), low))


def _met(metric: Metric, value: float, low: float | None) -> bool | None:
    if metric.goal is None:
        return None
    if metric.paired:
        return None if low is None else low > metric.goal
    return value <= metric.goal if metric.at_most else value >= metric.goal


def _short(value: float) -> float:
    return round(float(value), DIGITS)


def _order_interval(values: Array) -> tuple[float, float] | None:
    """Return the interval of the median from sorted values: order statistics r and n - r + 1.

    It covers the median with probability 1 - 2 P(Binomial(n, 1/2) < r); below six values even the
    two ends cover less than 95 %.
    """
    n = len(values)
    rank = int(binom.ppf((1 - LEVEL) / 2, n, 0.5))
    if rank < 1 or 2 * binom.cdf(rank - 1, n, 0.5) > 1 - LEVEL:
        return None
    return float(values[rank - 1]), float(values[n - rank])


def _bootstrap(counts: NDArray[np.int64], grid: Array, seed: int) -> tuple[float, float] | None:
    """Return percentiles of the mean over resampled patients."""
    n = int(counts.sum())
    if n < MEAN_NEEDS:
        return None
    held = np.flatnonzero(counts)
    drawn = np.random.default_rng(seed).multinomial(n, counts[held] / n, REPLICATES)
    means = drawn @ grid[held] / n
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, (tail, 100 - tail))
    return float(low), float(high)
