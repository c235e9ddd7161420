"""What learns is what leaves: schemas, exact merging, and sites without labels."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

from mfm_core.autoencoder import Autoencoder
from mfm_core.checkpoint import flat_weights, load_flat_weights, weight_schema
from mfm_core.config import LearningConfig, LoraConfig, TrainingConfig
from mfm_core.dataset import ImageSet
from mfm_core.errors import DataError
from mfm_core.finetuning import (
    Lesson,
    fine_tune,
    head_schema,
    labelled_with,
    update_schema,
    weight_of,
    with_update,
)
from mfm_core.objective import TERM_NAMES
from mfm_core.training import Schedule
from tests.mfm_core.test_training import image_set, start, teach

MODES = ("all", "head", "lora")
LESSON = Lesson(Schedule(0, 100), steps=3, seed=5, shared_seed=7)


def learning(mode: str, **training: float) -> LearningConfig:
    settings = {"batch_size": 8, "warmup_steps": 2, **training}
    return LearningConfig(
        trainable=mode,  # type: ignore[arg-type]
        lora=LoraConfig(rank=2),
        training=TrainingConfig.model_validate(settings),
    )


def tuned(
    model: Autoencoder, images: ImageSet, mode: str, **training: float
) -> tuple[Autoencoder, np.ndarray, dict[str, float]]:
    """Return the model after one local training, its update and its terms."""
    settings, rows = learning(mode, **training), np.arange(len(images))
    update, terms = fine_tune(copy.deepcopy(model), images, rows, settings, LESSON)
    after = copy.deepcopy(model)
    load_flat_weights(after, with_update(copy.deepcopy(model), settings, 7, update))
    return after, update, terms


def test_all_is_the_training_that_it_always_was() -> None:
    images = image_set()
    known = start(images)
    teach(known, images)
    found, update, _ = tuned(start(images), images, "all")
    assert abs(flat_weights(found) - flat_weights(known)).max() < 1e-7
    assert len(update) == len(flat_weights(known))


@pytest.mark.parametrize("mode", MODES)
def test_an_update_has_the_agreed_schema_and_the_model_learns(mode: str) -> None:
    images = image_set()
    model = start(images)
    schema = update_schema(model, learning(mode))
    after, update, terms = tuned(model, images, mode)
    assert update.shape == (sum(int(np.prod(shape)) for _, shape in schema),)
    assert set(terms) == set(TERM_NAMES) and terms["classification"] > 0
    assert not np.array_equal(after.head.weight.detach(), model.head.weight.detach())


def test_with_lora_a_small_part_travels_and_norms_and_linear_path_stay() -> None:
    images = image_set()
    model = start(images)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    after, update, _ = tuned(model, images, "lora")
    assert len(update) < 0.3 * len(flat_weights(model))
    moved = {n for n, p in after.named_parameters() if not np.array_equal(p.detach(), before[n])}
    assert any(name.startswith("encoder.") for name in moved) and "head.weight" in moved
    assert any(name.startswith("decoder.") for name in moved)
    fixed = {n for n in before if "norm" in n or n.startswith("linear_path.") or "logits" in n}
    assert fixed and not fixed & moved


def test_the_model_is_left_as_it_was_where_a_part_learns() -> None:
    images = image_set()
    for mode in ("head", "lora"):
        model = start(images)
        before, learns = flat_weights(model), [p.requires_grad for p in model.parameters()]
        fine_tune(model, images, np.arange(len(images)), learning(mode), LESSON)
        assert (flat_weights(model) == before).all()
        assert [p.requires_grad for p in model.parameters()] == learns
        assert weight_schema(model) == weight_schema(start(images))


def test_the_same_seeds_give_the_same_update() -> None:
    images = image_set()
    for mode in MODES:
        one, two = (tuned(start(images), images, mode)[1] for _ in range(2))
        assert (one == two).all(), mode


def test_a_site_without_labels_trains_the_autoencoder_and_tells_nothing_of_labels() -> None:
    bare = image_set(unlabelled=True)
    model = start(bare)
    after, update, terms = tuned(model, bare, "lora")
    assert terms["classification"] == 0 and terms["reconstruction"] > 0
    assert np.abs(update).max() > 0
    assert np.array_equal(after.head.weight.detach(), model.head.weight.detach())
    _, nothing, zeros = tuned(model, bare, "head")
    assert not nothing.any() and not any(zeros.values())


def test_with_pseudo_labels_it_trains_the_head() -> None:
    bare, truth = image_set(unlabelled=True), image_set().labels
    some = labelled_with(bare, np.array([0, 1, 5]), truth[[0, 1, 5]])
    assert (bare.labels == -1).all() and (some.labels >= 0).sum() == 3
    _, update, terms = tuned(start(bare), some, "head")
    assert update.any() and terms["classification"] > 0


def test_the_weight_counts_the_images_behind_an_update() -> None:
    labels = np.array([-1, 0, 1, -1])
    assert weight_of(learning("lora"), labels) == weight_of(learning("all"), labels) == 4
    assert weight_of(learning("head"), labels) == 2
    assert weight_of(learning("head"), np.array([-1, -1])) == 1


def test_the_proximal_pull_holds_what_learns() -> None:
    images, rows = image_set(), np.arange(24)
    for mode in ("head", "lora"):
        free, _ = fine_tune(start(images), images, rows, learning(mode), LESSON)
        lesson = replace(LESSON, proximal_mu=100.0)
        held, terms = fine_tune(start(images), images, rows, learning(mode), lesson)
        assert np.linalg.norm(held) < np.linalg.norm(free) and terms["proximal"] > 0


def test_an_update_of_another_length_and_no_images_are_refused() -> None:
    images = image_set()
    with pytest.raises(ValueError, match="expected an update of"):
        with_update(start(images), learning("head"), 0, np.zeros(3))
    with pytest.raises(DataError):
        fine_tune(start(images), images, np.zeros(0, np.int64), learning("head"), LESSON)


def test_the_head_alone_is_the_schema_of_head_runs() -> None:
    model = start(image_set())
    assert [name for name, _ in head_schema(model)] == ["head.weight", "head.bias"]
    assert update_schema(model, learning("head")) == head_schema(model)
