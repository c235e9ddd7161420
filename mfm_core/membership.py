"""Was a patient learnt from? Two attacks on a finished model, for head and autoencoder each.

Simple: a patient scores by how well the model does on the patient's images (Yeom et al. 2018).
Shadow models: offline LiRA in the form with one variance (Carlini et al., S&P 2022): models trained
here on random halves of the site's patients say how well a model does that never saw a patient;
the score is what the attacked model does beyond that, after one straight line through all patients
(which knows no membership) has taken away that models differ in how good they are.

The halves are drawn from members and others alike, so on a model that saw neither, both kinds of
score have the same distribution. `control` asks the same of the shadows: are the members easier in
themselves? Where its AUC is not near 0.5 the two splits differ, and no attack here means much.
What crosses the hospital's boundary: nothing; scores of patients stay in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.config import LearningConfig
from mfm_core.dataset import ImageSet
from mfm_core.errors import DataError
from mfm_core.inference import infer
from mfm_core.leak_figures import Scores, Strength, strength_of
from mfm_core.patches import patch_moments, start_linear_path
from mfm_core.training import Schedule, train

Indices = NDArray[np.int64]

PARTS = ("head", "autoencoder")
LEAST = 8
"""Fewest patients on either side; below that no figure says anything."""


@dataclass(frozen=True)
class Cohort:
    """Who was learnt from and who was not, at one site.

    Attributes:
        images: the site's images.
        rows: `[N]` labelled images of all patients below.
        patients: `[P]` their patients, each once.
        member: `[P] bool`, whether the patient was learnt from.
        shared: patients left out because they have images on both sides.
    """

    images: ImageSet
    rows: Indices
    patients: Indices
    member: NDArray[np.bool_]
    shared: int

    def rows_of(self, chosen: NDArray[np.bool_]) -> Indices:
        """Return the images of some of the patients `[P] bool`."""
        return self.rows[np.isin(self.images.patients[self.rows], self.patients[chosen])]

    def per_patient(self, values: NDArray[np.floating]) -> Scores:
        """Return `[P, ...]`, the mean over each patient's images of `[N, ...]`."""
        place = np.searchsorted(self.patients, self.images.patients[self.rows])
        total = np.zeros((len(self.patients), *values.shape[1:]))
        np.add.at(total, place, values.astype(np.float64))
        count = np.bincount(place, minlength=len(self.patients))
        mean: Scores = total / count.reshape(-1, *(1,) * (total.ndim - 1))
        return mean

    def strength(self, scores: Scores) -> Strength:
        """Return what scores `[P]` tell apart."""
        return strength_of(scores[self.member], scores[~self.member])


def cohort_of(images: ImageSet, least: int = LEAST) -> Cohort:
    """Return the members (train split) and the others (test split) of a site.

    Validation images are left out: they choose the head. Patients on both sides are left out too.

    Raises:
        DataError: fewer than `least` patients on a side.
    """
    sides = []
    for split in ("train", "test"):
        rows = images.select(split)
        sides.append(rows[images.labels[rows] >= 0])
    train_ids, test_ids = (np.unique(images.patients[rows]) for rows in sides)
    shared = np.intersect1d(images.patients[images.splits == 0], images.patients[images.splits > 0])
    ids = np.setdiff1d(np.union1d(train_ids, test_ids), shared)
    member = np.isin(ids, train_ids)
    found = int(member.sum()), int((~member).sum())
    if min(found) < least:
        raise DataError("leak audit", [
            f"{found[0]} patients of the train split and {found[1]} held-out ones (test split) "
            f"have a labelled image and are on one side only; the attacks compare the two and need "
            f"{least} of each. Raise data.test_fraction before a run, or add images"
        ])  # fmt: skip
    rows = np.concatenate(sides)
    return Cohort(images, rows[np.isin(images.patients[rows], ids)], ids, member, len(shared))


def how_well(model: Autoencoder, cohort: Cohort) -> dict[str, Scores]:
    """Return `[P]` per part: mean log-odds of the true class, mean SSIM of the reconstruction."""
    seen = infer(model, cohort.images, cohort.rows)
    logits = seen.logits.astype(np.float64)
    true = np.arange(len(logits)), cohort.images.labels[cohort.rows]
    others = logits.copy()
    others[true] = -np.inf
    odds = logits[true] - np.logaddexp.reduce(others, axis=1)
    return {"head": cohort.per_patient(odds), "autoencoder": cohort.per_patient(seen.ssim)}


@dataclass(frozen=True)
class Shadows:
    """What models did that were trained on halves of the site's patients.

    Attributes:
        outside: per part `[P]`, mean over the shadows that never saw the patient.
        count: shadows.
        steps: optimiser steps of each.
    """

    outside: dict[str, Scores]
    count: int
    steps: int


def train_shadows(
    like: Autoencoder,
    cohort: Cohort,
    learning: LearningConfig,
    size: tuple[int, int],
    seed: int,
    show: Callable[[int], None] | None = None,
) -> Shadows:
    """Train shadow models in complementary halves, so every patient is outside half of them.

    Args:
        like: shape of the models.
        cohort: all patients, members and others.
        learning: as in the attacked run.
        size: shadows (even, at least 2) and optimiser steps of each.
        seed: of halves and training.
        show: is told how many are done.
    """
    count, steps = size
    generator = np.random.default_rng(seed)
    totals = {part: np.zeros(len(cohort.patients)) for part in PARTS}
    number = np.zeros(len(cohort.patients))
    inside = np.zeros(len(cohort.patients), dtype=bool)
    for shadow in range(count):
        if shadow % 2 == 0:
            order = generator.permutation(len(inside))
            inside = np.isin(np.arange(len(inside)), order[: len(order) // 2])
        else:
            inside = ~inside
        model = train_anew(like, cohort.images, cohort.rows_of(inside), learning, steps, shadow)
        for part, values in how_well(model, cohort).items():
            totals[part] += np.where(inside, 0.0, values)
        number += ~inside
        if show is not None:
            show(shadow + 1)
    return Shadows({part: total / number for part, total in totals.items()}, count, steps)


def train_anew(
    like: Autoencoder,
    images: ImageSet,
    rows: Indices,
    learning: LearningConfig,
    steps: int,
    seed: int,
) -> Autoencoder:
    """Return a model of the same shape, trained from its start on `rows` alone."""
    classes = like.head.out_features
    model = build_autoencoder(like.model_config, like.image_config, classes, seed)
    if model.linear_path is not None:
        start_linear_path(model, patch_moments(images, rows, like.model_config))
    plan = Schedule(0, steps)
    train(model, images, rows, learning, schedule=plan, steps=steps, seed=seed)
    return model


def beyond(scores: Scores, outside: Scores) -> Scores:
    """Return what is left of `scores` after a straight line over `outside`, `[P]` each."""
    centred = outside - outside.mean()
    spread = float(centred @ centred)
    slope = float(centred @ (scores - scores.mean())) / spread if spread > 0 else 0.0
    rest: Scores = scores - scores.mean() - slope * centred
    return rest
