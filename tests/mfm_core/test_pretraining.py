from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from mfm_core.checkpoint import flat_weights
from mfm_core.errors import DataError
from mfm_core.inference import infer
from mfm_core.pretraining import pretrain, task_batches, task_shares
from mfm_core.tasks import slices_of, task_loss_sum
from mfm_core.training import Schedule
from tests.mfm_core.task_world import LEARNING, TASKS, new_model, task_images


def teach(model: object, images: object, steps: int = 3, seed: int = 0) -> dict[str, float]:
    return pretrain(
        model,
        images,
        images.select("train"),
        LEARNING,
        tasks=TASKS,
        schedule=Schedule(0, steps),
        steps=steps,
        seed=seed,
    )


def test_tasks_are_drawn_by_the_square_root_of_their_size() -> None:
    np.testing.assert_allclose(task_shares(np.array([100.0, 25.0, 0.0])), [2 / 3, 1 / 3, 0])
    members = [np.arange(100), np.arange(100, 125), np.zeros(0, dtype=np.int64)]
    drawn: Counter[int] = Counter()
    for rows, tasks in task_batches(members, 50, 200, np.random.default_rng(0)):
        drawn.update(tasks.tolist())
        assert all(row in members[task] for row, task in zip(rows, tasks, strict=True))
    assert set(drawn) == {0, 1} and drawn[0] / 10_000 == pytest.approx(2 / 3, abs=0.03)


def test_a_task_shows_each_of_its_images_once_before_any_twice() -> None:
    members = [np.arange(12), np.arange(12, 20)]
    shown: dict[int, list[int]] = {0: [], 1: []}
    for rows, tasks in task_batches(members, 4, 10, np.random.default_rng(1)):
        for row, task in zip(rows.tolist(), tasks.tolist(), strict=True):
            shown[task].append(row)
    for task, rows in shown.items():
        first = rows[: len(members[task])]
        assert len(set(first)) == len(first)


def test_equal_arguments_give_equal_bits() -> None:
    ends = []
    for _ in range(2):
        model = new_model()
        teach(model, task_images())
        ends.append(flat_weights(model))
    np.testing.assert_array_equal(ends[0], ends[1])


def test_every_kind_of_task_is_learned() -> None:
    images, model = task_images(48), new_model()
    rows = images.select("train")
    before = task_loss_sum(TASKS, images, rows, infer(model, images, rows))["loss"]
    terms = teach(model, images, steps=60)
    after = task_loss_sum(TASKS, images, rows, infer(model, images, rows))["loss"]
    assert (after < 0.9 * before).all()
    assert terms["classification"] > 0 and terms["reconstruction"] > 0


def test_a_task_without_images_keeps_its_head_to_the_bit() -> None:
    model = new_model()
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(0))
        model.head.bias.fill_(0.5)
    before = model.head.weight.detach().clone(), model.head.bias.detach().clone()
    teach(model, task_images(only=("binary", "ordinal")))
    for name, part in slices_of(TASKS).items():
        same = name in ("toy/multiclass", "toy/multilabel")
        assert torch.equal(model.head.weight[part], before[0][part]) == same
        assert torch.equal(model.head.bias[part], before[1][part]) == same


def test_images_without_a_label_of_the_run_are_refused() -> None:
    with pytest.raises(DataError, match="no training image is labelled"):
        teach(new_model(), task_images(only=()))
