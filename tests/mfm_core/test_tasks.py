from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mfm_core.config import OntologyConfig, TaskConfig
from mfm_core.inference import Inference
from mfm_core.tasks import (
    LOSSES,
    UNKNOWN,
    encode_labels,
    questions_of,
    slices_of,
    task_counts,
    task_figures,
    task_loss_sum,
    task_metric_sum,
)
from tests.mfm_core.task_world import OUTPUTS, TASKS, task_images


def seen(count: int, seed: int = 0) -> Inference:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, OUTPUTS)).astype(np.float32)
    return Inference(logits, logits, rng.uniform(0, 1, count).astype(np.float32))


def test_every_task_owns_rows_in_the_order_of_names_whatever_the_file_says() -> None:
    parts = slices_of(TASKS)
    widths = {name.partition("/")[2]: part.stop - part.start for name, part in parts.items()}
    assert widths == {"binary": 1, "multiclass": 3, "multilabel": 4, "ordinal": 3}
    assert slices_of(dict(reversed(TASKS.items()))) == parts
    ontology = OntologyConfig.model_validate({"tasks": dict(reversed(TASKS.items()))})
    assert len(ontology.classes) == OUTPUTS == 11
    assert OntologyConfig.model_validate(ontology.model_dump()) == ontology


def test_a_run_on_one_binary_task_has_a_head_of_two_rows() -> None:
    one = TaskConfig(target="BINARY_CLASSIFICATION", labels=("no", "yes"))
    assert OntologyConfig.model_validate({"tasks": {"a/b": one}}).classes == ("000 yes", "unused")


def test_classes_beside_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="leave them out"):
        OntologyConfig.model_validate({"tasks": TASKS, "classes": ["a", "b"]})


def test_ordinal_labels_become_thresholds_and_classes_one_of_many() -> None:
    labels = np.array([0, 2, 3])
    ordinal = encode_labels(TASKS["toy/ordinal"], labels)
    assert ordinal.tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 1]]
    several = encode_labels(TASKS["toy/multiclass"], np.array([1, 2]))
    assert several.tolist() == [[0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "ordinal"])
def test_losses_are_the_negative_log_probability_of_what_is_true(kind: str) -> None:
    task = TASKS[f"toy/{kind}"]
    labels = np.array([[0, 1, 1, 0]]) if kind == "multilabel" else np.array([1])
    target = torch.from_numpy(encode_labels(task, labels)).double()
    logits = torch.linspace(-1.3, 1.7, task.outputs, dtype=torch.float64)[None]
    found = LOSSES[task.target](logits, target)
    if kind == "multiclass":
        expected = -np.log(np.exp(logits[0, 1]) / np.exp(logits[0]).sum())
    else:
        p = 1 / (1 + np.exp(-logits.numpy()[0]))
        expected = -np.log(np.where(target[0] == 1, p, 1 - p)).mean()
    assert found.shape == (1,)
    assert float(found[0]) == pytest.approx(float(expected), abs=1e-12)


def test_ordinal_answers_are_a_distribution_whose_order_follows_the_thresholds() -> None:
    images = task_images(24)
    assert images.targets is not None
    logits = np.full((24, OUTPUTS), -9.0)
    logits[:, slices_of(TASKS)["toy/ordinal"]] = [9.0, 9.0, -9.0]
    questions = {q.task: q for q in questions_of(TASKS, logits, images.targets) if not q.label}
    ordinal = questions["toy/ordinal"]
    assert (ordinal.logits.argmax(axis=1) == 2).all()
    np.testing.assert_allclose(np.exp(ordinal.logits).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(ordinal.labels, np.arange(24) % 4)


def test_sums_of_sites_are_the_sums_of_the_pool() -> None:
    images, rows, told = task_images(48), np.arange(48), seen(48)
    assert images.targets is not None
    hidden = images.targets.copy()
    hidden[:16, slices_of(TASKS)["toy/ordinal"]] = UNKNOWN
    images = replace(images, targets=hidden)
    whole = task_metric_sum(TASKS, images, rows, told, (0, 0))
    losses = task_loss_sum(TASKS, images, rows, told)
    parts = [rows[:16], rows[16:31], rows[31:]]

    def of(part: np.ndarray) -> Inference:
        return Inference(told.mu[part], told.logits[part], told.ssim[part])

    summed = [task_metric_sum(TASKS, images, part, of(part), (0, 0)) for part in parts]
    pooled = summed[0].merge(summed[1]).merge(summed[2])
    for name, array in whole.arrays.items():
        np.testing.assert_allclose(pooled[name], array, atol=1e-5)
    own = [task_loss_sum(TASKS, images, part, of(part)) for part in parts]
    merged = own[0].merge(own[1]).merge(own[2])
    for name, array in losses.arrays.items():
        np.testing.assert_allclose(merged[name], array, rtol=1e-5, atol=1e-5)
    assert merged["images"].tolist() == [48.0, 48.0, 48.0, 32.0]
    assert task_figures(TASKS, pooled) == task_figures(TASKS, whole)


def test_figures_of_a_perfect_model_are_one_and_a_task_nobody_has_has_none() -> None:
    images = task_images(48, only=("binary", "multilabel", "multiclass"))
    assert images.targets is not None
    known = np.where(images.targets == UNKNOWN, 0, images.targets)
    sure = (20.0 * known - 10.0).astype(np.float32)
    told = Inference(sure, sure, np.ones(48, dtype=np.float32))
    total = task_metric_sum(TASKS, images, np.arange(48), told, (20, 0))
    found = {row["task"]: row for row in task_figures(TASKS, total)}
    assert found["toy/binary"]["macro_auc"] == pytest.approx(1.0)
    assert found["toy/multilabel"]["macro_auc"] == pytest.approx(1.0)
    assert len(found["toy/multilabel"]["questions"]) == 4
    assert found["toy/multiclass"]["questions"][0]["macro_auc"]["low"] is not None
    assert found["toy/ordinal"]["macro_auc"] is None


def test_only_labelled_images_count() -> None:
    images = task_images(12, only=("ordinal",))
    assert task_counts(TASKS, images, np.arange(6)).tolist() == [0.0, 0.0, 0.0, 6.0]
