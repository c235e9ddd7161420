"""Discrete Gaussian noise on integers, and how much of it an epsilon asks for.

Noise on integers has no low bits that floating point could betray: the noisy numbers are whole
multiples of one grain, as the exact ones were. OpenDP draws it from the operating system's random
numbers, so no seed leads to it.

Accounting is that of the Gaussian mechanism in closed form (Balle and Wang, "Improving the Gaussian
Mechanism for Differential Privacy", ICML 2018, theorem 8). Its standard deviations here are beyond
10,000 grains, where discrete and continuous noise differ by far less than any figure shown; the
discrete one keeps the same concentrated privacy exactly (Canonne, Kamath, Steinke, "The Discrete
Gaussian for Differential Privacy", NeurIPS 2020, theorem 14).
What crosses the hospital's boundary: nothing here; `client.private_release` releases what is noisy.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr

Integers = NDArray[np.int64]
MOST_EPSILON = 1000.0
UPWARDS = 1 + 1e-7
"""Rounding of the root search never makes a figure too small."""

MOST_GRAINS = 2.0**40
"""Largest standard deviation; sums of sites stay far inside 62 bits."""


def with_noise(exact: Integers, deviation: float) -> Integers:
    """Return `[D] int64`: the numbers plus independent discrete Gaussian noise.

    Args:
        exact: `[D] int64`.
        deviation: standard deviation in grains, > 0 and at most MOST_GRAINS.

    Raises:
        ValueError: the deviation is outside its range.
    """
    if not 0 < deviation <= MOST_GRAINS:
        raise ValueError(f"expected a deviation in (0, {MOST_GRAINS:g}], found {deviation:g}")
    drawn = np.array(_mechanism(float(deviation))([0] * len(exact)), dtype=np.int64)
    return np.asarray(exact, dtype=np.int64) + drawn


@lru_cache(maxsize=8)
def _mechanism(deviation: float) -> Any:
    import opendp.prelude as dp  # seconds, and most processes draw no noise

    dp.enable_features("contrib")
    domain = dp.vector_domain(dp.atom_domain(T="i64"))
    return dp.m.make_gaussian(domain, dp.l2_distance(T="f64"), deviation)


def gaussian_delta(epsilon: float, noise_multiplier: float) -> float:
    """Return the smallest delta of one Gaussian release at this epsilon.

    Args:
        epsilon: >= 0.
        noise_multiplier: standard deviation over the L2 sensitivity, > 0.
    """
    reach = 1.0 / noise_multiplier
    near = math.exp(float(log_ndtr(reach / 2 - epsilon / reach)))
    far = epsilon + float(log_ndtr(-reach / 2 - epsilon / reach))
    return max(0.0, near - math.exp(far)) if far < 700 else 0.0


def gaussian_epsilon(noise_multiplier: float, delta: float) -> float:
    """Return epsilon of one Gaussian release, >= 0; infinite beyond MOST_EPSILON.

    Several releases compose exactly: take 1 / sqrt(sum of 1 / noise_multiplier**2).

    Raises:
        ValueError: a number is outside its range.
    """
    if not (noise_multiplier > 0 and 0 < delta < 1):
        raise ValueError(f"noise {noise_multiplier} and delta {delta} must be > 0, delta < 1")
    if gaussian_delta(0.0, noise_multiplier) <= delta:
        return 0.0
    if gaussian_delta(MOST_EPSILON, noise_multiplier) > delta:
        return math.inf
    root = brentq(lambda e: gaussian_delta(e, noise_multiplier) - delta, 0.0, MOST_EPSILON)
    return float(root) * UPWARDS


def noise_multiplier_for(epsilon: float, delta: float) -> float:
    """Return the least noise multiplier of one Gaussian release that keeps epsilon.

    Args:
        epsilon: in (0, 100].
        delta: in (0, 1).

    Raises:
        ValueError: a number is outside its range.
    """
    if not (0 < epsilon <= 100 and 0 < delta < 1):
        raise ValueError(f"epsilon {epsilon} must be in (0, 100], delta {delta} in (0, 1)")
    found = brentq(lambda noise: gaussian_delta(epsilon, noise) - delta, 1e-3, 1e6, xtol=1e-12)
    return float(found) * UPWARDS
