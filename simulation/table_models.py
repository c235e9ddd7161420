"""The models of one cell of a table: each is trained once and leaves its scores of the test images.

A finished model is two files below the cell's folder: `scores/<model>.json`, what it is, and
`scores/<model>.safetensors`, its logits and SSIM, one row a test image of all hospitals in the
order of the pool. The federated model is the one of the run folder; beside its own scores it
leaves those of each hospital's personal head. What crosses a hospital's boundary: as `baselines`.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfm_core.autoencoder import Autoencoder, count_parameters
from mfm_core.checkpoint import load_arrays, load_model, save_arrays
from mfm_core.config import load_yaml
from mfm_core.dataset import ImageSet
from mfm_core.inference import infer
from mfm_core.personal_head import personal_head
from mfm_core.whole_file import write_whole
from simulation.baselines import (
    fit_alone,
    logistic_scores,
    nearest_scores,
    pool,
    refit_head,
    small_pixels,
)
from simulation.hospitals import open_hospitals
from simulation.jobs import Job
from simulation.supervised import fit_shufflenet, fit_supervised, logits_of
from simulation.table import ModelKind, TableCell
from strategies.config import RunConfig
from strategies.plan import derive_seed

KIND = "table scores"
PIXELS = ("nearest_neighbour", "pca_logistic")
FOLDER = "scores"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ScoreJob(Job):
    """One model of a cell; `kind`, `site` and `factor` as in Job."""

    @property
    def result(self) -> Path:
        """The file that says the model is finished."""
        suffix = f"-{self.site}" if self.kind == "local" else ""
        return self.folder / FOLDER / f"{self.kind}{suffix}.json"

    @property
    def weight(self) -> int:
        """How long it takes, in units of one hospital's training."""
        return 0 if self.kind in (*PIXELS, "federated") else self.factor

    def compute(self) -> Path:
        """Train the model, score the test images and write both files."""
        return score_model(self)


@dataclass(frozen=True)
class Scores:
    """What a model says about the test images of a cell.

    Attributes:
        logits: `[N, K] float32`.
        ssim: `[N] float32`; empty for a model that draws nothing.
        personal: `[N, K] float32`, by the head that each image's hospital uses; empty but for the
            federated model.
    """

    logits: Floats
    ssim: Floats
    personal: Floats


@dataclass(frozen=True)
class Lesson:
    """What the models of one cell learn from.

    Attributes:
        run: the agreed run.
        names: of the hospitals.
        sets: their images.
        images: all of them in one set.
        test: `[N] int64`, the test images in the pool.
    """

    run: RunConfig
    names: tuple[str, ...]
    sets: list[ImageSet]
    images: ImageSet
    test: NDArray[np.int64]

    @property
    def sites(self) -> NDArray[np.int64]:
        """Return `[N]` the hospital of every test image, index into `names`."""
        owner = np.repeat(np.arange(len(self.sets)), [len(images) for images in self.sets])
        found: NDArray[np.int64] = owner[self.test]
        return found


def open_lesson(folder: Path) -> Lesson:
    """Return the images of a prepared cell."""
    run = load_yaml(folder / "run.yaml", RunConfig)
    names, sets = open_hospitals(folder, run)
    images = pool(sets)
    return Lesson(run, names, sets, images, images.select("test"))


def jobs_of(cell: TableCell, folder: Path, kind: ModelKind, sites: int) -> list[ScoreJob]:
    """Return the jobs of one kind of model of a cell that needs no federation."""
    if kind == "local":
        return [ScoreJob(folder, kind, site) for site in range(sites)]
    wide = cell.study.baselines.pooled_steps == "all_sites" and kind not in (*PIXELS, "federated")
    return [ScoreJob(folder, kind, factor=sites if wide else 1)]


def score_model(job: ScoreJob) -> Path:
    """Train (or read) the model of a job and write its two files; return the one of facts."""
    start, lesson = time.monotonic(), open_lesson(job.folder)
    run = lesson.run
    steps = job.factor * run.rounds * run.learning.training.steps_per_round
    facts: dict[str, Any] = {"kind": job.kind, "steps": 0 if job.weight == 0 else steps}
    if job.kind in PIXELS:
        found = _of_pixels(lesson, job.kind)
    elif job.kind == "shufflenet":
        net = fit_shufflenet(run, lesson.images, steps, _seed(run, job.kind))
        facts["parameters"] = count_parameters(net)
        found = _scores(logits_of(net, lesson.images, lesson.test))
    else:
        model = _model(job, lesson, steps)
        unused = model.decoder if job.kind == "supervised" else None
        facts["parameters"] = count_parameters(model) - (count_parameters(unused) if unused else 0)
        told = infer(model, lesson.images, lesson.test)
        found = _scores(told.logits, None if unused else told.ssim)
        if job.kind == "federated":
            facts["steps"] = len(lesson.sets) * steps
            found, facts["personal"] = _with_personal(found, model, told.mu, lesson)
    facts["seconds"] = round(time.monotonic() - start, 1)
    arrays = {"logits": found.logits, "ssim": found.ssim, "personal": found.personal}
    save_arrays(job.result.with_suffix(".safetensors"), arrays, {"kind": KIND})
    return write_whole(job.result, json.dumps(facts, indent=1).encode())


def read_scores(job: ScoreJob) -> Scores:
    """Return the scores that a finished job left; raises CheckpointError where they are damaged."""
    arrays, _ = load_arrays(job.result.with_suffix(".safetensors"), {"kind": KIND})
    return Scores(*(arrays[name].astype(np.float32) for name in ("logits", "ssim", "personal")))


def _seed(run: RunConfig, name: str) -> int:
    return derive_seed(run, name, "baseline") % 2**31


def _model(job: ScoreJob, lesson: Lesson, steps: int) -> Autoencoder:
    run = lesson.run
    if job.kind == "federated":
        return load_model(job.folder / "final.safetensors")[0]
    if job.kind == "local":
        name = lesson.names[job.site]
        return fit_alone(run, lesson.sets[job.site], steps, _seed(run, name))
    if job.kind == "pooled":
        return fit_alone(run, lesson.images, steps, _seed(run, job.kind))
    model = fit_supervised(run, lesson.images, steps, _seed(run, job.kind))
    if run.statistics.refit_head:
        refit_head(run, model, lesson.images)
    return model


def _of_pixels(lesson: Lesson, kind: str) -> Scores:
    images, score = lesson.images, nearest_scores
    if kind == "pca_logistic":
        score = logistic_scores
    rows = images.select("train")
    rows = rows[images.labels[rows] >= 0]
    given = small_pixels(images, rows), images.labels[rows], small_pixels(images, lesson.test)
    return _scores(score(*given, len(lesson.run.ontology.classes)))


def _scores(logits: Floats, ssim: Floats | None = None) -> Scores:
    nothing = np.zeros(0, dtype=np.float32)
    return Scores(logits.astype(np.float32), nothing if ssim is None else ssim, nothing)


def _with_personal(
    found: Scores, model: Autoencoder, mu: Floats, lesson: Lesson
) -> tuple[Scores, list[dict[str, Any]]]:
    """Return the scores with those of the hospitals' heads, and what each hospital decided."""
    logits, decided = found.logits.copy(), []
    for site, (name, images) in enumerate(zip(lesson.names, lesson.sets, strict=True)):
        mine, chosen = lesson.sites == site, personal_head(model, images, lesson.run.ontology)
        logits[mine] = chosen.head.logits(mu[mine]).astype(np.float32)
        decided.append({"site": name, **chosen.to_dict()})
    return Scores(found.logits, found.ssim, logits), decided
