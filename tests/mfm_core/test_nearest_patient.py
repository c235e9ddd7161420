"""Decoded class means: one that shows a member is found, a mean of strangers is not."""

from __future__ import annotations

import numpy as np

from mfm_core.nearest_patient import nearest_patient


def pictures(count: int, seed: int):
    return np.random.default_rng(seed).random((count, 1, 8, 8)) * 0.2 + 0.4


def test_a_mean_that_shows_one_member_is_found():
    shown, member = pictures(40, 0), np.arange(40) < 25
    drawn = 0.9 * shown[3] + 0.1 * shown.mean(axis=0)
    found = nearest_patient(drawn, shown, member, seed=0)
    assert found.p < 0.01 and found.member_distance < found.other_distance / 2


def test_a_mean_near_all_members_is_found():
    shown, member = pictures(60, 1), np.arange(60) < 30
    shown[member] += 0.02 * np.sign(pictures(1, 9)[0] - 0.5)
    found = nearest_patient(shown[member].mean(axis=0), shown, member, seed=0)
    assert found.p < 0.01


def test_means_of_strangers_give_alarms_at_their_level():
    alarms = 0
    for seed in range(80):
        shown = pictures(60, 100 + seed)
        mean, rest = shown[:20].mean(axis=0), shown[20:]
        found = nearest_patient(mean, rest, np.arange(40) < 25, seed)
        alarms += found.p <= 0.05
    assert alarms <= 9


def test_too_few_patients_are_not_tested():
    assert nearest_patient(pictures(1, 0)[0], pictures(10, 1), np.arange(10) < 8, 0) is None
