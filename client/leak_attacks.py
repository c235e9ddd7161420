"""The attacks of the leak audit, each from an opened site to rows of figures.

A row says what was attacked and who could see it: the release (model and atlas, whoever gets them),
the coordinator (this site's own update and sums, unless a secure sum hides them), or nobody (an
experiment on the training itself). Only attacks on the release are judged by the gates.
What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from client.audit import Opened, own_cells
from mfm_core.atlas import atlas_from
from mfm_core.autoencoder import Autoencoder
from mfm_core.canaries import Exposure, insert_canaries
from mfm_core.config import LearningConfig
from mfm_core.dataset import ImageSet
from mfm_core.gradient_inversion import (
    Redrawn,
    compare,
    draw_back,
    gradient_of,
    shielded,
    update_gradient,
)
from mfm_core.inference import latents_of
from mfm_core.leak_figures import Bounds, Scores, Strength, bounds_of
from mfm_core.mean_membership import expected_auc, mean_scores, span_scores, weights_of
from mfm_core.membership import LEAST, PARTS, Cohort, Shadows, beyond, how_well
from mfm_core.nearest_patient import nearest_patient
from mfm_core.private_training import PrivateStep, group_units, train_privately
from mfm_core.training import Schedule, train
from strategies.privacy import PrivacyConfig

Seen = Literal["release", "coordinator", "nobody"]

REDRAWN = 5
"""Images whose gradients are inverted one by one."""

CANARIES = 32
"""Pictures inserted into a training run; as many more are never inserted."""

PASSES = 4
"""How often a canary is seen in that run, at least."""


@dataclass(frozen=True)
class Row:
    """One membership attack.

    Attributes:
        name: of the attack, at most 64 characters.
        seen: who could make it.
        strength: what it reached.
        bound: what a formal guarantee leaves to any attack of this kind; None without one.
        expected_auc: a closed form of the same attack; None where there is none.
        judged: whether the gates judge it.
    """

    name: str
    seen: Seen
    strength: Strength
    bound: Bounds | None = None
    expected_auc: float | None = None
    judged: bool = False


@dataclass(frozen=True)
class Training:
    """How this site trains: the agreed settings and the protection."""

    learning: LearningConfig
    privacy: PrivacyConfig

    def teach(self, model: Autoencoder, images: ImageSet, rows: Any, steps: int) -> Autoencoder:
        """Return a copy of the model after steps on `rows`, private where that is agreed."""
        learner, plan = copy.deepcopy(model), Schedule(0, steps)
        if not self.privacy.private_steps:
            train(learner, images, rows, self.learning, schedule=plan, steps=steps, seed=0)
            return learner
        units = len(group_units(images, rows, self.privacy.unit))
        train_privately(
            learner, images, rows, self.learning, schedule=plan, steps=steps, seed=None,
            privacy=self.step(units), trainable=self.privacy.trainable,
        )  # fmt: skip
        return learner

    def step(self, units: int) -> PrivateStep:
        """Return the private step on so many units."""
        agreed = self.privacy
        rate = min(1.0, self.learning.training.batch_size / units)
        return PrivateStep(agreed.noise_multiplier, agreed.max_grad_norm, rate, agreed.unit)


def attack_model(opened: Opened, cohort: Cohort, bound: Bounds | None) -> list[Row]:
    """Return the simple attacks on the final model."""
    found = how_well(opened.model, cohort)
    return [
        Row(f"membership, {part}, simple", "release", cohort.strength(found[part]), bound,
            judged=True)
        for part in PARTS
    ]  # fmt: skip


def attack_with_shadows(
    opened: Opened, cohort: Cohort, shadows: Shadows, bound: Bounds | None
) -> list[Row]:
    """Return the attacks by shadow models, and the control on the shadows alone."""
    found, rows = how_well(opened.model, cohort), []
    for part in PARTS:
        outside = shadows.outside[part]
        strength = cohort.strength(beyond(found[part], outside))
        rows.append(Row(f"membership, {part}, LiRA", "release", strength, bound, judged=True))
        control = cohort.strength(outside)
        rows.append(Row(f"control, {part}", "nobody", control))
    return rows


def _latents(opened: Opened, cohort: Cohort) -> tuple[Cohort, Scores, NDArray[np.int64]]:
    """Return the patients with one class, their mean latents `[P, L]` and classes `[P]`."""
    labels = cohort.images.labels[cohort.rows]
    top = len(opened.ontology.classes)
    shares = cohort.per_patient(np.eye(top)[labels])
    single = shares.max(axis=1) > 1 - 1e-9
    rows = cohort.rows_of(single)
    kept = replace(cohort, rows=rows, patients=cohort.patients[single],
                   member=cohort.member[single])  # fmt: skip
    latents = kept.per_patient(latents_of(opened.model, kept.images, rows))
    return kept, latents, shares[single].argmax(axis=1)


def attack_sums(
    opened: Opened, cohort: Cohort, masked: bool = False
) -> tuple[list[Row], list[str]]:
    """Return the attacks on means and covariances, and what was not done.

    Args:
        opened: the site.
        cohort: its patients.
        masked: whether a secure sum hides this site's own sums from the coordinator.
    """
    kept, latents, classes = _latents(opened, cohort)
    sides = int(kept.member.sum()), int((~kept.member).sum())
    if min(sides) < LEAST:
        return [], [f"sums: {sides[0]} members and {sides[1]} others with one class, of {LEAST}"]
    own = atlas_from(own_cells(opened), opened.ontology, opened.atlas.encoder_hash)
    rows, missing = list[Row](), list[str]()
    if masked:
        missing.append("this site's own sums: a secure sum hides them from the coordinator")
    places: tuple[tuple[Seen, str, Any], ...] = (
        ("release", "the atlas", opened.atlas), ("coordinator", "this site's sums", own)
    )  # fmt: skip
    for seen, words, atlas in places[:1] if masked else places:
        judged = seen == "release"
        weights, dimensions = weights_of(atlas.covariance)
        given = (atlas.means, atlas.counts, weights)
        scores, _ = mean_scores(latents, classes, kept.member, given, seed=0)
        known = np.isfinite(scores)
        part = replace(kept, patients=kept.patients[known], member=kept.member[known])
        if min(int(part.member.sum()), int((~part.member).sum())) < LEAST:
            missing.append(f"mean test on {words}: too few held-out patients of each class")
        else:
            counts = atlas.counts[classes[known & kept.member]]
            expected = float(np.mean([expected_auc(dimensions, n) for n in counts]))
            strength = part.strength(scores[known])
            rows.append(Row(f"class means of {words}", seen, strength, None, expected, judged))
        present = atlas.counts[classes] > 0
        part = replace(kept, patients=kept.patients[present], member=kept.member[present])
        if min(int(part.member.sum()), int((~part.member).sum())) >= LEAST:
            scores = span_scores(latents, classes, atlas.means, atlas.covariance)[present]
            rows.append(Row(f"covariance of {words}", seen, part.strength(scores), None, None,
                            judged))  # fmt: skip
    return rows, missing


def attack_drawings(opened: Opened, cohort: Cohort) -> list[dict[str, Any]]:
    """Return per class whether the decoded mean is nearer to a member than to others."""
    first = _first_images(cohort)
    pictures = cohort.images.batch(first).numpy()
    labels, found = cohort.images.labels[first], []
    for index, name in enumerate(opened.ontology.classes):
        if opened.atlas.counts[index] < 1:
            continue
        mean = torch.from_numpy(opened.atlas.means[index].astype(np.float32))[None]
        with torch.no_grad():
            drawn = opened.model.decode(mean)[0].numpy()
        mine = labels == index
        result = nearest_patient(drawn, pictures[mine], cohort.member[mine], seed=index)
        found.append({"class": name, **(vars(result) if result is not None else {})})
    return found


def _first_images(cohort: Cohort) -> NDArray[np.int64]:
    """Return one image of each patient, in the order of the patients."""
    _, places = np.unique(cohort.images.patients[cohort.rows], return_index=True)
    chosen: NDArray[np.int64] = cohort.rows[places]
    return chosen


@dataclass(frozen=True)
class Inverted:
    """What gradients gave back: images one by one, and an update of a whole local round."""

    single: tuple[Redrawn, ...]
    update: Redrawn


def attack_gradients(
    opened: Opened, cohort: Cohort, training: Training, steps: tuple[int, int]
) -> Inverted:
    """Return the reconstructions from gradients of one image and from a real update.

    Args:
        opened: the site.
        cohort: its patients.
        training: as the site trains.
        steps: of matching per image, and of the local round.
    """
    model, images, privacy = opened.model, cohort.images, training.privacy
    among, objective = _first_images(cohort), training.learning.objective
    members = among[cohort.member]
    mean = images.batch(among).mean(dim=0, keepdim=True)
    single = []
    for number, row in enumerate(members[:: max(len(members) // REDRAWN, 1)][:REDRAWN]):
        seen = gradient_of(model, images.batch(np.array([row])), int(images.labels[row]), objective)
        if privacy.private_steps:
            seen = shielded(seen, privacy.max_grad_norm, privacy.noise_multiplier, number)
        drawings = draw_back(model, seen, mean, objective, steps[0])
        single.append(compare(drawings, images, np.array([row]), among))
    after = training.teach(model, images, images.select("train"), steps[1])
    drawings = draw_back(model, update_gradient(model, after), mean, objective, steps[0])
    return Inverted(tuple(single), compare(drawings, images, members, among))


@dataclass(frozen=True)
class Caught:
    """What became of the canaries, and how they were trained."""

    exposure: Exposure
    rows: tuple[Row, ...]
    images: int
    steps: int


def attack_canaries(opened: Opened, training: Training, steps: int) -> Caught:
    """Return the exposure of canaries in a local training run of `steps` steps."""
    images = opened.images
    batch = training.learning.training.batch_size
    train_rows = images.select("train")
    most = max(steps * batch // PASSES - CANARIES, batch)
    rows = np.sort(np.random.default_rng(0).permutation(train_rows)[:most])
    spent: list[tuple[float, float, int]] = []

    def trainer(mixed: ImageSet) -> Autoencoder:
        everything = np.arange(len(mixed))
        if training.privacy.private_steps:
            step = training.step(len(group_units(mixed, everything, training.privacy.unit)))
            spent.append((step.noise_multiplier, step.sample_rate, steps))
        return training.teach(opened.model, mixed, everything, steps)

    plan = (CANARIES, len(opened.ontology.classes), 0)
    found = insert_canaries(images, rows, plan, trainer)
    bound = bounds_of(spent)
    made = tuple(
        Row(f"canaries, {part}", "nobody", strength, bound)
        for part, strength in found.strength.items()
    )
    return Caught(found, made, len(rows), steps)


Show = Callable[[int, int], None]
