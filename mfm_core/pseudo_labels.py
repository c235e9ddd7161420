"""Labels for unlabelled images from the class Gaussians of the consortium, or none where unsure.

The Gaussians come from class sums of all sites: means m_k of n_k patients each, and the pooled
within-class covariance, shrunk to S as for heads (`erasure.shrunk_covariance`). With d_k(x) the
squared Mahalanobis distance to m_k, an image is labelled a where two conditions hold:

- posterior: 1 / (1 + sum_b exp(-l_ab)) >= the agreed bound (.95),
  l_ab = rho_ab (d_b - d_a) / 2 + log(n_a / n_b),  rho_ab = max(0, 1 - L (1/n_a + 1/n_b) / D_ab);
- gate: d_a <= (1 + 1/n_a) times the agreed quantile (.99) of chi-square with L degrees.

rho is what makes the posterior honest with few labels. D_ab is the squared distance of the two
means; L (1/n_a + 1/n_b) of it is expected by chance alone, since a mean of n patients lies S / n
away from the true one. The scores (d_b - d_a) / 2 of either class have variance D_ab and means
rho_ab D_ab apart, so their log likelihood ratio is rho times the score. Without it two samples of
five patients of the *same* class look surely different in 512 dimensions. The gate keeps out what
lies far from every class, whichever it lies least far from.

Given a trained head, all this happens in the K - 1 directions that it looks at (`head_space`): the
others, some 500, hold the noise of the covariance and whatever tells one scanner from another, and
the gate adds them all up. Measured on phantoms (349 labelled patients, a second scanner): in all
512 directions the gate let none of that scanner's 1,407 images through, in the head's four 809.
With `own_mean` a site first moves its images so that their mean is the consortium's: 849, and .89
of them right in place of .71. That presupposes class shares not too unlike the consortium's.

Source: discriminant analysis with bias-corrected distances (Lachenbruch 1968); pseudo-labels, Lee
2013; paper section 2.6. What crosses the hospital's boundary: nothing here. Class sums come in;
the labels stay, and the training that uses them sends what any training sends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.stats import chi2

from mfm_core.atlas import Atlas, atlas_from
from mfm_core.config import OntologyConfig, PseudoLabelConfig
from mfm_core.erasure import scarcity, shrunk_covariance
from mfm_core.head import Head
from mfm_core.sums import Array, Sum

SHRINKAGE = 0.6
"""Of the covariance, times `erasure.scarcity`; as for the heads from sums."""

NO_LABEL = -1

SMALLEST_PART = 1e-6
"""Directions of a head weaker than this part of its strongest count as none."""


@dataclass(frozen=True)
class Verdict:
    """What the class Gaussians say of some images.

    Attributes:
        labels: `[N] int64`, the class that is taken; -1 where the image stays unlabelled.
        nearest: `[N] int64`, the class of the largest posterior, taken or not.
        posterior: `[N]`, its posterior.
        near: `[N] bool`, whether the gate of that class lets the image in.
    """

    labels: NDArray[np.int64]
    nearest: NDArray[np.int64]
    posterior: Array
    near: NDArray[np.bool_]


def class_atlas(total: Sum, classes: tuple[str, ...]) -> Atlas | None:
    """Return the Gaussians of merged class sums; None where too few patients give no covariance."""
    counts = total["class.count"]
    if counts.sum() <= (counts > 0).sum():
        return None
    return atlas_from(total, OntologyConfig(classes=classes), "")


def head_space(head: Head, atlas: Atlas) -> Array:
    """Return `[R, L]`, orthonormal directions in which a head tells the atlas's classes apart.

    R is at most one less than the classes with patients, and 0 for a head that tells nothing apart.
    """
    weight = head.weight[atlas.counts > 0].astype(np.float64)
    if len(weight) == 0:
        return np.zeros((0, atlas.latent_size))
    _, strength, directions = np.linalg.svd(weight - weight.mean(axis=0), full_matrices=False)
    found: Array = directions[strength > SMALLEST_PART * max(float(strength[0]), 1e-12)]
    return found


def moved(mu: NDArray[np.floating], atlas: Atlas) -> Array:
    """Return latents `[N, L]` moved so that their mean is that of the atlas's patients."""
    middle = atlas.counts @ atlas.means / atlas.counts.sum()
    found: Array = mu - mu.mean(axis=0, dtype=np.float64) + middle
    return found


def without_small(
    labels: NDArray[np.int64], patients: NDArray[np.int64], smallest: int
) -> NDArray[np.int64]:
    """Return labels `[N]` less those of classes with fewer than `smallest` patients `[N]`."""
    kept = labels.copy()
    for label in np.unique(labels):
        if len(np.unique(patients[labels == label])) < smallest:
            kept[labels == label] = NO_LABEL
    return kept


def pseudo_labels(
    mu: NDArray[np.floating], atlas: Atlas, config: PseudoLabelConfig, head: Head | None = None
) -> Verdict:
    """Return which of one site's latents `[N, L]` can be labelled, and how.

    Args:
        mu: latent means, of the encoder that the atlas was made with.
        atlas: of labelled patients, `class_atlas` or a run's own.
        config: bound of the posterior, quantile of the gate, and whether the mean is moved.
        head: trained with that encoder; looked at are its directions alone, where it has any.

    Returns:
        Labels of classes with patients only; with fewer than two such classes none at all.
    """
    if config.own_mean and len(mu) > 0:
        mu = moved(mu, atlas)
    directions = np.zeros((0, 0)) if head is None else head_space(head, atlas)
    if len(directions) > 0:
        mu = mu @ directions.T
        covariance = directions @ atlas.covariance @ directions.T
        means = atlas.means @ directions.T
        atlas = Atlas(atlas.ontology, atlas.counts, means, covariance)
    present = np.flatnonzero(atlas.counts > 0)
    counts, size = atlas.counts[present], atlas.latent_size
    root = np.linalg.cholesky(shrunk_covariance(atlas, SHRINKAGE * scarcity(atlas)))
    white = solve_triangular(root, mu.astype(np.float64).T, lower=True).T
    centres = solve_triangular(root, atlas.means[present].T, lower=True).T
    distance = _squares(white, centres)
    posterior = _posteriors(distance, _squares(centres, centres), counts, size)
    best = posterior.argmax(axis=1)
    rows = np.arange(len(mu))
    reach = (1.0 + 1.0 / counts[best]) * float(chi2.ppf(config.gate, size))
    near = distance[rows, best] <= reach
    sure = posterior[rows, best] >= config.posterior
    taken = sure & near & (len(present) > 1)
    labels = np.where(taken, present[best], NO_LABEL).astype(np.int64)
    return Verdict(labels, present[best], posterior[rows, best], near)


def _squares(points: Array, centres: Array) -> Array:
    """Return `[N, C]` squared distances of `[N, L]` and `[C, L]`."""
    found = (points**2).sum(axis=1)[:, None] - 2.0 * points @ centres.T
    squares: Array = np.maximum(found + (centres**2).sum(axis=1), 0.0)
    return squares


def _posteriors(distance: Array, apart: Array, counts: Array, size: int) -> Array:
    """Return `[N, C]`, each class's posterior from its log odds against every other one.

    Args:
        distance: `[N, C]` squared distances to the means.
        apart: `[C, C]` squared distances between the means.
        counts: `[C]` patients behind the means.
        size: L.
    """
    chance = size * (1.0 / counts[:, None] + 1.0 / counts[None, :])
    kept = np.maximum(0.0, 1.0 - chance / np.maximum(apart, chance * 1e-9))
    prior = np.log(counts)
    odds = np.zeros_like(distance)
    for own in range(len(counts)):
        against = 0.5 * (distance - distance[:, [own]]) * kept[own] + prior[own] - prior
        against[:, own] = 0.0  # exp(0) = 1 stands for the class itself
        odds[:, own] = np.logaddexp.reduce(-against, axis=1)
    posterior: Array = np.exp(-odds)
    return posterior
