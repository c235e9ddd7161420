"""A site's own atlas: its exact means and covariance, drawn towards those of the consortium.

A released atlas is noisy and a small site's own cells vary by chance. Each mean is averaged with
weights that the data give: the distance between own and global mean says how much more they differ
than chance explains (empirical Bayes, the positive part of James and Stein), so a cell of three
patients follows the consortium and one of three hundred speaks for itself. The covariance counts
the consortium as PRIOR_PATIENTS patients: below about that many a site's own does not stand alone.

It is for the site's own explanations and never leaves: no noise was added to it.
Source: Efron and Morris, "Stein's Estimation Rule and Its Competitors", JASA 1973.
What crosses the hospital's boundary: nothing, and no exchange has a place for it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mfm_core.atlas import Atlas, atlas_from
from mfm_core.errors import DataError
from mfm_core.sums import Array, Sum

PRIOR_PATIENTS = 2500.0
"""How many patients the consortium's covariance counts for."""


def shrunk_atlas(own: Sum, consortium: Atlas) -> Atlas:
    """Return the site's atlas, of the same encoder and ontology; counts are the site's own.

    A class or cell that the site has not takes mean and count of the consortium; one that the
    consortium does not show keeps the site's.

    Args:
        own: exact latent Sum of the site, every cell of it.
        consortium: the released atlas.

    Raises:
        DataError: the sums are of other shapes than the atlas.
    """
    if own["class.sum"].shape != consortium.means.shape:
        found, wanted = own["class.sum"].shape, consortium.means.shape
        raise DataError("own atlas", [f"found class sums {found}, expected {wanted}"])
    if own["class.count"].sum() <= (own["class.count"] > 0).sum():
        return consortium
    alone = atlas_from(own, consortium.ontology, consortium.encoder_hash, consortium.config_hash)
    spread = float(np.trace(consortium.covariance))
    counts, means = _joined(
        (alone.counts, alone.means), (consortium.counts, consortium.means), spread
    )
    cells = {
        name: _joined(
            (alone.attribute_counts[name], alone.attribute_means[name]),
            (consortium.attribute_counts[name], consortium.attribute_means[name]),
            spread,
        )
        for name in consortium.ontology.attributes
    }
    free = float(alone.counts.sum() - (alone.counts > 0).sum())
    weight = free / (free + PRIOR_PATIENTS)
    return replace(
        alone,
        counts=counts,
        means=means,
        covariance=weight * alone.covariance + (1 - weight) * consortium.covariance,
        attribute_counts={name: found[0] for name, found in cells.items()},
        attribute_means={name: found[1] for name, found in cells.items()},
    )


def own_weight(count: Array, own: Array, other: Array, spread: float) -> Array:
    """Return how much of the own mean is kept, in [0, 1].

    Args:
        count: `[...]` patients behind the own mean, > 0 where it is used.
        own: `[..., L]` means.
        other: `[..., L]` means.
        spread: trace of the covariance: a mean of n patients lies spread / n from the true one.
    """
    chance = spread / np.maximum(count, 1e-12)
    seen = ((own - other) ** 2).sum(axis=-1)
    weight: Array = 1.0 - np.minimum(1.0, chance / np.maximum(seen, chance + 1e-300))
    weight = np.where(seen > chance, weight, 0.0)
    return weight


def _joined(
    own: tuple[Array, Array], other: tuple[Array, Array], spread: float
) -> tuple[Array, Array]:
    """Return counts and means of cells: own where only the site has them, and the reverse."""
    (count, mean), (there, known) = own, other
    weight = own_weight(count, mean, known, spread)
    weight = np.where(there > 0, np.where(count > 0, weight, 0.0), 1.0)[..., None]
    return np.where(count > 0, count, there), weight * mean + (1 - weight) * known
