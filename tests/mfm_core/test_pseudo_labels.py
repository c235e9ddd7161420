"""Pseudo-labels: right as often as they promise, nothing far off, nothing from chance alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mfm_core.atlas import Atlas
from mfm_core.config import OntologyConfig, PseudoLabelConfig
from mfm_core.head import Head, fit_heads
from mfm_core.latent_sums import latent_sum
from mfm_core.pseudo_labels import (
    NO_LABEL,
    class_atlas,
    head_space,
    moved,
    pseudo_labels,
    without_small,
)
from mfm_core.sums import Array, Sum

CLASSES = ("a", "b", "c")
ONTOLOGY = OntologyConfig(classes=CLASSES)
CONFIG = PseudoLabelConfig(from_round=1)


def draw(patients: int, size: int, apart: float, seed: int) -> tuple[Array, NDArray[np.int64]]:
    """Latents of classes whose means stand `apart` standard deviations on axes of their own."""
    generator = np.random.default_rng(seed)
    labels = np.arange(patients) % len(CLASSES)
    mu = generator.normal(size=(patients, size))
    mu[np.arange(patients), labels] += apart / np.sqrt(2)
    return mu, labels.astype(np.int64)


def sums_of(mu: Array, labels: NDArray[np.int64]) -> Sum:
    count = len(labels)
    return latent_sum(mu, labels, np.zeros((count, 0), np.int64), np.arange(count), ONTOLOGY)


def learnt(patients: int, size: int, apart: float, seed: int = 0) -> Atlas:
    found = class_atlas(sums_of(*draw(patients, size, apart, seed)), CLASSES)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("patients", "size", "apart"), [(600, 16, 3.0), (60, 32, 5.0), (30, 128, 12.0), (600, 64, 4.0)]
)
def test_precision_keeps_the_bound_with_many_and_with_few_patients(
    patients: int, size: int, apart: float
) -> None:
    mu, truth = draw(3000, size, apart, seed=1)
    labels = pseudo_labels(mu, learnt(patients, size, apart), CONFIG).labels
    taken = labels != NO_LABEL
    assert taken.mean() > 0.1
    assert (labels[taken] == truth[taken]).mean() >= CONFIG.posterior


def test_samples_of_one_class_are_not_told_apart_by_their_chance_distance() -> None:
    mu, _ = draw(1000, 256, 0.0, seed=1)
    atlas = learnt(30, 256, 0.0)
    apart = np.linalg.norm(atlas.means[0] - atlas.means[1])
    assert apart > 5  # they do look apart
    assert (pseudo_labels(mu, atlas, CONFIG).labels != NO_LABEL).mean() < 0.01


def test_what_lies_far_from_every_class_gets_no_label() -> None:
    atlas = learnt(600, 16, 6.0)
    mu, _ = draw(300, 16, 6.0, seed=1)
    assert (pseudo_labels(mu, atlas, CONFIG).labels != NO_LABEL).mean() > 0.8
    mu[:, -1] += 12.0  # off to the side: the posterior is as sure as before
    off = pseudo_labels(mu, atlas, CONFIG)
    assert (off.posterior >= CONFIG.posterior).mean() > 0.8
    assert not off.near.any() and (off.labels == NO_LABEL).all()


def test_a_class_that_nobody_has_is_never_given() -> None:
    mu, labels = draw(400, 16, 6.0, seed=0)
    atlas = class_atlas(sums_of(mu[labels != 1], labels[labels != 1]), CLASSES)
    assert atlas is not None
    assert 1 not in pseudo_labels(mu, atlas, CONFIG).labels


def test_one_class_alone_labels_nothing() -> None:
    mu, labels = draw(400, 16, 6.0, seed=0)
    atlas = class_atlas(sums_of(mu[labels == 0], labels[labels == 0]), CLASSES)
    assert atlas is not None
    assert (pseudo_labels(mu, atlas, CONFIG).labels == NO_LABEL).all()


def test_fewer_patients_than_a_covariance_needs_give_no_gaussians() -> None:
    assert class_atlas(sums_of(*draw(3, 16, 6.0, seed=0)), CLASSES) is None
    nobody = sums_of(np.zeros((2, 16)), np.array([-1, -1]))
    assert class_atlas(nobody, CLASSES) is None


def test_a_stricter_bound_and_a_narrower_gate_take_fewer() -> None:
    atlas = learnt(300, 16, 3.0)
    mu, _ = draw(1000, 16, 3.0, seed=1)

    def taken(**changes: float) -> int:
        config = PseudoLabelConfig.model_validate({"from_round": 1, **changes})
        return int((pseudo_labels(mu, atlas, config).labels != NO_LABEL).sum())

    assert taken(posterior=0.999) < taken() and taken(gate=0.6) < taken()


def test_the_directions_of_a_head_are_at_most_one_less_than_its_classes() -> None:
    atlas = learnt(300, 16, 4.0)
    head = fit_heads(atlas, (0.3,))[0]
    directions = head_space(head, atlas)
    assert directions.shape == (2, 16) and np.allclose(directions @ directions.T, np.eye(2))
    apart = head.weight[0] - head.weight[1]
    assert np.allclose(directions.T @ (directions @ apart), apart, atol=1e-5)
    assert len(head_space(Head(np.zeros((3, 16)), np.zeros(3)), atlas)) == 0


def test_a_head_that_learnt_nothing_leaves_all_directions() -> None:
    atlas, (mu, _) = learnt(300, 16, 4.0), draw(500, 16, 4.0, seed=1)
    blank = Head(np.zeros((3, 16), np.float32), np.zeros(3, np.float32))
    with_blank, without = (pseudo_labels(mu, atlas, CONFIG, head) for head in (blank, None))
    assert (with_blank.labels == without.labels).all() and (without.labels >= 0).any()


def test_noise_that_no_head_looks_at_does_not_close_the_gate() -> None:
    atlas = learnt(600, 64, 5.0)
    head = fit_heads(atlas, (0.3,))[0]
    mu, truth = draw(1500, 64, 5.0, seed=2)
    mu[:, 8:] *= 2.0
    in_all = pseudo_labels(mu, atlas, CONFIG).labels
    in_two = pseudo_labels(mu, atlas, CONFIG, head).labels
    taken = in_two >= 0
    assert (in_all == NO_LABEL).all()
    assert taken.mean() > 0.3 and (in_two[taken] == truth[taken]).mean() > 0.9


def test_an_own_mean_takes_a_shift_of_all_latents_away() -> None:
    atlas, (mu, _) = learnt(600, 16, 5.0), draw(900, 16, 5.0, seed=2)
    moving = CONFIG.model_copy(update={"own_mean": True})
    shift = np.random.default_rng(0).normal(size=16) * 4.0
    before, after = (pseudo_labels(x, atlas, moving).labels for x in (mu, mu + shift))
    assert (before == after).all() and (before >= 0).mean() > 0.5
    assert (pseudo_labels(mu + shift, atlas, CONFIG).labels == NO_LABEL).mean() > 0.9
    assert np.allclose(moved(mu + shift, atlas).mean(axis=0), atlas.means.mean(axis=0))
    assert pseudo_labels(mu[:0], atlas, moving).labels.shape == (0,)


def test_a_class_of_few_patients_is_left_out_and_the_others_stay() -> None:
    labels, patients = np.array([0, 0, 0, 1, 1, -1]), np.array([1, 2, 3, 4, 4, 5])
    assert without_small(labels, patients, 2).tolist() == [0, 0, 0, -1, -1, -1]
    assert without_small(labels, patients, 1).tolist() == labels.tolist()
    assert labels[3] == 1  # what came in is as it was
