"""Epsilon against two independent accounts: dp-accounting's loss distributions, and exact curves.

`ORACLE` holds what dp-accounting 0.6.0 answers (`pld.PLDAccountant`, add or remove one,
discretisation 1e-4, `PoissonSampledDpEvent(rate, GaussianDpEvent(noise))`). That package asks for
an attrs that other pins rule out, so its figures stand here instead of an import.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from mfm_core import accounting
from mfm_core.accounting import EPSILON_ERROR, Spending, epsilon_of, steps_within

ORACLE: list[tuple[list[Spending], float, float]] = [
    ([(1.0, 0.01, 1000)], 1e-6, 2.1245225),
    ([(1.0, 0.01, 1)], 1e-6, 0.3639479),
    ([(1.0, 0.05, 400)], 1e-5, 6.6999696),
    ([(0.6, 0.02, 500)], 1e-6, 11.9062391),
    ([(2.0, 0.2, 2000)], 1e-6, 33.1471713),
    ([(4.0, 0.5, 1000)], 1e-5, 24.3805577),
    ([(1.0, 1.0, 1)], 1e-5, 4.3771781),
    ([(5.0, 1.0, 10)], 1e-6, 2.9216007),
    ([(0.4, 0.1, 40)], 1e-6, 38.7457098),
    ([(8.0, 0.3, 40)], 1e-6, 1.0353162),
    ([(1.0, 0.01, 500), (0.8, 0.03, 200), (2.0, 0.2, 100)], 1e-6, 7.9380647),
    ([(1.0, 0.02, 40)], 1e-8, 2.1192442),
    ([(1.0, 0.001, 10000)], 1e-6, 0.5553923),
    ([(20.0, 0.1, 100)], 1e-6, 0.1910439),
    ([(1.5, 0.32, 40)], 1e-6, 8.6738758),
]
DELTA = 1e-6


def exact_gaussian(noise: float, steps: int, delta: float) -> float:
    """Balle and Wang, ICML 2018, equation 6, for steps that take everything."""
    mu = math.sqrt(steps) / noise

    def excess(epsilon: float) -> float:
        first = norm.cdf(mu / 2 - epsilon / mu)
        return float(first - math.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu)) - delta)

    return float(brentq(excess, 0, 200))


@pytest.mark.parametrize(("history", "delta", "expected"), ORACLE)
def test_epsilon_is_the_oracles_and_never_below_it(
    history: list[Spending], delta: float, expected: float
) -> None:
    found = epsilon_of(history, delta)
    assert expected - 0.001 <= found <= expected + 1.3 * EPSILON_ERROR


@pytest.mark.parametrize(("noise", "steps"), [(5.0, 1), (5.0, 10), (2.0, 3), (10.0, 40)])
def test_without_sampling_it_is_the_exact_gaussian_curve(noise: float, steps: int) -> None:
    exact = exact_gaussian(noise, steps, DELTA)
    assert exact <= epsilon_of([(noise, 1.0, steps)], DELTA) <= exact + 1.1 * EPSILON_ERROR


def test_the_fallback_is_an_upper_bound_near_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "MOST_POINTS", 0)
    accounting._epsilon.cache_clear()
    for history, delta, expected in ORACLE:
        near = 1.3 * expected + 1.0 if expected < 35 else math.inf
        assert expected <= epsilon_of(history, delta) <= near
    accounting._epsilon.cache_clear()


def test_a_failing_accountant_leaves_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from opacus.accountants import PRVAccountant

    def fail(self: object, delta: float, **_: float) -> float:
        raise RuntimeError("Cannot compute epsilon")

    accounting._epsilon.cache_clear()
    monkeypatch.setattr(PRVAccountant, "get_epsilon", fail)
    assert 2.13 < epsilon_of([(1.0, 0.01, 1000)], DELTA) < 2.6
    accounting._epsilon.cache_clear()


def test_it_grows_with_every_step_with_the_rate_and_with_less_noise() -> None:
    counts = [*range(1, 12), 20, 50, 51, 52, 120]
    by_steps = [epsilon_of([(1.0, 0.02, count)], DELTA) for count in counts]
    by_rate = [epsilon_of([(1.0, rate, 20)], DELTA) for rate in (0.005, 0.02, 0.021, 0.1, 0.5, 1)]
    by_noise = [epsilon_of([(noise, 0.02, 20)], DELTA) for noise in (8.0, 2.0, 1.1, 1.0, 0.5)]
    for line in (by_steps, by_rate, by_noise):
        assert (np.diff(line) > 0).all()


def test_order_and_splitting_of_the_history_do_not_matter() -> None:
    whole = epsilon_of([(1.0, 0.02, 60), (2.0, 0.1, 10)], DELTA)
    parts = epsilon_of([(1.0, 0.02, 20), (2.0, 0.1, 10), (1.0, 0.02, 40)], DELTA)
    assert parts == whole
    accounting._epsilon.cache_clear()
    assert epsilon_of([(2.0, 0.1, 10), (1.0, 0.02, 60)], DELTA) == whole


def test_nothing_costs_nothing_and_no_noise_costs_everything() -> None:
    assert epsilon_of([], DELTA) == 0.0
    assert epsilon_of([(1.0, 0.5, 0), (1.0, 0.0, 10)], DELTA) == 0.0
    assert epsilon_of([(1.0, 0.02, 10), (0.0, 0.02, 1)], DELTA) == math.inf
    assert epsilon_of([(0.01, 0.5, 10**6)], DELTA) > 1e6


def test_steps_within_is_the_last_that_fits() -> None:
    before, step = [(2.0, 0.1, 10)], (1.0, 0.05)
    found = steps_within(3.0, before, step, DELTA, 400)
    assert 0 < found < 400
    assert epsilon_of([*before, (*step, found)], DELTA) <= 3.0
    assert epsilon_of([*before, (*step, found + 1)], DELTA) > 3.0
    assert steps_within(1000.0, before, step, DELTA, 7) == 7
    assert steps_within(0.01, before, step, DELTA, 7) == 0


@pytest.mark.parametrize(
    ("history", "delta", "words"),
    [
        ([], 0.0, "delta"),
        ([], 1.0, "delta"),
        ([(-1.0, 0.1, 1)], DELTA, "noise"),
        ([(math.nan, 0.1, 1)], DELTA, "noise"),
        ([(1.0, 1.1, 1)], DELTA, "sample rate"),
        ([(1.0, 0.1, -1)], DELTA, "steps"),
    ],
)
def test_numbers_outside_their_range_are_refused(
    history: list[Spending], delta: float, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        epsilon_of(history, delta)
