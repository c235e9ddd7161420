"""8-bit updates: the mean stays right, the width fits, 256 sites never overflow 16 bits."""

from __future__ import annotations

import numpy as np
import pytest

from strategies.quantise import BLOCK, LEVELS, Grain, dequantise, quantise


def update_of(size: int, seed: int) -> np.ndarray:
    """Return an update with a few large numbers and many small ones, like a real one."""
    draw = np.random.default_rng(seed)
    return draw.normal(0, 1, size) * np.where(np.arange(size) < size // 50, 10.0, 0.1)


def test_what_comes_back_is_close_to_what_went_in():
    update = update_of(9000, 0)
    grain = Grain(9000, float(np.linalg.norm(update)) * 1.2, seed=3)
    back = dequantise(quantise(update, 1.0, grain, np.random.default_rng(1)), grain)
    assert np.linalg.norm(back - update) <= 0.03 * np.linalg.norm(update)


def test_rounding_is_right_on_average():
    update = update_of(500, 1)
    grain = Grain(500, float(np.linalg.norm(update)), seed=0)
    draw, total = np.random.default_rng(2), np.zeros(500)
    for _ in range(200):
        total += dequantise(quantise(update, 1.0, grain, draw), grain)
    one = dequantise(quantise(update, 1.0, grain, draw), grain)
    error, single = np.linalg.norm(total / 200 - update), np.linalg.norm(one - update)
    assert error < single / 8, "the mean of 200 draws must be far closer than one draw"


def test_the_sum_of_weighted_updates_is_the_weighted_sum():
    updates = [update_of(3000, seed) for seed in range(5)]
    images = np.array([620, 400, 240, 90, 31])
    grain = Grain(3000, max(float(np.linalg.norm(u)) for u in updates), seed=7)
    draw, total = np.random.default_rng(0), np.zeros(grain.padded, np.int16)
    for update, count in zip(updates, images, strict=True):
        total += quantise(update, count / images.max(), grain, draw)
    mean = dequantise(total, grain) * images.max() / images.sum()
    expected = sum(u * n for u, n in zip(updates, images, strict=True)) / images.sum()
    assert np.linalg.norm(mean - expected) <= 0.05 * np.linalg.norm(expected)


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_integers_keep_to_their_range_whatever_comes(size):
    grain = Grain(size, 1.0, seed=0)
    spike = np.zeros(size)
    spike[0] = 1e9
    found = quantise(spike, 1.0, grain, np.random.default_rng(0))
    assert found.shape == (grain.padded,)
    assert abs(found.astype(int)).max() <= LEVELS
    back = dequantise(found, grain)
    assert np.linalg.norm(back) <= 1.1, "a longer update must be scaled down to the norm"


def test_nothing_becomes_nothing():
    grain = Grain(100, 1.0, seed=0)
    assert not quantise(np.zeros(100), 0.5, grain, np.random.default_rng(0)).any()
