"""The noise is a discrete Gaussian of the promised size, and epsilon is what an oracle says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mfm_core.accounting import epsilon_of
from mfm_core.discrete_noise import (
    gaussian_delta,
    gaussian_epsilon,
    noise_multiplier_for,
    with_noise,
)

TABLE = {1: 4.2247, 2: 2.2300, 4: 1.1937, 8: 0.6532}
"""sigma at delta 1e-6, of Balle and Wang's algorithm in another library."""


@pytest.mark.parametrize("epsilon", list(TABLE))
def test_noise_for_an_epsilon(epsilon: int) -> None:
    sigma = noise_multiplier_for(epsilon, 1e-6)
    assert sigma == pytest.approx(TABLE[epsilon], abs=2e-3)
    assert gaussian_epsilon(sigma, 1e-6) == pytest.approx(epsilon, abs=1e-6)
    assert gaussian_delta(epsilon, sigma) <= 1e-6


def test_releases_compose_in_the_ledger_as_one_gaussian() -> None:
    twice = epsilon_of([(2.0, 1.0, 1), (2.0, 1.0, 1)], 1e-6)
    assert twice == pytest.approx(gaussian_epsilon(math.sqrt(2.0), 1e-6))
    assert epsilon_of([(2.0, 1.0, 1)], 1e-6) < twice
    mixed = epsilon_of([(2.0, 1.0, 1), (1.0, 0.01, 10)], 1e-6)
    assert mixed > epsilon_of([(2.0, 1.0, 1)], 1e-6)


def test_the_noise_is_whole_numbers_of_the_promised_spread() -> None:
    exact = np.arange(20_000, dtype=np.int64)
    noise = with_noise(exact, 1000.5) - exact
    assert noise.dtype == np.int64
    assert noise.std() == pytest.approx(1000.5, rel=0.03)
    assert abs(noise.mean()) < 5 * 1000.5 / math.sqrt(len(noise))
    assert np.mean(np.abs(noise) > 1.96 * 1000.5) == pytest.approx(0.05, abs=0.01)
    assert not np.array_equal(noise, with_noise(exact, 1000.5) - exact)


def test_small_noise_is_a_discrete_gaussian() -> None:
    noise = with_noise(np.zeros(40_000, dtype=np.int64), 0.6)
    values = np.arange(-4, 5)
    weights = np.exp(-(values**2) / (2 * 0.6**2))
    shares = [float(np.mean(noise == value)) for value in values]
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.015)


@pytest.mark.parametrize("deviation", [0.0, -1.0, math.nan, math.inf])
def test_no_noise_is_refused(deviation: float) -> None:
    with pytest.raises(ValueError, match="deviation"):
        with_noise(np.zeros(2, dtype=np.int64), deviation)


def test_numbers_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match="epsilon"):
        noise_multiplier_for(0.0, 1e-6)
    with pytest.raises(ValueError, match="delta"):
        gaussian_epsilon(1.0, 1.0)
    assert gaussian_epsilon(1e-3, 1e-6) == math.inf
