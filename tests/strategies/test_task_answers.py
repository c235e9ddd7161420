from __future__ import annotations

import numpy as np
import pytest

from mfm_core.checkpoint import weight_schema
from mfm_core.errors import UpdateRejected
from mfm_core.inference import Inference
from mfm_core.sums import Sum
from mfm_core.tasks import slices_of, task_loss_sum, task_metric_sum
from strategies.answers import answer_of
from strategies.config import RunConfig
from strategies.task_answers import (
    check_task_counts,
    check_task_rows,
    pooled_factors,
    rows_in_weights,
    site_factors,
    task_training_sum,
    with_scaled_rows,
)
from tests.mfm_core.task_world import IMAGE, LEARNING, MODEL, OUTPUTS, TASKS, new_model, task_images

SCHEMA = weight_schema(new_model())
RUN = RunConfig(
    name="tasks",
    ontology={"tasks": TASKS},  # type: ignore[arg-type]
    image=IMAGE,
    model=MODEL,
    learning=LEARNING,
)


def change(seed: int, only: tuple[str, ...]) -> np.ndarray:
    """A change of the weights in which the heads of other tasks are zeros."""
    size = sum(int(np.prod(shape)) for _, shape in SCHEMA)
    made = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    for name, parts in zip(slices_of(TASKS), rows_in_weights(SCHEMA, TASKS), strict=True):
        if name.partition("/")[2] not in only:
            made[parts[0]] = made[parts[1]] = 0.0
    return made


def test_rows_of_the_head_are_found_in_the_flat_vector() -> None:
    model = new_model()
    found = rows_in_weights(SCHEMA, TASKS)
    covered = sum(part.stop - part.start for parts in found for part in parts)
    assert covered == OUTPUTS * (model.latent_size + 1)
    start = 0
    for name, shape in SCHEMA:
        if name == "head.weight":
            assert found[0][0] == slice(start, start + shape[1])
        start += int(np.prod(shape))


def test_each_head_is_the_mean_over_the_sites_with_its_task_weighted_by_its_images() -> None:
    sites = [
        (change(0, ("binary", "ordinal")), 100, np.array([40.0, 0.0, 0.0, 100.0])),
        (change(1, ("binary",)), 20, np.array([20.0, 0.0, 0.0, 0.0])),
    ]
    sent = [
        (with_scaled_rows(SCHEMA, TASKS, made, site_factors(counts, images)), images)
        for made, images, counts in sites
    ]
    images = sum(count for _, count in sent)
    mean = sum(made.astype(np.float64) * count for made, count in sent) / images
    counts = sum(site[2] for site in sites)
    pooled = with_scaled_rows(SCHEMA, TASKS, mean, pooled_factors(counts, images))
    rows = dict(zip(slices_of(TASKS), rows_in_weights(SCHEMA, TASKS), strict=True))
    (one, _, _), (two, _, _) = sites
    for part in rows["toy/binary"]:
        expected = (40.0 * one[part] + 20.0 * two[part]) / 60.0
        np.testing.assert_allclose(pooled[part], expected, rtol=1e-5, atol=1e-6)
    for part in rows["toy/ordinal"]:  # the second site has none of it: the first one's, whole
        np.testing.assert_allclose(pooled[part], one[part], rtol=1e-5, atol=1e-6)
    for name in ("toy/multiclass", "toy/multilabel"):  # nobody has it: it stays
        assert not any(pooled[part].any() for part in rows[name])
    shared = slice(0, 50)
    expected = (100.0 * one[shared] + 20.0 * two[shared]) / 120.0
    np.testing.assert_allclose(pooled[shared], expected, rtol=1e-5, atol=1e-6)


def test_what_is_agreed_has_the_shape_of_what_a_site_sends() -> None:
    images, rows = task_images(24), np.arange(24)
    logits = np.zeros((24, OUTPUTS), dtype=np.float32)
    told = Inference(logits, logits, np.ones(24, dtype=np.float32))
    validation = task_loss_sum(TASKS, images, rows, told)
    agreed = answer_of(RUN, "train")
    names = [n.removeprefix("loss.") for n, _ in agreed.total or () if n.startswith("loss.")]
    sent = task_training_sum(validation, np.ones(4), dict.fromkeys(names, 1.0), 24)
    assert agreed.update and agreed.total == sent.schema
    replicates = RUN.statistics.bootstrap_replicates
    counted = task_metric_sum(TASKS, images, rows, told, (replicates, 0))
    assert answer_of(RUN, "evaluate").total == counted.schema


def training(counts: list[float], held: float = 2.0, ssim: float = 1.0) -> Sum:
    validation = Sum(
        {"loss": np.ones(4), "images": np.full(4, held), "ssim": np.array([ssim, 2.0])}
    )
    return task_training_sum(validation, np.array(counts), {"loss": 1.0}, 10)


@pytest.mark.parametrize(
    "total",
    [
        training([11, 0, 0, 0]),
        training([-1, 0, 0, 0]),
        training([1, 0, 0, 0], held=99.0),
        training([1, 0, 0, 0], ssim=3.0),
    ],
)
def test_counts_that_the_images_cannot_give_are_refused(total: Sum) -> None:
    with pytest.raises(UpdateRejected):
        check_task_counts(total, images=10, largest=50)
    check_task_counts(training([10, 0, 3, 1]), images=10, largest=50)


def test_an_update_that_moves_the_head_of_a_task_it_has_not_is_refused() -> None:
    honest = change(0, ("binary",))
    check_task_rows(TASKS, SCHEMA, honest, training([5, 0, 0, 0]))
    lying = honest.copy()
    lying[rows_in_weights(SCHEMA, TASKS)[3][1]] = 1e-3
    with pytest.raises(UpdateRejected, match="toy/ordinal: its head moves"):
        check_task_rows(TASKS, SCHEMA, lying, training([5, 0, 0, 0]))
