"""A public basis: few directions of the latent in which private cells are released.

It is made before any cell is released and of nothing but the agreed model and pictures without a
patient: the rows of the head and their images under the covariance of generated pictures, then the
strongest remaining directions of those pictures. Whoever got the model can compute it, so it says
nothing about a patient that the weights do not say; what they say is the label of training, not of
the atlas. The sites get the basis with the request, because eigenvectors of nearly equal
eigenvalues differ between processors; the guarantee holds for any basis that was fixed before.

What lies outside the directions is not released: means and axes are those inside. How much of an
axis that is, nobody can know without looking; a consortium that has public pictures of the same
kind names them in the agreed run (`public_pictures`), in place of the generated ones.

The clip is the median distance of the pictures: half of the films are then shortened a little,
which costs the means less than the noise of a wider clip does (measured in simulation/README.md).
Generated pictures lie far from films, so their clip is wide whatever the quantile.

Source: pictures with a power spectrum of 1/f^p, Field, "Relations between the statistics of
natural images", JOSA A 1987. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mfm_core.autoencoder import Autoencoder
from mfm_core.devices import to_array, to_device
from mfm_core.errors import UpdateRejected
from mfm_core.sums import Array, Sum

PICTURES = 512
SLOPE = 2.5
"""Of amplitude over frequency: smoother than photographs, as radiographs are."""

MOST_DIRECTIONS = 64
RADIUS_QUANTILE = 0.5
_CLOSE = 1e-6


@dataclass(frozen=True)
class PublicBasis:
    """Where private cells lie in latent space.

    Attributes:
        reference: `[L] float64`, the origin.
        directions: `[d, L] float64`, orthonormal rows.
        radius: B > 0, the clip: how long a latent's part inside may be, in latent units.
        outside: variance of a direction outside over one inside, of public pictures, >= 0.
    """

    reference: Array
    directions: Array
    radius: float
    outside: float = 0.0

    def coordinates(self, mu: NDArray[np.floating]) -> Array:
        """Return `[N, d]` coordinates of `[N, L]` latents, in units of the radius."""
        inside: Array = (mu.astype(np.float64) - self.reference) @ self.directions.T
        return inside / self.radius

    def latents(self, coordinates: Array) -> Array:
        """Return `[..., L]` latents of `[..., d]` coordinates."""
        found: Array = self.reference + self.radius * (coordinates @ self.directions)
        return found

    def to_sum(self) -> Sum:
        """Return it as arrays: "reference" `[L]`, "directions" `[d, L]`, "scale" `[2]`."""
        scale = np.array([self.radius, self.outside])
        parts = {"reference": self.reference, "directions": self.directions, "scale": scale}
        return Sum(parts)


def empty_basis(directions: int, latent: int) -> Sum:
    """Return a basis of zeros as arrays, for its shape."""
    return PublicBasis(np.zeros(latent), np.zeros((directions, latent)), 0.0).to_sum()


def basis_from(total: Sum) -> PublicBasis:
    """Return the basis that a message holds.

    Raises:
        UpdateRejected: "basis"; not finite, not orthonormal, or without a radius.
    """
    directions, scale = total["directions"], total["scale"]
    finite = all(bool(np.isfinite(array).all()) for array in total.arrays.values())
    if not (finite and scale[0] > 0 and scale[1] >= 0):
        raise UpdateRejected("basis", "the basis is not finite or its radius is not above 0")
    if not np.allclose(directions @ directions.T, np.eye(len(directions)), atol=_CLOSE):
        raise UpdateRejected("basis", "the directions are not orthonormal")
    return PublicBasis(total["reference"], directions, float(scale[0]), float(scale[1]))


def smooth_pictures(shape: tuple[int, int], count: int, seed: int) -> NDArray[np.float32]:
    """Return `[count, C, S, S] float32 in [0, 1]`, random pictures in which no patient is.

    Args:
        shape: channels C and side S in pixels.
        count: how many.
        seed: the same seed gives the same pictures.
    """
    channels, side = shape
    draw = np.random.default_rng(seed)
    steps = np.fft.fftfreq(side)
    frequency = np.hypot(steps[:, None], steps[None, :])
    frequency[0, 0] = 1.0 / side
    white = draw.standard_normal((count, channels, side, side))
    smooth = np.fft.ifft2(np.fft.fft2(white) / frequency**SLOPE).real
    smooth -= smooth.mean(axis=(2, 3), keepdims=True)
    smooth /= np.maximum(smooth.std(axis=(2, 3), keepdims=True), 1e-12)
    level = 0.5 + 0.1 * draw.standard_normal((count, 1, 1, 1))
    return np.clip(level + 0.2 * smooth, 0.0, 1.0).astype(np.float32)


def public_basis(
    model: Autoencoder,
    directions: int,
    seed: int,
    radius: float | None = None,
    pictures: NDArray[np.float32] | None = None,
) -> PublicBasis:
    """Return the basis of a model.

    Args:
        model: whose latents are released.
        directions: d, 1 to L.
        seed: of the generated pictures.
        radius: the clip; None takes the median of the pictures' own distances.
        pictures: `[N, C, S, S] float32 in [0, 1]` public ones; None generates them.
    """
    if pictures is None:
        config = model.image_config
        pictures = smooth_pictures((config.channels, config.size_px), PICTURES, seed)
    seen = _encoded(model, pictures)
    reference = seen.mean(axis=0)
    centred = seen - reference
    covariance = centred.T @ centred / max(1, len(seen) - 1)
    covariance += np.eye(len(covariance)) * 1e-9 * max(float(np.trace(covariance)), 1e-12)
    rows = to_array(model.head.weight).astype(np.float64)
    chosen = _leading(np.concatenate([rows, rows @ covariance]), covariance, directions)
    inside = centred @ chosen.T
    if radius is None:
        radius = max(float(np.quantile(np.linalg.norm(inside, axis=1), RADIUS_QUANTILE)), 1e-6)
    variance = float((inside**2).sum()) / directions
    rest = float((centred**2).sum() - (inside**2).sum()) / max(1, len(reference) - directions)
    return PublicBasis(reference, chosen, float(radius), max(0.0, rest) / max(variance, 1e-12))


def _leading(wanted: Array, covariance: Array, directions: int) -> Array:
    """Return `[d, L]` orthonormal rows: the span of `wanted`, then what varies most beside it."""
    _, strength, span = np.linalg.svd(wanted, full_matrices=False)
    first = span[strength > 1e-9 * max(float(strength[0]), 1e-300)][:directions]
    beside = np.eye(covariance.shape[0]) - first.T @ first
    _, vectors = np.linalg.eigh(beside @ covariance @ beside)
    more = vectors[:, ::-1][:, : directions - len(first)].T
    orthonormal, _ = np.linalg.qr(np.concatenate([first, more]).T)
    return np.asarray(orthonormal.T)


@torch.no_grad()
def _encoded(model: Autoencoder, pictures: NDArray[np.float32], batch: int = 64) -> Array:
    was_training = model.training
    model.eval()
    parts = [
        to_array(model.encode(to_device(pictures[start : start + batch], model))[0])
        for start in range(0, len(pictures), batch)
    ]
    model.train(was_training)
    return np.concatenate(parts).astype(np.float64)
