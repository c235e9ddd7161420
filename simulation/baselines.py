"""What the federation is compared with: alone, pooled, nearest neighbour, PCA + logistic.

- local: one hospital trains alone, as many optimiser steps as it took in the federation, in one
  piece (its optimiser is never restarted, which favours it), with the same linear path, the same
  refit of the head, and is judged on the pooled test images and on its own;
- pooled: all training images in one place, the ceiling;
- nearest_neighbour: the class of the nearest training image on 32 px pixels; where that is good,
  near-duplicates leak or the task is easy (brain44: 0.97 on a random split, 0.84 by group);
- pca_logistic: 100 principal components of 32 px pixels and a logistic regression.

What crosses a hospital's boundary: everything; that is why these are no way to train.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mfm_core.atlas import atlas_from
from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.checkpoint import load_flat_weights
from mfm_core.dataset import ImageSet
from mfm_core.devices import Wanted, choose_device, to_array
from mfm_core.evaluation import Metrics, metric_sum, metrics_from
from mfm_core.finetuning import Lesson, fine_tune, with_update
from mfm_core.head import Head, candidate_sum, chosen_head, fit_heads
from mfm_core.inference import infer
from mfm_core.latent_sums import latent_sum
from mfm_core.patches import patch_moments, start_linear_path
from mfm_core.training import Schedule
from strategies.config import RunConfig
from strategies.plan import derive_seed, shared_seed

Floats = NDArray[np.float32]
PIXELS = 32
COMPONENTS = 100


@dataclass(frozen=True)
class Baseline:
    """One finished comparison.

    Attributes:
        name: for the reader, e.g. "north alone".
        kind: local, pooled, nearest_neighbour or pca_logistic.
        site: the hospital of a local model, else empty.
        steps: optimiser steps; 0 without training by steps.
        train_images: images it learned from.
        seconds: wall time.
        pooled: figures on the test images of all hospitals.
        own: a local model's figures on its own test images.
        by_site: a pooled model's figures on each hospital's test images.
    """

    name: str
    kind: str
    site: str
    steps: int
    train_images: int
    seconds: float
    pooled: Metrics
    own: Metrics | None = None
    by_site: Mapping[str, Metrics] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of results.json."""
        figures = self.pooled.to_dict()
        has_ssim = self.kind in ("local", "pooled")
        return {
            "name": self.name,
            "kind": self.kind,
            "site": self.site,
            "steps": self.steps,
            "train_images": self.train_images,
            "seconds": round(self.seconds, 1),
            **{key: figures[key] for key in ("macro_auc", "macro_ap", "macro_f1", "accuracy")},
            "ssim": figures["ssim"] if has_ssim else None,
            "per_class": figures["per_class"],
            "own": None if self.own is None else self.own.to_dict(),
            "by_site": {name: found.to_dict() for name, found in self.by_site.items()},
        }


def pool(sets: Sequence[ImageSet]) -> ImageSet:
    """Return all hospitals' images in one set; patients of different hospitals stay different."""
    patients, start = [], 0
    for images in sets:
        patients.append(images.patients + start)
        start += int(images.patients.max(initial=-1)) + 1
    return ImageSet(
        images=np.concatenate([images.images for images in sets]),
        labels=np.concatenate([images.labels for images in sets]),
        attributes=np.concatenate([images.attributes for images in sets]),
        patients=np.concatenate(patients),
        splits=np.concatenate([images.splits for images in sets]),
    )


def judge(
    run: RunConfig, images: ImageSet, logits: NDArray[np.floating[Any]], ssim: Floats
) -> Metrics:
    """Return the figures of scores for `images.select("test")`, in that order."""
    rows = images.select("test")
    total = metric_sum(
        logits,
        images.labels[rows],
        ssim,
        images.patients[rows],
        run.statistics.bootstrap_replicates,
        derive_seed(run, "", "baseline test"),
    )
    return metrics_from(total, run.ontology.classes)


def refit_head(run: RunConfig, model: Autoencoder, images: ImageSet) -> None:
    """Give the model the head of the federation's own last step, from these images alone."""
    rows = images.select("train")
    attributes = images.attributes[rows]
    mu = infer(model, images, rows).mu
    total = latent_sum(mu, images.labels[rows], attributes, images.patients[rows], run.ontology)
    trained = Head(to_array(model.head.weight), to_array(model.head.bias))
    candidates = (trained, *fit_heads(atlas_from(total, run.ontology, "")))
    val = images.select("val")
    scores = candidate_sum(infer(model, images, val).mu, images.labels[val], candidates)
    best = chosen_head(candidates, scores)
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(best.weight.copy()))
        model.head.bias.copy_(torch.from_numpy(best.bias.copy()))


def fit_alone(
    run: RunConfig, images: ImageSet, steps: int, seed: int, device: Wanted = "cpu"
) -> Autoencoder:
    """Return a model trained on one set of images, with everything the federation does."""
    model = build_autoencoder(run.model, run.image, len(run.ontology.classes), run.seed)
    model.to(choose_device(device))
    rows = images.select("train")
    if run.model.linear_path:
        start_linear_path(model, patch_moments(images, rows, run.model))
    attention = run.learning.objective.attention.rounds
    first = round(steps * attention / run.rounds)
    stages = [(1, 0, first), (2, first, steps)] if attention else [(0, 0, steps)]
    for stage, start, end in stages:
        lesson = Lesson(
            Schedule(start, steps),
            steps=end - start,
            seed=seed + stage,
            shared_seed=shared_seed(run),
            attention_stage=stage,
        )
        update, _ = fine_tune(model, images, rows, run.learning, lesson)
        if run.learning.trainable != "all":  # which is trained in place
            weights = with_update(model, run.learning, lesson.shared_seed, update)
            load_flat_weights(model, weights)
    if run.statistics.refit_head:
        refit_head(run, model, images)
    return model


def _trained(
    run: RunConfig, sets: tuple[ImageSet, ImageSet], steps: int, name: str, device: Wanted
) -> tuple[Autoencoder, Metrics]:
    everything, images = sets
    seed = derive_seed(run, name, "baseline") % 2**31
    model = fit_alone(run, images, steps, seed, device)
    told = infer(model, everything, everything.select("test"))
    return model, judge(run, everything, told.logits, told.ssim)


def run_local(
    run: RunConfig,
    sets: Sequence[ImageSet],
    names: Sequence[str],
    site: int,
    device: Wanted = "cpu",
) -> Baseline:
    """Return what hospital `site` reaches alone."""
    start, images = time.monotonic(), sets[site]
    steps = run.rounds * run.learning.training.steps_per_round
    model, pooled = _trained(run, (pool(sets), images), steps, names[site], device)
    own = infer(model, images, images.select("test"))
    return Baseline(
        name=f"{names[site]} alone",
        kind="local",
        site=names[site],
        steps=steps,
        train_images=len(images.select("train")),
        seconds=time.monotonic() - start,
        pooled=pooled,
        own=judge(run, images, own.logits, own.ssim),
    )


def run_pooled(
    run: RunConfig,
    sets: Sequence[ImageSet],
    names: Sequence[str],
    factor: int,
    device: Wanted = "cpu",
) -> Baseline:
    """Return what one model on all images reaches with `factor` times a hospital's steps."""
    start, everything = time.monotonic(), pool(sets)
    steps = factor * run.rounds * run.learning.training.steps_per_round
    model, pooled = _trained(run, (everything, everything), steps, "pooled", device)
    seen = [infer(model, images, images.select("test")) for images in sets]
    parts = zip(names, sets, seen, strict=True)
    return Baseline(
        name=f"all images in one place ({steps} steps)",
        kind="pooled",
        site="",
        steps=steps,
        train_images=len(everything.select("train")),
        seconds=time.monotonic() - start,
        pooled=pooled,
        by_site={name: judge(run, images, own.logits, own.ssim) for name, images, own in parts},
    )


def small_pixels(images: ImageSet, rows: NDArray[np.int64]) -> Floats:
    """Return `[M, C * 32 * 32] float32 in [0, 1]`: block means of the images."""
    pixels = images.batch(rows)
    small = torch.nn.functional.interpolate(pixels, size=(PIXELS, PIXELS), mode="area")
    return small.flatten(1).numpy()


def nearest_scores(train_x: Floats, labels: NDArray[np.int64], x: Floats, classes: int) -> Floats:
    """Return `[M, K]` scores whose largest is the class of the nearest training image.

    A score is minus the squared distance to the nearest image of the class, over the median of
    the smallest ones; a class without training images stays one unit below the worst.
    """
    distance = (
        np.square(x).sum(axis=1)[:, None]
        - 2.0 * x @ train_x.T
        + np.square(train_x).sum(axis=1)[None, :]
    )
    nearest = np.full((len(x), classes), np.inf)
    for label in np.unique(labels):
        nearest[:, label] = distance[:, labels == label].min(axis=1)
    scale = max(float(np.median(nearest.min(axis=1))), 1e-6)
    worst = float(nearest[np.isfinite(nearest)].max())
    scores = -np.where(np.isfinite(nearest), nearest, worst + scale) / scale
    return scores.astype(np.float32)


def logistic_scores(train_x: Floats, labels: NDArray[np.int64], x: Floats, classes: int) -> Floats:
    """Return `[M, K]` log-probabilities of PCA + multinomial logistic regression."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    count = min(COMPONENTS, *(np.array(train_x.shape) - 1))
    pca = PCA(n_components=int(count), svd_solver="randomized", random_state=0)
    model = make_pipeline(pca, StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    model.fit(train_x, labels)
    scores = np.full((len(x), classes), -30.0)
    scores[:, model.classes_] = np.maximum(model.predict_log_proba(x), -30.0)
    return scores.astype(np.float32)


def run_pixels(run: RunConfig, sets: Sequence[ImageSet], kind: str) -> Baseline:
    """Return nearest neighbour or PCA + logistic regression on the pooled images' pixels."""
    start, everything = time.monotonic(), pool(sets)
    rows = everything.select("train")
    rows = rows[everything.labels[rows] >= 0]
    test = everything.select("test")
    score = nearest_scores if kind == "nearest_neighbour" else logistic_scores
    logits = score(
        small_pixels(everything, rows),
        everything.labels[rows],
        small_pixels(everything, test),
        len(run.ontology.classes),
    )
    names = {
        "nearest_neighbour": f"1-nearest neighbour on {PIXELS} px pixels",
        "pca_logistic": f"PCA + logistic regression on {PIXELS} px pixels",
    }
    return Baseline(
        name=names[kind],
        kind=kind,
        site="",
        steps=0,
        train_images=len(rows),
        seconds=time.monotonic() - start,
        pooled=judge(run, everything, logits, np.zeros(len(test), dtype=np.float32)),
    )
