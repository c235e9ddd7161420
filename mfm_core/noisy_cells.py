"""From noisy cells to latent sums that everything else can use: suppression, repair, lifting.

Everything here is done after the noise, so it costs no privacy: cells whose *noisy* count is too
small are left out; a mean is its noisy sum over its noisy count, no longer than the clip allows;
the within-class covariance loses the part that noise adds to it and gets no eigenvalue below the
level of the noise; the result is written as the latent Sum in all L dimensions of which
`mfm_core.atlas.atlas_from` makes exactly these means and this covariance. Outside the public
directions means are those of the reference and the covariance is one variance for all, because
nothing was released there.

Source: eigenvalue floor, the spectral radius of symmetric noise, sigma Delta sqrt(2 d) / N (design
notes of this project). What crosses the hospital's boundary: nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mfm_core.config import OntologyConfig
from mfm_core.private_cells import CellPlan, unpacked
from mfm_core.public_basis import PublicBasis
from mfm_core.sums import Array, Sum


@dataclass(frozen=True)
class Repaired:
    """Noisy cells after suppression and repair, in coordinates of the public basis.

    Attributes:
        counts: `[K]` patients; 0 where suppressed.
        means: `[K, d]`, length at most 1; zeros where suppressed.
        covariance: `[d, d]` within classes, positive definite.
        cells: per attribute its `[K, V]` counts and `[K, V, d]` means.
        suppressed: cells left out.
    """

    counts: Array
    means: Array
    covariance: Array
    cells: Mapping[str, tuple[Array, Array]]
    suppressed: int


def repaired(noisy: Sum, plan: CellPlan, deviation: float, smallest: float) -> Repaired:
    """Return what noisy cells say, without what is too small and without what cannot be.

    Args:
        noisy: of `plan.schema`, in patients and clip radii.
        plan: what was released.
        deviation: standard deviation of the noise of every number, in patients; 0 without noise.
        smallest: least noisy count of a cell that is shown.
    """
    counts = np.where(noisy["class.count"] >= smallest, noisy["class.count"], 0.0)
    suppressed = int((counts == 0).sum())
    means = _means(noisy["class.sum"], counts)
    cells = {}
    for name, _ in plan.attributes:
        count = noisy[f"attribute.{name}.count"]
        shown = (count >= smallest) & (counts > 0)[:, None]
        suppressed += int((~shown).sum())
        count = np.where(shown, count, 0.0)
        mean = _means(noisy[f"attribute.{name}.sum"], count)
        most = counts / np.maximum(count.sum(axis=1), 1e-12)
        cells[name] = (count * np.minimum(1.0, most)[:, None], mean)
    covariance = _within(noisy, plan, (counts, means), deviation)
    return Repaired(counts, means, covariance, cells, suppressed)


def lifted(found: Repaired, basis: PublicBasis, ontology: OntologyConfig) -> Sum:
    """Return the latent Sum in L dimensions of which `atlas_from` makes these means.

    Attributes of the ontology that were not released have cells of zeros.
    """
    counts, d = found.counts, basis.directions
    means = basis.latents(found.means)
    variance = float(np.trace(found.covariance)) / len(found.covariance)
    rest = max(basis.outside, 1e-6) * variance
    spread = d.T @ (found.covariance - rest * np.eye(len(d))) @ d + rest * np.eye(d.shape[1])
    free = max(0.0, float(counts.sum()) - int((counts > 0).sum()))
    sums = counts[:, None] * means
    moment = basis.radius**2 * free * spread + means.T @ sums
    arrays = {
        "images": np.array([float(counts.sum())]),
        "class.count": counts,
        "class.sum": sums,
        "second_moment": (moment + moment.T) / 2,
    }
    for name, values in ontology.attributes.items():
        count, mean = found.cells.get(
            name, (np.zeros((len(counts), len(values))), np.zeros((len(counts), len(values), 1)))
        )
        total = np.zeros((*count.shape, d.shape[1]))
        if name in found.cells:
            total = count[..., None] * basis.latents(mean)
        arrays[f"attribute.{name}.count"], arrays[f"attribute.{name}.sum"] = count, total
    return Sum(arrays)


def _means(sums: Array, counts: Array) -> Array:
    """Return sums over counts, shortened to 1; zeros where the count is 0."""
    means = np.where(
        counts[..., None] > 0, sums / np.where(counts > 0, counts, 1.0)[..., None], 0.0
    )
    lengths = np.linalg.norm(means, axis=-1, keepdims=True)
    shortened: Array = means / np.maximum(lengths, 1.0)
    return shortened


def _within(noisy: Sum, plan: CellPlan, classes: tuple[Array, Array], deviation: float) -> Array:
    """Return the within-class covariance `[d, d]`, with eigenvalues above the noise.

    Without a released second moment it is the same variance for every direction, 1 / d: latents of
    length at most 1 cannot vary more.
    """
    counts, means = classes
    d = plan.directions
    patients, present = float(counts.sum()), counts > 0
    free = patients - int(present.sum())
    if not plan.covariance or free <= 0:
        return np.eye(d) / d
    moment = unpacked(noisy["second_moment"], d)
    between = (means * counts[:, None]).T @ means
    by_noise = deviation**2 * float((1.0 / counts[present]).sum())
    values, vectors = np.linalg.eigh((moment - between + by_noise * np.eye(d)) / free)
    floor = max(deviation * math.sqrt(2 * d) / patients, 1e-6 / d)
    covariance: Array = (vectors * np.clip(values, floor, 1.0)) @ vectors.T
    return covariance
