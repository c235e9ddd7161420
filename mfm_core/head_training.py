"""Training of a linear head on frozen latents: full-batch steps in the atlas's own coordinates.

The loss of a site is the mean over its labelled images of the cross-entropy, each image weighted by

    1 / (images of its patient in its class)    as in the atlas, times the group weight,

and averaged over random shifts of the latent where there are any (`random_alpha`), plus
(penalty / 2) q v |W|^2, v the mean within-class variance of a latent number and q the smaller of 1
and latent numbers over patients (a prior weighs less where there are more patients). A step is
W -= RATE gradient T^-1 with the pooled covariance of the shifted latents,

    T = shrunk within-class + between-class + covariance of the shifts,

which every site knows from the atlas: a plain gradient step in coordinates where the latents are
white. There the Hessian of softmax is at most about 1/2, so RATE is half of what would still be
stable on the pooled images, and ten to twenty steps suffice. Biases are not penalised.

The first step of a call is always the whole one, so that one step a round, averaged by images, is
the step on the pooled images. From the second on a step is halved until the site's own loss falls,
because the latents of a small site are not white. Nothing is drawn at random.

Source: Boehning 1992 (the bound of 1/2 on the Hessian); paper section 3.3 (only the classification
layer is trained again). What crosses the hospital's boundary: the change of the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import log_softmax

from mfm_core.atlas import Atlas
from mfm_core.erasure import centre_of, scarcity, shrunk_covariance
from mfm_core.errors import ConfigError, DataError
from mfm_core.head import Head
from mfm_core.latent_sums import index_problems
from mfm_core.sums import Array

RATE = 2.0
"""Step in white coordinates; unstable from 4 / (largest eigenvalue of the white latents) on."""

METRIC_SHRINKAGE = 0.3
"""Share of the identity in T, times q; with 0.03 steps in directions of least variance diverged."""

PENALTY = 0.01
"""Measured on 512 latent numbers of 600 patients: 0.003 to 0.03 gave the least test loss."""

SMALLEST_RATE = 1e-3
"""Where even this step raises the loss, the call ends."""


@dataclass(frozen=True)
class HeadData:
    """One site's training images as the frozen encoder sees them.

    Attributes:
        mu: `[N, L]` latent means.
        labels: `[N]` class index; -1 is left out.
        attributes: `[N, A]` value indices in the ontology's order; -1 is unknown.
        patients: `[N]` equal for images of one patient.
    """

    mu: NDArray[np.floating]
    labels: NDArray[np.int64]
    attributes: NDArray[np.int64]
    patients: NDArray[np.int64]

    @property
    def images(self) -> int:
        """Labelled images: what a site counts for when the heads of a round are averaged."""
        return int((self.labels >= 0).sum())


@dataclass(frozen=True)
class Shifts:
    """Random shifts of every latent, held as weighted points.

    Attributes:
        steps: `[Q, L]` shifts, of weighted mean zero.
        weights: `[Q]`, sum 1.
    """

    steps: Array
    weights: Array

    @property
    def covariance(self) -> Array:
        """`[L, L]`, of the shift."""
        covariance: Array = (self.steps * self.weights[:, None]).T @ self.steps
        return covariance


def no_shifts(latent_size: int) -> Shifts:
    """Return the one shift by nothing."""
    return Shifts(np.zeros((1, latent_size)), np.ones(1))


@dataclass(frozen=True)
class Course:
    """What is the same at every site.

    Attributes:
        shifts: of the latents.
        metric: `[L, L]`, T of the module's text.
        ridge: >= 0, weight of |W|^2 / 2.
    """

    shifts: Shifts
    metric: Array
    ridge: float


def course_of(atlas: Atlas, shifts: Shifts, penalty: float = PENALTY) -> Course:
    """Return the course of an atlas.

    Args:
        atlas: pooled.
        shifts: `no_shifts`, or those of `random_alpha`.
        penalty: >= 0, per mean within-class variance, times `erasure.scarcity`.

    Raises:
        ConfigError: the penalty is negative or not finite.
    """
    if not (np.isfinite(penalty) and penalty >= 0):
        raise ConfigError("mitigation", [f"penalty is {penalty}; expected at least 0"])
    centre, share = centre_of(atlas), atlas.counts / atlas.counts.sum()
    pulls = np.where(atlas.counts[:, None] > 0, atlas.means - centre, 0.0)
    between = (pulls * share[:, None]).T @ pulls
    few = scarcity(atlas)
    within = shrunk_covariance(atlas, METRIC_SHRINKAGE * few)
    ridge = penalty * few * float(np.trace(atlas.covariance)) / atlas.latent_size
    return Course(shifts, within + between + shifts.covariance, ridge)


def train_head(
    head: Head,
    data: HeadData,
    atlas: Atlas,
    course: Course,
    *,
    steps: int,
    weights: Array | None = None,
) -> Head:
    """Return the head after `steps` steps on one site's images; the head itself without any.

    Args:
        head: where to start.
        data: of one site; a site may hold one class or one attribute value only.
        atlas: pooled.
        course: of this atlas.
        steps: >= 0.
        weights: `[N] float64` >= 0, group weight per image; None is 1.

    Raises:
        DataError: shapes disagree, an index is outside the ontology, a latent is not finite.
    """
    lesson, centre = lesson_of(data, atlas, weights), centre_of(atlas)
    if len(lesson.own) == 0:
        return head
    weight = head.weight.astype(np.float64)
    weight, intercept = descend(weight, head.bias + weight @ centre, lesson, course, steps)
    bias = intercept - weight @ centre
    return Head(weight.astype(np.float32), bias.astype(np.float32))


@dataclass(frozen=True)
class Lesson:
    """Labelled images ready for training.

    Attributes:
        latents: `[N, L] float64`, less the pooled mean.
        own: `[N, K] float64`, 1 at the image's class.
        weights: `[N] float64`, including the division by N.
    """

    latents: Array
    own: Array
    weights: Array


def lesson_of(data: HeadData, atlas: Atlas, weights: Array | None = None) -> Lesson:
    """Return the labelled images of a site; arguments and errors as in `train_head`."""
    refuse_unusable(data, atlas)
    classes = len(atlas.counts)
    rows = np.flatnonzero(data.labels >= 0)
    labels = data.labels[rows]
    _, patient = np.unique(data.patients[rows], return_inverse=True)
    _, unit, images = np.unique(patient * classes + labels, return_inverse=True, return_counts=True)
    share = 1.0 / images[unit] if weights is None else weights[rows] / images[unit]
    latents = data.mu[rows].astype(np.float64) - centre_of(atlas)
    return Lesson(latents, np.eye(classes)[labels], share / max(len(rows), 1))


def descend(
    weight: Array, intercept: Array, lesson: Lesson, course: Course, steps: int
) -> tuple[Array, Array]:
    """Return weight `[K, L]` and intercept `[K]` (about the centre) after some steps."""
    factor = cho_factor(course.metric)
    known = None
    for step in range(steps):
        value, slope, by_bias = known or loss_and_gradient(weight, intercept, lesson, course)
        down = cho_solve(factor, slope.T).T
        rate, known = RATE, None
        while step > 0:
            moved = (weight - rate * down, intercept - rate * by_bias)
            known = loss_and_gradient(*moved, lesson, course)
            if known[0] <= value:
                break
            if rate < SMALLEST_RATE:
                return weight, intercept
            rate /= 2
        weight, intercept = weight - rate * down, intercept - rate * by_bias
    return weight, intercept


def loss_and_gradient(
    weight: Array, intercept: Array, lesson: Lesson, course: Course
) -> tuple[float, Array, Array]:
    """Return the loss with its penalty and its gradients.

    Returns:
        nats; `[K, L]` by the weight; `[K]` by the intercept.
    """
    scores = lesson.latents @ weight.T + intercept
    shifted = scores[:, None, :] + course.shifts.steps @ weight.T
    log_p = log_softmax(shifted, axis=2)
    points = lesson.weights[:, None] * course.shifts.weights
    loss = -float((points[..., None] * log_p * lesson.own[:, None, :]).sum())
    wrong = points[..., None] * (np.exp(log_p) - lesson.own[:, None, :])
    slope: Array = wrong.sum(axis=1).T @ lesson.latents + course.ridge * weight
    slope += wrong.sum(axis=0).T @ course.shifts.steps
    return loss + 0.5 * course.ridge * float((weight**2).sum()), slope, wrong.sum(axis=(0, 1))


def refuse_unusable(data: HeadData, atlas: Atlas) -> None:
    """Raise one DataError that lists everything wrong with a site's images, by number only."""
    images, attributes = len(data.mu), atlas.ontology.attributes
    found = (data.mu.shape, data.labels.shape, data.attributes.shape, data.patients.shape)
    wanted = ((images, atlas.latent_size), (images,), (images, len(attributes)), (images,))
    if found != wanted:
        expected = "expected mu, labels, attributes, patients of shapes"
        raise DataError("head training", [f"{expected} {wanted}; found {found}"])
    problems = []
    broken = int((~np.isfinite(data.mu[data.labels >= 0]).all(axis=1)).sum())
    if broken:
        problems.append(
            f"{broken} labelled images have a latent that is not finite: the model has diverged; "
            "go back to an earlier checkpoint"
        )
    problems += index_problems(data.labels, data.attributes, atlas.ontology)
    if problems:
        raise DataError("head training", problems)
