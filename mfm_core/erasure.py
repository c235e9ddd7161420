"""Class-conditional LEACE: the smallest change of a latent that hides an attribute within classes.

The effects of the values of an attribute are those of the additive model

    mean of cell (class y, value v) = class part + effect_v,

fitted by least squares over all cells, every patient counting once. For two values their difference
is the atlas's class-conditional axis delta. With D the [r, L] span of the effects and M the inverse
of the pooled within-class covariance, the eraser is the oblique projection

    P = I - D' (D M D')^-1 D M,    for two values P = I - delta delta' M / (delta' M delta),

which no linear probe of the value gets past within classes: P D' = 0. The marginal version takes
the classes together; where value and class go together it erases disease as well, and is here to be
compared with only. Erasing keeps the centre m of all patients, so a head keeps its mean logits.

P D' = 0 whatever M is; M decides along which directions a head makes up for what it lost. With few
patients in many dimensions the inverse of the covariance as it is makes that direction noise:
measured on phantoms (L = 512, 600 patients, finding and view coupled at phi = 0.6), shrinkage 0
took the AUC of the coupled finding on fresh patients from 0.99 to 0.87, 0.1 kept 0.99, as 0.3 and
0.6 did; but from 0.3 on a probe of the view reads more than chance from the erased logits (0.58 at
0.3, 0.64 at 0.6, at most 0.50 below), also at a hospital the eraser never saw. Hence 0.1 where
there are as many latent numbers as patients, and less in proportion where there are more patients.

Source: Belrose et al. 2023, "LEACE: Perfect linear concept erasure in closed form", theorem 4.3,
on latents less their class mean; paper section 3.3 for the marginal axis.
What crosses the hospital's boundary: nothing; everything here is computed from the atlas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from mfm_core.atlas import Atlas
from mfm_core.axis_shrinkage import shrunk_span
from mfm_core.errors import ConfigError, DataError
from mfm_core.head import Head
from mfm_core.sums import Array

SHRINKAGE = 0.1
"""Share of the identity in the covariance, times `scarcity`; 0 is LEACE to the letter."""

SMALLEST_PART = 1e-12
"""Squared lengths below this part of the largest count as zero."""

SMALLEST_DISTANCE = 1e-18
"""Squared Mahalanobis distances below this are rounding."""


@dataclass(frozen=True)
class Eraser:
    """x -> x - left right (x - centre).

    Attributes:
        left: `[L, r] float64`, directions that are taken out; r = 0 changes nothing.
        right: `[r, L] float64`, how much of each a latent holds; right @ left is the identity
            (of a soft eraser, less).
        centre: `[L] float64`, the latent that stays where it is.
    """

    left: Array
    right: Array
    centre: Array

    @property
    def matrix(self) -> Array:
        """The projection P, `[L, L]`."""
        projection: Array = np.eye(len(self.centre)) - self.left @ self.right
        return projection

    def apply(self, mu: NDArray[np.floating]) -> Array:
        """Return `[N, L] float64` latents without the attribute."""
        held = (mu - self.centre) @ self.right.T
        erased: Array = mu - held @ self.left.T
        return erased

    def fold(self, head: Head) -> Head:
        """Return the head that gives on a latent what `head` gives on the erased latent."""
        weight = head.weight.astype(np.float64)
        lost = weight @ self.left
        kept = weight - lost @ self.right
        bias = head.bias + lost @ (self.right @ self.centre)
        return Head(kept.astype(np.float32), bias.astype(np.float32))


def eraser(
    atlas: Atlas,
    attribute: str,
    *,
    conditional: bool = True,
    shrunk: bool = False,
    sigma: float = np.inf,
    shrinkage: float | None = None,
) -> Eraser:
    """Return the eraser of one attribute.

    Args:
        atlas: pooled means and covariance.
        attribute: name in the ontology, with any number of values.
        conditional: False takes the classes together (for comparison).
        shrunk: as in `value_span`.
        sigma: >= 0; what is finite erases softly: on discriminants it does what a variance of
            sigma^2 along the axis would (`random_alpha`). 0 erases nothing.
        shrinkage: in [0, 1], of the covariance towards the identity at the mean variance; None
            takes SHRINKAGE times `scarcity`.

    Raises:
        ConfigError: no such attribute. DataError: no class (or, marginally, not the whole) has
            patients with two of its values.
    """
    span = value_span(atlas, attribute, conditional=conditional, shrunk=shrunk)
    share = SHRINKAGE * scarcity(atlas) if shrinkage is None else shrinkage
    factor = cho_factor(shrunk_covariance(atlas, share))
    filters = cho_solve(factor, span.T).T
    held = span @ filters.T
    if np.isfinite(sigma):
        held = held + np.eye(len(span)) / max(2.0 * sigma**2, np.finfo(np.float64).tiny)
    sizes, directions = np.linalg.eigh(held)
    kept = sizes > max(SMALLEST_PART * sizes[-1], SMALLEST_DISTANCE)
    left = span.T @ directions[:, kept]
    right = (directions[:, kept] / sizes[kept]).T @ filters
    return Eraser(left, right, centre_of(atlas))


def centre_of(atlas: Atlas) -> Array:
    """Return `[L]`, the mean over all patients."""
    centre: Array = atlas.counts @ atlas.means / atlas.counts.sum()
    return centre


def scarcity(atlas: Atlas) -> float:
    """Return min(1, latent numbers / patients): how much shrinkage and ridge are needed."""
    return min(1.0, atlas.latent_size / float(atlas.counts.sum()))


def shrunk_covariance(atlas: Atlas, shrinkage: float) -> Array:
    """Return `[L, L]`, (1 - g) S + g trace(S) / L, as `fit_heads` shrinks."""
    size = atlas.latent_size
    mean = np.trace(atlas.covariance) / size
    shrunk: Array = (1.0 - shrinkage) * atlas.covariance + shrinkage * mean * np.eye(size)
    return shrunk


def value_effects(atlas: Atlas, attribute: str, *, conditional: bool = True) -> Array:
    """Return `[V, L]`, what each value adds to a latent, summing to zero over the values.

    A value that no class shares with another value has no effect that could be told from disease;
    it gets zeros. Arguments and errors as in `eraser`.
    """
    values, span = _additive_model(atlas, attribute, conditional)
    effects: Array = values @ span
    return effects


def value_span(
    atlas: Atlas, attribute: str, *, conditional: bool = True, shrunk: bool = False
) -> Array:
    """Return `[r, L]`, orthonormal combinations of the values' effects, r <= V - 1.

    The shift sqrt(2) sum_r a_r span_r with independent a_r ~ N(0, sigma^2) favours no value; for
    two values it is a step of N(0, sigma^2) along their difference. Errors as in `eraser`.

    Args:
        atlas: pooled.
        attribute: name in the ontology.
        conditional: False takes the classes together.
        shrunk: within classes, the empirical Bayes estimate of `axis_shrinkage` instead of least
            squares: for couplings that few patients stand against.
    """
    directions, span = _additive_model(atlas, attribute, conditional)
    if not (shrunk and conditional):
        return span
    covariance = shrunk_covariance(atlas, SHRINKAGE * scarcity(atlas))
    return shrunk_span(
        _cells(atlas, attribute), atlas.attribute_means[attribute], directions, covariance
    )


def why_not_comparable(atlas: Atlas, attribute: str, *, conditional: bool = True) -> str:
    """Return why nothing can be erased: no class has patients of two values; empty if one has.

    Raises:
        ConfigError: no such attribute.
    """
    counts = _cells(atlas, attribute)
    if not conditional:
        counts = counts.sum(axis=0, keepdims=True)
    if ((counts > 0).sum(axis=1) >= 2).any():
        return ""
    where = "no class has patients" if conditional else "there are no patients"
    return f"{attribute}: {where} with two of its values, so nothing can be compared"


def _cells(atlas: Atlas, attribute: str) -> Array:
    """Return `[K, V]` patients of a class and value, at least 0."""
    if attribute not in atlas.attribute_counts:
        known = ", ".join(atlas.attribute_counts) or "none"
        reason = f"attribute {attribute!r} is not in the atlas; it has {known}"
        raise ConfigError("mitigation", [reason])
    counts: Array = np.maximum(atlas.attribute_counts[attribute], 0.0)
    return counts


def _additive_model(atlas: Atlas, attribute: str, conditional: bool) -> tuple[Array, Array]:
    """Return the estimable combinations of the values, `[V, r]`, and their effects, `[r, L]`.

    The class parts are eliminated from the normal equations; what remains is a graph Laplacian,
    whose null space holds what the cells cannot tell.
    """
    if reason := why_not_comparable(atlas, attribute, conditional=conditional):
        advice = "choose another attribute, or let sites join that have the missing values"
        raise DataError("atlas", [f"{reason}; {advice}"])
    counts = _cells(atlas, attribute)
    sums = counts[..., None] * atlas.attribute_means[attribute]
    if not conditional:
        counts, sums = counts.sum(axis=0, keepdims=True), sums.sum(axis=0, keepdims=True)
    people = counts.sum(axis=1)
    share = counts / np.where(people > 0, people, 1.0)[:, None]
    laplacian = np.diag(counts.sum(axis=0)) - counts.T @ share
    moved = sums.sum(axis=0) - share.T @ sums.sum(axis=1)
    sizes, directions = np.linalg.eigh(laplacian)
    kept = sizes > SMALLEST_PART * sizes[-1]
    return directions[:, kept], (directions[:, kept] / sizes[kept]).T @ moved
