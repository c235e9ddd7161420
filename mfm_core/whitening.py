"""Latents in units of their own spread within classes, in as many directions as data allow.

With L = 512 numbers and a few hundred patients the inverse of the within-class covariance S_w is
noise. It is therefore taken in the leading k directions of the total covariance (within classes
and between class means) only, k = (N - K) // PATIENTS_PER_DIRECTION. The choice looks at no
attribute, so permuting an attribute within classes leaves everything here as it is; that is what
`draw` rests on. Source: ours.
What crosses the hospital's boundary: nothing; everything is computed from released sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from mfm_core.atlas import Atlas
from mfm_core.head import Head
from mfm_core.sums import Array

PATIENTS_PER_DIRECTION = 5
"""Patients for each direction. Of 3, 5 and 10, 5 read weak fields of phantoms (age, AUC of a probe
0.84) at 0.79 instead of 0.69 (10), with less scatter on null fields than 3."""

SMALLEST_PART = 1e-5
"""Directions with less of the mean variance than this are left out."""


@dataclass(frozen=True)
class Null:
    """Draws of what a field without any tie to the latents gives, for Omega = 1.

    Attributes:
        r_squared: `[D] float64`, the field's R^2 on the latents within classes.
        effects: `[D, K] float64`, tau / sd(logit) times sqrt(Omega).
    """

    r_squared: Array
    effects: Array


@dataclass(frozen=True)
class Whitened:
    """The measure of one atlas and head. L latent numbers, k directions, K classes.

    Attributes:
        degrees: nu = patients - classes with patients.
        directions: `[L, k] float64`, orthonormal.
        root: `[k, k] float64`, upper triangle with root' root = directions' S_w directions.
        pulls: `[L, K] float64`, a class's weights minus the mean of the other present classes';
            zeros for a class without patients.
        spread: `[K] float64`, within-class standard deviation of those logits, above 0.
        inside: `[k, K] float64`, `pulls` over `spread` in whitened coordinates.
        outside: `[K, K] float64`, what of that lies outside the k directions.
    """

    degrees: int
    directions: Array
    root: Array
    pulls: Array
    spread: Array
    inside: Array
    outside: Array

    @property
    def size(self) -> int:
        """k, directions."""
        return int(self.directions.shape[1])

    def place(self, shift: Array) -> Array:
        """Return `[k]` whitened coordinates of a difference of latents `[L]`."""
        found: Array = solve_triangular(self.root, self.directions.T @ shift, trans="T")
        return found

    def logit_change(self, shift: Array) -> Array:
        """Return `[K]`: change of each class's logit against the mean of the others, nats."""
        change: Array = self.pulls.T @ shift
        return change

    def draw(self, seed: int, draws: int) -> Null:
        """Return what permuting an attribute within classes gives.

        The permuted attribute, centred within classes, is a random direction among nu; its first
        k coordinates in whitened latents give R^2, its projections on the logits the effects.
        """
        generator, classes = np.random.default_rng(seed), self.inside.shape[1]
        beyond = min(classes, max(0, self.degrees - self.size))
        turned: Array = np.asarray(np.linalg.qr(self.inside, mode="r"), dtype=np.float64)
        near = generator.standard_normal((draws, len(turned)))
        far = generator.standard_normal((draws, classes))
        far[:, beyond:] = 0.0  # no more coordinates than degrees of freedom are left
        rest = _chi_squared(generator, self.size - len(turned), draws)
        others = _chi_squared(generator, self.degrees - self.size - beyond, draws)
        held = np.square(near).sum(axis=1) + rest
        length = held + np.square(far).sum(axis=1) + others
        effects = (near @ turned + far @ self.outside) * np.sqrt(self.degrees / length)[:, None]
        return Null(r_squared=held / length, effects=effects)


def whiten(atlas: Atlas, head: Head) -> Whitened:
    """Return the measure of an atlas with at least two classes and more patients than classes."""
    counts, present = atlas.counts, atlas.counts > 0
    degrees = round(float(counts.sum())) - int(present.sum())
    shares = counts / counts.sum()
    between = (atlas.means - shares @ atlas.means) * np.sqrt(shares)[:, None]
    variances, vectors = np.linalg.eigh(atlas.covariance + between.T @ between)
    usable = int((variances > SMALLEST_PART * variances.mean()).sum())
    size = max(1, min(degrees // PATIENTS_PER_DIRECTION, usable))
    directions = np.ascontiguousarray(vectors[:, ::-1][:, :size])
    pulls = _pulls(head, present)
    within, turns = np.linalg.eigh(atlas.covariance)
    scaled = np.sqrt(np.maximum(within, 0.0))[:, None] * turns.T
    measured: Array = scaled @ np.concatenate([directions, pulls], axis=1)
    triangle: Array = np.asarray(np.linalg.qr(measured, mode="r"), dtype=np.float64)
    spread = np.linalg.norm(triangle[:, size:], axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    outside = np.zeros((pulls.shape[1], pulls.shape[1]))
    outside[: len(triangle) - size] = triangle[size:, size:] / spread
    return Whitened(
        degrees=degrees,
        directions=directions,
        root=triangle[:size, :size],
        pulls=pulls,
        spread=spread,
        inside=triangle[:size, size:] / spread,
        outside=outside,
    )


def _pulls(head: Head, present: NDArray[np.bool_]) -> Array:
    """Return `[L, K]`: each present class's weights minus the mean of the other present ones'."""
    weights = head.weight.astype(np.float64)
    known = weights * present[:, None]
    others = (known.sum(axis=0) - known) / (present.sum() - 1)
    pulls: Array = ((known - others) * present[:, None]).T
    return pulls


def _chi_squared(generator: np.random.Generator, degrees: int, draws: int) -> Array:
    return generator.chisquare(degrees, draws) if degrees > 0 else np.zeros(draws)
