"""How far a class axis drags the recorded attributes along: change of a probe over the target's.

A probe is the linear discriminant of two groups from the atlas, f = M d / sqrt(d' M d), with
d the difference of their means and M the inverse of the shrunk within-class covariance, so that
f' x has the deviation 1 within a class, whatever d is. For an attribute d is the class-conditional
difference (weights n_1 n_0 / (n_1 + n_0) per class), for a class it is the class axis. On a sweep
the slope of each probe over alpha is taken on the latents of the redrawn frames; collateral is the
attribute's slope over the target's, both without sign. Read straight from the moved latents it
would be the Mahalanobis cosine of the two axes.

The covariance is shrunk towards the identity at its mean variance by L / (L + N), L latent numbers
and N patients: much where the covariance rests on few patients. Source: ours (design: collateral
change; after Xia et al. 2024, "attribute amplification", arXiv 2403.09422).
What crosses the hospital's boundary: nothing; probes come from the atlas, which every site has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from mfm_core.atlas import Atlas
from mfm_core.sums import Array

SMALLEST_SLOPE = 1e-9
"""A target's slope below it (deviations per step) counts as no change at all."""


@dataclass(frozen=True)
class Probes:
    """Standardised linear probes: the deviation within a class is 1.

    Attributes:
        targets: class name to `[L] float64`, the class against all others; absent where an axis
            cannot be drawn.
        attributes: attribute name to `[V, L] float64`, each value against the other values; no
            rows for a one-sided attribute (no class has patients with both).
    """

    targets: Mapping[str, Array]
    attributes: Mapping[str, Array]


def probes_of(atlas: Atlas) -> Probes:
    """Return the probes of every class and of every attribute of the atlas's ontology."""
    size, patients = atlas.latent_size, float(atlas.counts.sum())
    shrinkage = size / (size + patients)
    spread = (1 - shrinkage) * atlas.covariance
    spread[np.diag_indices(size)] += shrinkage * np.trace(atlas.covariance) / size
    factor = cho_factor(spread, lower=True, overwrite_a=True)

    def probe(difference: Array) -> Array:
        filtered = cho_solve(factor, difference)
        deviation = np.sqrt(max(float(difference @ filtered), np.finfo(np.float64).tiny))
        standardised: Array = filtered / deviation
        return standardised

    several = len(atlas.present) > 1
    targets = {name: probe(atlas.class_axis(name)) for name in atlas.present if several}
    attributes = {}
    for name in atlas.ontology.attributes:
        differences = _differences(atlas.attribute_counts[name], atlas.attribute_means[name])
        rows = [probe(difference) for difference in differences]
        attributes[name] = np.array(rows).reshape(-1, size)
    return Probes(targets, attributes)


def _differences(counts: Array, means: Array) -> list[Array]:
    """Return per value the class-conditional difference to the other values; `[K, V]` counts."""
    found = []
    for value in range(counts.shape[1]):
        one = counts[:, value]
        rest = np.delete(counts, value, axis=1)
        others = np.einsum("kv,kvl->kl", rest, np.delete(means, value, axis=1))
        zero = rest.sum(axis=1)
        weight = one * zero / np.maximum(one + zero, np.finfo(np.float64).tiny)
        if weight.sum() > 0:
            means_of_others = others / np.maximum(zero, np.finfo(np.float64).tiny)[:, None]
            found.append(weight @ (means[:, value] - means_of_others) / weight.sum())
    return found


def collateral(
    probes: Probes, target: str, alphas: Array, latents: NDArray[np.floating]
) -> dict[str, float]:
    """Return per attribute its change over the target's along one sweep.

    Args:
        probes: of the atlas that the sweep was made with.
        target: the class that the sweep moves towards.
        alphas: `[A] float64`, at least two different ones.
        latents: `[A, L]`, of the redrawn frames.

    Returns:
        Attribute name to a number >= 0 (of several values the one that changes most; infinite
        where the target does not change); attributes that are one-sided are left out.
    """
    centred = np.asarray(alphas, dtype=np.float64) - np.mean(alphas)
    slope = centred @ np.asarray(latents, dtype=np.float64) / (centred @ centred)
    own = abs(float(probes.targets[target] @ slope))
    found = {}
    for name, rows in probes.attributes.items():
        if len(rows):
            change = float(np.abs(rows @ slope).max())
            found[name] = change / own if own > SMALLEST_SLOPE else float("inf")
    return found
