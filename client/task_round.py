"""A site's half of a multi-task pre-training: one local training on its tasks, its test counts.

What crosses the hospital's boundary, through the outbox: the change of the weights, in which the
heads of tasks that the site has not are zeros; images and validation losses per task; test counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from client.local_round import lesson_of
from client.secret import secret_seed
from client.site import Site
from mfm_core.checkpoint import flat_weights
from mfm_core.inference import infer
from mfm_core.pretraining import pretrain
from mfm_core.tasks import task_counts, task_loss_sum, task_metric_sum
from strategies.task_answers import site_factors, task_training_sum, with_scaled_rows
from strategies.wire import Payload


def train_tasks(site: Site, weights: NDArray[np.float32], number: int) -> tuple[int, Payload]:
    """Return the training images of a site and what it answers to training round `number`.

    Raises:
        DataError: no training image is labelled for a task of the run.
    """
    run, images, tasks = site.run, site.images, site.run.ontology.tasks
    model, rows, held = site.load(weights), images.select("train"), images.select("val")
    validation = task_loss_sum(tasks, images, held, infer(model, images, held))
    lesson = lesson_of(site, number)
    terms = pretrain(
        model,
        images,
        rows,
        run.learning,
        tasks=tasks,
        schedule=lesson.schedule,
        steps=lesson.steps,
        seed=lesson.seed,
        proximal_mu=lesson.proximal_mu,
    )
    counts = task_counts(tasks, images, rows)
    change = flat_weights(model) - weights
    update = with_scaled_rows(site.schema, tasks, change, site_factors(counts, len(rows)))
    return len(rows), Payload(update, task_training_sum(validation, counts, terms, len(rows)))


def judge_tasks(site: Site, weights: NDArray[np.float32], _number: int) -> tuple[int, Payload]:
    """Return the test images of a site and the counts behind every task's figures."""
    images, rows = site.images, site.images.select("test")
    seen = infer(site.load(weights), images, rows)
    seed = secret_seed(site.config.state_folder, f"bootstrap {site.config_hash}")
    draws = (site.run.statistics.bootstrap_replicates, seed)
    found = task_metric_sum(site.run.ontology.tasks, images, rows, seen, draws)
    return len(rows), Payload(total=found)


Work = Callable[[Site, NDArray[np.float32], int], tuple[int, Payload]]

TASK_WORK: Mapping[str, Work] = {"train": train_tasks, "evaluate": judge_tasks}
"""Exchanges in which a run on tasks does other work than one on classes."""
