"""Fixed point in a ring: the plain sum's bits, and masks that vanish."""

from __future__ import annotations

import os

import numpy as np
import pytest

from mfm_core.errors import ConfigError
from mfm_core.sums import Accumulator
from strategies.ring import MOST_SITES, from_ring, stream, to_ring


def test_a_sum_in_the_ring_has_the_bits_of_the_plain_sum():
    draw = np.random.default_rng(0)
    parts = [draw.normal(0, 10.0 ** draw.integers(-9, 6), 500) for _ in range(9)]
    plain, ring = Accumulator(500), np.zeros(500, np.uint64)
    for part in parts:
        plain.add(part)
        ring = ring + to_ring(part)
    np.testing.assert_array_equal(from_ring(ring), plain.result())


def test_numbers_that_would_wrap_round_are_refused():
    fits = np.array([2.0**31 / MOST_SITES * 0.999])
    total = np.zeros(1, np.uint64)
    for _ in range(MOST_SITES):
        total = total + to_ring(fits)
    assert from_ring(total)[0] == pytest.approx(MOST_SITES * fits[0], rel=1e-12)
    for wrong in (2.0**31 / MOST_SITES, -1e9, np.inf, np.nan):
        with pytest.raises(ConfigError, match="secure sum"):
            to_ring(np.array([0.0, wrong]))


@pytest.mark.parametrize("kind", [np.uint16, np.uint64])
def test_a_mask_hides_and_goes_without_a_trace(kind):
    key = os.urandom(32)
    noise = stream(key, 40_000, kind)
    small = np.arange(40_000).astype(kind)
    masked = small + noise
    np.testing.assert_array_equal(masked - noise, small)
    top = masked >> np.dtype(kind).type(8 * np.dtype(kind).itemsize - 4)
    counts = np.bincount(top.astype(np.int64), minlength=16)
    assert abs(counts - 2500).max() < 320, "the masked numbers are not spread evenly"
    assert not np.array_equal(stream(os.urandom(32), 40_000, kind), noise)
