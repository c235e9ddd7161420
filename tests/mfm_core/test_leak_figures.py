"""Figures of attacks: exact ends, coverage, and bounds that no mechanism passes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from mfm_core.leak_figures import (
    auc_interval,
    auc_of,
    bounds_of,
    hits_at,
    strength_of,
)


def test_the_auc_is_that_of_sklearn_with_ties():
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 9, 30).astype(float), rng.integers(0, 7, 50).astype(float)
    truth = [1] * 30 + [0] * 50
    assert auc_of(members, others) == pytest.approx(roc_auc_score(truth, [*members, *others]))


def test_complete_separation_has_an_interval_that_is_neither_empty_nor_wide():
    low, high = auc_interval(1.0, 24, 24)
    assert 0.8 < low < 0.99 and high == 1.0
    assert auc_interval(0.0, 24, 24) == pytest.approx((1 - high, 1 - low))


def test_intervals_cover_what_they_promise():
    rng, away = np.random.default_rng(1), 0.8
    true_auc, true_tpr = norm.cdf(away / math.sqrt(2)), norm.sf(norm.isf(0.01) - away)
    covered = np.zeros(2)
    for _ in range(300):
        found = strength_of(rng.normal(away, 1, 60), rng.normal(0, 1, 150))
        tpr = found.hits[0].interval
        covered += [
            found.auc_interval[0] <= true_auc <= found.auc_interval[1],
            tpr[0] <= true_tpr <= tpr[1],
        ]
    assert covered[0] >= 0.92 * 300 and covered[1] >= 0.95 * 300


def test_guessing_shows_a_leak_no_more_often_than_its_level():
    rng, alarms = np.random.default_rng(2), np.zeros(2)
    for _ in range(300):
        found = strength_of(rng.normal(size=40), rng.normal(size=60))
        low, high = found.auc_interval
        alarms += [not low <= 0.5 <= high, found.hits[0].interval[0] > 0.01]
    assert alarms[0] <= 0.09 * 300 and alarms[1] <= 0.05 * 300


def test_hits_stand_above_what_one_in_a_hundred_passes():
    others = np.arange(1000.0)
    found = hits_at(0.01, np.array([988.5, 989.5, 990.5, 2000.0]), others)
    assert found.value == 0.75
    assert found.interval[0] < 0.75 < found.interval[1] <= 1


def test_bounds_hold_for_the_gaussian_mechanism_and_are_near_it():
    bound = bounds_of([(1.0, 1.0, 1)])
    exact = norm.cdf(1 / math.sqrt(2)), norm.sf(norm.isf(0.01) - 1.0)
    assert bound is not None
    assert exact[0] <= bound.auc <= exact[0] + 0.04
    assert exact[1] <= bound.hits[0] <= 2 * exact[1]


def test_no_noise_and_no_history_bound_nothing():
    assert bounds_of([]) is None and bounds_of([(0.0, 0.5, 3)]) is None


def test_more_noise_leaves_less():
    some, more = bounds_of([(1.0, 1.0, 1)]), bounds_of([(4.0, 1.0, 1)])
    assert some is not None and more is not None
    assert 0.5 <= more.auc < some.auc and 0.01 <= more.hits[0] < some.hits[0]
