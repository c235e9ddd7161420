"""What private steps cost: epsilon of any history of them, and how many more a limit allows.

A step takes every unit (image or patient) with probability `sample_rate`, on its own (Poisson
sampling), adds up their clipped gradients and adds Gaussian noise of `noise_multiplier` times the
clip. Two data sets are neighbours if one holds one unit more. Opacus's PRV accountant (Gopi, Lee,
Wutschitz, "Numerical composition of differential privacy", NeurIPS 2021) composes any mix of such
steps; its upper bound is returned, at most about 0.011 above the exact value. Where its mesh
would not fit, Renyi DP at whole orders (Mironov, Talwar, Zhang, arXiv:1908.10530) bounds epsilon
from above in its place. The figures hold only if the sampling is the one named here.
Where every step takes every unit, as a release does, the closed form of the Gaussian mechanism
answers, without any error.
What crosses the hospital's boundary: nothing here; a site's ledger writes the figures down.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache

from mfm_core.discrete_noise import gaussian_epsilon

Spending = tuple[float, float, int]
"""(noise_multiplier, sample_rate, steps)."""

EPSILON_ERROR = 0.01
"""What the mesh of the PRV accountant may add to epsilon."""

MOST_POINTS = 8_000_000
"""Points of the mesh; beyond this Renyi DP answers. Reached at some 10,000 steps of epsilon 100."""

ORDERS = [*range(2, 65), *range(72, 257, 8), 320, 384, 512, 768, 1024]
"""Whole orders of Renyi DP: their closed form is exact, the series of fractional ones is not."""


def epsilon_of(history: Sequence[Spending], delta: float) -> float:
    """Return epsilon of all steps together, >= 0; infinite where a step has no noise.

    The order of the history does not matter, and equal entries add up. The figure grows with every
    step, with the sample rate and with less noise. Answers are kept, so asking again is free.

    Args:
        history: (noise multiplier >= 0, sample rate in [0, 1], number of steps >= 0) each.
        delta: in (0, 1); choose it well below one over the number of units.

    Raises:
        ValueError: a number is outside its range; all problems are listed.
    """
    _refuse_wrong_numbers(history, delta)
    steps: dict[tuple[float, float], int] = {}
    for noise, rate, count in history:
        if rate > 0 and count > 0:
            steps[noise, rate] = steps.get((noise, rate), 0) + count
    return _epsilon(tuple(sorted((*kind, count) for kind, count in steps.items())), delta)


def steps_within(
    limit: float, history: Sequence[Spending], step: tuple[float, float], delta: float, most: int
) -> int:
    """Return how many further steps keep epsilon at or below `limit`, 0 to `most`.

    Args:
        limit: largest epsilon.
        history: what was spent before.
        step: (noise multiplier, sample rate) of every further step.
        delta: as in `epsilon_of`.
        most: number of steps asked for.

    Raises:
        ValueError: a number is outside its range.
    """

    def fits(count: int) -> bool:
        return epsilon_of([*history, (*step, count)], delta) <= limit

    if fits(most):
        return most
    low, high = -1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return max(low, 0)


def _refuse_wrong_numbers(history: Sequence[Spending], delta: float) -> None:
    problems = []
    if not 0 < delta < 1:
        problems.append(f"delta is in (0, 1), found {delta}")
    for noise, rate, count in history:
        if not (math.isfinite(noise) and noise >= 0):
            problems.append(f"a noise multiplier is finite and at least 0, found {noise}")
        if not 0 <= rate <= 1:
            problems.append(f"a sample rate is in [0, 1], found {rate}")
        if count != int(count) or count < 0:
            problems.append(f"a number of steps is whole and at least 0, found {count}")
    if problems:
        raise ValueError("; ".join(problems))


@lru_cache(maxsize=4096)
def _epsilon(history: tuple[Spending, ...], delta: float) -> float:
    if not history:
        return 0.0
    if any(noise == 0 for noise, _, _ in history):
        return math.inf
    if all(rate == 1 for _, rate, _ in history):
        together = sum(steps / noise**2 for noise, _, steps in history)
        return gaussian_epsilon(1 / math.sqrt(together), delta)
    bound = _renyi(history, delta)
    if not math.isfinite(bound) or _points(history, delta) > MOST_POINTS:
        return bound
    return min(bound, _prv(history, delta))


def _renyi(history: tuple[Spending, ...], delta: float) -> float:
    """Return the bound of Renyi DP, never below 0."""
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = list(history)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the best order is the first or the last
            epsilon = float(accountant.get_epsilon(delta, alphas=ORDERS))
    except (ValueError, ArithmeticError):
        return math.inf
    return max(epsilon, 0.0) if not math.isnan(epsilon) else math.inf


def _points(history: tuple[Spending, ...], delta: float) -> float:
    """Return how many points the PRV accountant's mesh would have, about."""
    count = sum(steps for _, _, steps in history)
    error = delta / 1000
    reach = _renyi(history, error / 4) + 3
    return 2 * reach / EPSILON_ERROR * math.sqrt(count * math.log(12 / error) / 2)


def _prv(history: tuple[Spending, ...], delta: float) -> float:
    """Return the upper bound of the PRV accountant; infinite where it finds none."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = list(history)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # logarithm of 0 at a sample rate of 1
            epsilon = float(accountant.get_epsilon(delta, eps_error=EPSILON_ERROR))
    except (ValueError, ArithmeticError, RuntimeError, MemoryError):
        return math.inf
    return epsilon if epsilon > 0 else math.inf
