"""Updates in 8 bits a number: rotated, clipped, rounded at random, so that 16-bit sums are fair.

A rotation that everybody knows spreads an update evenly over its coordinates, so one step width
fits all of them; rounding at random keeps the mean right. A site's contribution is weighted by its
share of images before rounding, because a masked sum cannot be weighted afterwards.

Source: Suresh et al. 2017, "Distributed Mean Estimation with Limited Communication" (stochastic
rotated quantisation, section 3); here with a public permutation and Hadamard blocks of 4096.
What crosses the hospital's boundary: nothing here; the integers leave masked, through the outbox.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

from mfm_core.sums import Array

BLOCK, SIDE = 4096, 64
LEVELS = 127
"""Largest integer of a site: 8 bits with a sign."""

SPREAD = 5.0
"""Standard deviations of a rotated coordinate that are kept; beyond, 1 in 2 million is clipped."""


@dataclass(frozen=True)
class Grain:
    """How one exchange's updates become integers; the same at every site.

    Attributes:
        size: D, numbers of an update.
        norm: longest update, L2; a longer one is scaled down to it.
        seed: of the public rotation.
    """

    size: int
    norm: float
    seed: int

    @property
    def padded(self) -> int:
        """Return how many integers an update becomes: D, filled up to whole blocks."""
        return -(-self.size // BLOCK) * BLOCK

    @property
    def step(self) -> float:
        """Return the width of one integer."""
        return SPREAD * self.norm / (LEVELS * float(np.sqrt(self.padded)))


def quantise(
    update: NDArray[np.floating], weight: float, grain: Grain, draw: np.random.Generator
) -> NDArray[np.int16]:
    """Return `[P] int16` in [-127, 127]: the rotated, clipped and weighted update.

    Args:
        update: `[D]` change of the weights.
        weight: in (0, 1], this site's images over those of the largest site.
        grain: width and rotation.
        draw: the site's own randomness for rounding.
    """
    flat = np.zeros(grain.padded)
    flat[: grain.size] = update
    length = float(np.linalg.norm(flat))
    scale = weight / grain.step * min(1.0, grain.norm / length if length > 0 else 1.0)
    order, signs = _rotation(grain)
    turned = _spread((flat * signs)[order] * scale)
    rounded = np.floor(turned + draw.random(grain.padded))
    return np.clip(rounded, -LEVELS, LEVELS).astype(np.int16)


def dequantise(total: NDArray[np.int16], grain: Grain) -> Array:
    """Return `[D] float64`, the sum of weight x update that `[P] int16` sums stand for."""
    order, signs = _rotation(grain)
    turned = np.empty(grain.padded)
    turned[order] = _spread(total.astype(np.float64) * grain.step)
    return (turned * signs)[: grain.size]


def _rotation(grain: Grain) -> tuple[NDArray[np.int64], Array]:
    """Return the public order `[P]` and signs `[P]` of an exchange."""
    public = np.random.default_rng(grain.seed)
    order = public.permutation(grain.padded)
    return order, np.where(public.integers(0, 2, grain.padded) == 1, 1.0, -1.0)


def _spread(flat: Array) -> Array:
    """Return each block times the orthonormal Hadamard matrix, which is its own inverse."""
    turn = hadamard(SIDE).astype(np.float64) / np.sqrt(SIDE)
    blocks = flat.reshape(-1, SIDE, SIDE)
    return np.asarray((turn @ blocks @ turn).reshape(-1))
