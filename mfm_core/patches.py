"""Federated PCA of image patches: the start of the model's linear path.

A patch is what one cell of the spatial latent covers. Its moments (count, mean image, second
moment of each cell's description) are a mergeable Sum, so all sites start from one PCA without
showing an image. Latents are scaled to unit variance, which makes the KL term meaningful from
the first step. What crosses the hospital's boundary: the Sum of `patch_moments`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mfm_core.autoencoder import LOGVAR_RANGE, Autoencoder, latent_grid
from mfm_core.config import ImageConfig, ModelConfig
from mfm_core.dataset import ImageSet
from mfm_core.errors import DataError
from mfm_core.linear_path import describe, description_size, inner_numbers
from mfm_core.sums import Sum

SMALLEST_VARIANCE = 1e-4
"""Components with less variance (squared grey values of 0..1, a patch) are not amplified."""

NOISE_SHARE = 0.1
"""Starting posterior variance over the variance of a weak component, in image units."""

_CHUNK = 128


def patch_moments(images: ImageSet, indices: NDArray[np.int64], model: ModelConfig) -> Sum:
    """Return the patch moments of a site, a mergeable Sum.

    It holds "patch.count" `[1]` images, "patch.image" `[C, H, W]`, the sum of all images, and
    "patch.second_moment" `[grid^2, D * (D + 1) / 2]`, the upper triangle of the second moment of
    each cell's description about mid grey.

    Raises:
        DataError: `indices` is empty.
    """
    if len(indices) == 0:
        raise DataError("patch moments", ["the train split has no image; add images or leave"])
    shape = images.images.shape[1:]
    grid = latent_grid(model, ImageConfig.model_construct(size_px=shape[-1]))
    image_sum = torch.zeros(shape, dtype=torch.float64)
    second: torch.Tensor | float = 0.0
    for start in range(0, len(indices), _CHUNK):
        batch = images.batch(indices[start : start + _CHUNK]).double() - 0.5
        cells = describe(batch, grid)
        second = second + torch.bmm(cells.transpose(1, 2), cells)
        image_sum += batch.sum(dim=0)
    assert isinstance(second, torch.Tensor)
    rows, columns = np.triu_indices(second.shape[-1])
    return Sum(
        {
            "patch.count": np.array([float(len(indices))]),
            "patch.image": image_sum.numpy(),
            "patch.second_moment": second.numpy()[:, rows, columns],
        }
    )


def _components(
    triangle: NDArray[np.float64], mean: NDArray[np.float64], keep: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return `[keep, D]` leading directions and `[keep]` variances of one cell."""
    covariance = np.zeros((len(mean), len(mean)))
    covariance[np.triu_indices(len(mean))] = triangle
    covariance += np.triu(covariance, 1).T - np.outer(mean, mean)
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1][:keep], vectors[:, ::-1][:, :keep].T
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    return vectors * np.sign(largest), np.maximum(values, 0.0)


def _refuse_foreign(model: Autoencoder, moments: Sum) -> None:
    """Raise DataError unless the moments fit the model and are of some image."""
    assert model.linear_path is not None
    path, cells = model.linear_path, len(model.linear_path.basis)
    numbers = description_size(path.channels, path.patch)
    expected = (
        tuple(path.mean_image.shape[1:]),
        (cells, numbers * (numbers + 1) // 2),
    )
    found = (moments["patch.image"].shape, moments["patch.second_moment"].shape)
    if found != expected:
        raise DataError("patch moments", [f"expected arrays of shape {expected}, found {found}"])
    if not moments["patch.count"][0] > 0:
        raise DataError("patch moments", ["no image was counted; at least one is needed"])


@torch.no_grad()
def start_linear_path(model: Autoencoder, moments: Sum) -> None:
    """Start the linear path from the PCA of merged patch moments, in place.

    Each latent number has mean 0 and variance 1 over the images the moments came from (less
    where a cell hardly varies), and the posterior starts narrow enough to drown no component.

    Raises:
        DataError: the moments are of another shape, or of no image.
        ValueError: the model has no linear path.
    """
    path = model.linear_path
    if path is None:
        raise ValueError("the model has no linear path to start")
    _refuse_foreign(model, moments)
    count = float(moments["patch.count"][0])
    image = torch.from_numpy(moments["patch.image"] / count)[None]
    means = describe(image, model.grid)[:, 0].numpy()
    inside = inner_numbers(path.channels, path.patch, path.overlap)
    keep = min(path.basis.shape[1], len(inside))
    path.basis.zero_()
    path.gain_in.zero_()
    path.gain_out.zero_()
    path.mean_image.copy_(image + 0.5)
    variances = np.zeros((len(means), path.basis.shape[1]))
    for cell, mean in enumerate(means):
        triangle = moments["patch.second_moment"][cell] / count
        directions, variances[cell, :keep] = _components(triangle, mean, keep)
        started = torch.zeros(keep, path.basis.shape[2])
        started[:, inside] = torch.from_numpy(directions).float()
        path.basis[cell, :keep].copy_(started)
    scale = torch.from_numpy(np.sqrt(np.maximum(variances, SMALLEST_VARIANCE))).float()
    path.gain_in.copy_(1.0 / scale[:, None])
    path.gain_out.copy_(scale[:, None])
    weak = np.maximum(np.median(variances[:, keep - 1]), SMALLEST_VARIANCE)
    noise = NOISE_SHARE * weak / np.maximum(variances, SMALLEST_VARIANCE).mean(axis=0)
    latent = model.model_config.latent_channels
    model.to_latent.bias[latent:] = torch.from_numpy(np.log(noise)).float().clamp(*LOGVAR_RANGE)
