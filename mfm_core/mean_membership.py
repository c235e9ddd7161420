"""Is a patient in a mean, or in a covariance, that was released? Attacks on latent sums.

Mean test (Homer et al. 2008; notes on trust, section 3.4): the product of a patient's latent and a
released mean, both less a reference, weighted by the inverse spread W. Its expectation is
tr(W S) / n for a member and 0 for others, its variance tr(W S W S) / n for both, so that

    AUC = Phi(sqrt(d / 2n)),    d = tr(W S)^2 / tr(W S W S),    d <= L.

The reference is the mean of held-out patients of that class without the patient in question; for
a member, one of them is left out by lot, so both kinds of score have one distribution where the
mean knows neither.

Span test (ours): a covariance of N patients in L > N numbers shows exactly the directions in which
members differ; the latent of anybody else leaves that space. Score: minus the squared distance from
the class mean under the released covariance.
What crosses the hospital's boundary: nothing; the attacks are made on what has crossed already.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import ndtr

from mfm_core.leak_figures import Scores
from mfm_core.sums import Array

LEAST_REFERENCE = 3
"""Fewest held-out patients of a class; others of that class are left out of the mean test."""

SHRINKAGE = 0.1
"""Of the spread towards its mean variance before it is inverted, in the mean test."""

NOTHING = 1e-12


def expected_auc(dimensions: float, patients: float) -> float:
    """Return Phi(sqrt(d / 2n)), the AUC of the mean test in d dimensions on a mean of n."""
    return float(ndtr(math.sqrt(dimensions / (2 * patients))))


def weights_of(covariance: Array) -> tuple[Array, float]:
    """Return W `[L, L]` and d, the dimensions that the mean test has under W."""
    size = len(covariance)
    level = max(float(np.trace(covariance)) / size, NOTHING)
    mixed = (1 - SHRINKAGE) * covariance + SHRINKAGE * level * np.eye(size)
    weights = cho_solve(cho_factor(mixed), np.eye(size))
    product = weights @ covariance
    squares = float((product * product.T).sum())
    return weights, float(np.trace(product)) ** 2 / max(squares, NOTHING)


def mean_scores(
    latents: Array,
    groups: NDArray[np.int64],
    member: NDArray[np.bool_],
    released: tuple[Array, Array, Array],
    seed: int,
) -> tuple[Scores, Array]:
    """Return the mean test's score of every patient that can be tested.

    Args:
        latents: `[P, L]` of patients.
        groups: `[P]` which released mean a patient would be in.
        member: `[P]` whether it is; decides only which held-out patients serve as reference.
        released: means `[G, L]`, counts `[G]` of patients, W `[L, L]`.
        seed: of the lots.

    Returns:
        `[P]` scores over sqrt(d / n), NaN where the group's reference is too small; and `[G]` the
        reference counts.
    """
    means, counts, weights = released
    scores, sizes = np.full(len(latents), np.nan), np.zeros(len(means))
    generator = np.random.default_rng(seed)
    for group in range(len(means)):
        held = np.flatnonzero((groups == group) & ~member)
        sizes[group] = len(held)
        if len(held) < LEAST_REFERENCE or counts[group] < 1:
            continue
        total = latents[held].sum(axis=0)
        rows = np.flatnonzero(groups == group)
        lots = held[generator.integers(len(held), size=len(rows))]
        away = np.where(member[rows], lots, rows)
        reference = (total - latents[away]) / (len(held) - 1)
        left, right = (latents[rows] - reference) @ weights, means[group] - reference
        scores[rows] = (left * right).sum(axis=1) * math.sqrt(counts[group])
    return scores, sizes


def span_scores(
    latents: Array, groups: NDArray[np.int64], means: Array, covariance: Array
) -> Scores:
    """Return minus the squared distance `[P]` of latents from their class means.

    Args:
        latents: `[P, L]`.
        groups: `[P]` class.
        means: `[K, L]` released.
        covariance: `[L, L]` released, positive definite.
    """
    rest = latents - means[groups]
    distances: Scores = -(rest * cho_solve(cho_factor(covariance), rest.T).T).sum(axis=1)
    return distances
