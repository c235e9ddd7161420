"""The mean test against its formula, the span test against a covariance that knows too much."""

from __future__ import annotations

import numpy as np
import pytest

from mfm_core.leak_figures import strength_of
from mfm_core.mean_membership import expected_auc, mean_scores, span_scores, weights_of


def world(members: int, others: int, size: int, seed: int):
    rng = np.random.default_rng(seed)
    spread = rng.normal(size=(size, size)) / np.sqrt(size) + np.eye(size)
    latents = rng.normal(size=(members + others, size)) @ spread + 3.0
    member = np.arange(members + others) < members
    return latents, np.zeros(len(latents), dtype=np.int64), member, spread.T @ spread


def test_the_mean_test_reaches_its_formula_with_a_good_reference():
    latents, groups, member, covariance = world(60, 4000, 30, seed=0)
    weights, dimensions = weights_of(covariance)
    means = latents[member].mean(axis=0, keepdims=True)
    scores, _ = mean_scores(latents, groups, member, (means, np.array([60.0]), weights), 0)
    found = strength_of(scores[member], scores[~member]).auc
    assert found == pytest.approx(expected_auc(dimensions, 60), abs=0.06)
    assert 20 < dimensions <= 30


def test_a_mean_of_strangers_tells_nothing():
    alarms = 0
    for seed in range(40):
        latents, groups, member, covariance = world(100, 40, 20, seed)
        means = latents[:40].mean(axis=0, keepdims=True)
        rest, kind = latents[40:], member[40:]
        given = (means, np.array([40.0]), weights_of(covariance)[0])
        scores, _ = mean_scores(rest, groups[40:], kind, given, seed)
        low, high = strength_of(scores[kind], scores[~kind]).auc_interval
        alarms += not low <= 0.5 <= high
    assert alarms <= 6


def test_a_covariance_of_fewer_patients_than_numbers_gives_them_away():
    latents, groups, member, _ = world(40, 40, 100, seed=1)
    mean = latents[member].mean(axis=0, keepdims=True)
    covariance = np.cov(latents[member].T) + 1e-4 * np.eye(100)
    scores = span_scores(latents, groups, mean, covariance)
    assert strength_of(scores[member], scores[~member]).auc_interval[0] > 0.9


def test_a_covariance_of_strangers_tells_nothing():
    latents, groups, member, _ = world(160, 80, 50, seed=2)
    mean = latents[:40].mean(axis=0, keepdims=True)
    covariance = np.cov(latents[:40].T) + 1e-4 * np.eye(50)
    scores = span_scores(latents[40:], groups[40:], mean, covariance)
    low, high = strength_of(scores[member[40:]], scores[~member[40:]]).auc_interval
    assert low <= 0.5 <= high


def test_groups_without_reference_have_no_score():
    latents, _, member, covariance = world(6, 4, 5, seed=3)
    groups = np.array([0, 0, 0, 1, 1, 1, 0, 0, 0, 1])
    given = (np.zeros((2, 5)), np.array([3.0, 3.0]), weights_of(covariance)[0])
    scores, sizes = mean_scores(latents, groups, member, given, 0)
    assert np.isnan(scores[groups == 1]).all() and np.isfinite(scores[groups == 0]).all()
    assert sizes.tolist() == [3, 1]


def test_the_formula_is_that_of_the_notes():
    assert expected_auc(0.0, 100) == 0.5
    assert expected_auc(64, 200) == pytest.approx(0.6554, abs=1e-3)
