"""Membership attacks: they see an overfitted model, not a private one, and not one of strangers."""

from __future__ import annotations

import numpy as np
import pytest

from mfm_core.errors import DataError
from mfm_core.leak_figures import strength_of
from mfm_core.membership import PARTS, Cohort, beyond, cohort_of, how_well, train_shadows
from tests.mfm_core.leak_world import LEARNING, draw_patients, fresh, leaky, private


def simple(made) -> dict[str, object]:
    model, images = made
    cohort = cohort_of(images)
    return {part: cohort.strength(s) for part, s in how_well(model, cohort).items()}


def may_be_chance(found) -> bool:
    """Return whether an AUC may be that of no leak: chance passes but once in a million."""
    low, high = found.auc_interval
    return abs(found.auc - 0.5) < 4.9 * (high - low) / (2 * 1.96)


def test_an_overfitted_model_is_detected():
    found = simple(leaky())["head"]
    assert found.auc_interval[0] > 0.55 and found.auc > 0.9 and not may_be_chance(found)


def test_a_private_model_passes():
    for found in simple(private()).values():
        assert may_be_chance(found) and found.hits[0].interval[0] <= 0.02


def test_shadow_models_detect_an_overfitted_model_and_pass_a_private_one():
    for made, leaks in ((leaky(), True), (private(), False)):
        model, images = made
        cohort = cohort_of(images)
        shadows = train_shadows(model, cohort, LEARNING, (2, 60), seed=3)
        found = cohort.strength(beyond(how_well(model, cohort)["head"], shadows.outside["head"]))
        assert (found.auc_interval[0] > 0.55) is leaks
        assert may_be_chance(cohort.strength(shadows.outside["head"]))


def test_a_model_that_saw_neither_half_gives_alarms_at_their_level():
    images = draw_patients(20, 120, seed=5)
    model, cohort = leaky()[0], cohort_of(images)
    strangers = Cohort(images, cohort.rows, cohort.patients, ~cohort.member, 0)
    outside = train_shadows(model, strangers, LEARNING, (2, 20), seed=0).outside
    scores = how_well(model, strangers)
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(60):
        drawn = rng.permutation(len(scores["head"])) < 60
        for part in PARTS:
            rest = beyond(scores[part], outside[part])
            low, high = strength_of(rest[drawn], rest[~drawn]).auc_interval
            alarms += not low <= 0.5 <= high
    assert alarms <= 0.12 * 120


def test_shadows_never_score_a_patient_they_saw(monkeypatch):
    images, seen = draw_patients(10, 10), []
    cohort = cohort_of(images)

    def note(like, images, rows, learning, steps, seed):
        seen.append(set(images.patients[rows]))
        return fresh()

    def position(model, cohort):
        saw = np.isin(cohort.patients, list(seen[-1])).astype(float)
        return dict.fromkeys(PARTS, saw)

    monkeypatch.setattr("mfm_core.membership.train_anew", note)
    monkeypatch.setattr("mfm_core.membership.how_well", position)
    shadows = train_shadows(fresh(), cohort, LEARNING, (4, 1), seed=0)
    assert not shadows.outside["head"].any()
    assert seen[0] | seen[1] == set(images.patients) and not seen[0] & seen[1]


def test_patients_on_both_sides_are_left_out():
    images = draw_patients(12, 12)
    images.patients[0] = images.patients[20]
    cohort = cohort_of(images)
    assert cohort.shared == 1 and len(cohort.patients) == 22
    assert images.patients[20] not in cohort.patients


def test_images_of_a_patient_count_once():
    images = draw_patients(12, 12)
    images.patients[1] = images.patients[0]
    cohort = cohort_of(images)
    values = np.arange(24.0)
    mean = cohort.per_patient(values[cohort.rows])
    assert len(mean) == 23 and 0.5 in mean


def test_too_few_held_out_patients_are_refused():
    with pytest.raises(DataError, match=r"3 held-out ones .*need 8 of each"):
        cohort_of(draw_patients(12, 3))
