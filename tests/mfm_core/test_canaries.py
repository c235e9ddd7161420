"""Canaries: remembered by a training that overfits, not by one that is private."""

from __future__ import annotations

import numpy as np
import pytest

from mfm_core.canaries import chance_bits, draw_canaries, exposures, insert_canaries, with_canaries
from mfm_core.membership import train_anew
from mfm_core.private_training import PrivateStep, train_privately
from mfm_core.training import Schedule
from tests.mfm_core.leak_world import CLASSES, LEARNING, NOISE, STEPS, draw_patients, fresh


def overfit(images):
    return train_anew(fresh(), images, np.arange(len(images)), LEARNING, STEPS, 0)


def privately(images):
    model = fresh()
    given = {"schedule": Schedule(0, 40), "steps": 40, "seed": 1}
    step = PrivateStep(NOISE, 1.0, 0.5, "patient")
    train_privately(model, images, np.arange(len(images)), LEARNING, privacy=step, **given)
    return model


@pytest.mark.parametrize(("trainer", "remembered"), [(overfit, True), (privately, False)])
def test_overfitting_remembers_canaries_and_private_training_does_not(trainer, remembered):
    images = draw_patients(8, 8)
    found = insert_canaries(images, images.select("train"), (16, CLASSES, 7), trainer)
    low, high = found.strength["head"].auc_interval
    assert (low > 0.55) is remembered
    assert (found.bits["head"] > found.chance_bits + 0.5) is remembered
    assert found.most_bits == pytest.approx(np.log2(17)) and high > 0.5


def test_exposure_counts_ranks_among_those_never_inserted():
    never = np.array([0.1, 0.2, 0.3])
    assert exposures(np.array([0.4]), never)[0] == 2.0
    assert exposures(np.array([0.0]), never)[0] == 0.0
    rng = np.random.default_rng(0)
    mean = np.mean([exposures(s[:20], s[20:]).mean() for s in rng.normal(size=(300, 40))])
    assert mean == pytest.approx(chance_bits(20), abs=0.05)


def test_canaries_are_patients_of_their_own():
    images = draw_patients(8, 8)
    canaries = draw_canaries(images, 6, CLASSES, 1)
    mixed = with_canaries(images, images.select("train"), canaries, 3)
    assert len(mixed) == 11 and len(np.unique(mixed.patients)) == 11
    assert not set(canaries.patients) & set(images.patients)
    assert len(np.unique(canaries.images.reshape(6, -1), axis=0)) == 6
    again = draw_canaries(images, 6, CLASSES, 1)
    assert np.array_equal(canaries.images, again.images)
