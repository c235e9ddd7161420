"""Federated PCA of image patches: the start of the model's linear path.

A patch is what one cell of the spatial latent covers. Its moments (count, sum per cell, second
moment) are a mergeable Sum, so all sites start from one PCA without showing an image. Latents
are scaled to unit variance per channel, which makes the KL term meaningful from the first step.
What crosses the hospital's boundary: the Sum of `patch_moments`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mfm_core.autoencoder import LOGVAR_RANGE, Autoencoder, latent_grid
from mfm_core.config import ImageConfig, ModelConfig
from mfm_core.dataset import ImageSet
from mfm_core.errors import DataError
from mfm_core.sums import Sum

MAX_SIDE = 16
"""Larger patches are averaged down to this side: leading components are smooth."""

SMALLEST_VARIANCE = 1e-6
"""Components with less variance (in squared grey values of 0..1, per patch) are not amplified."""

NOISE_SHARE = 0.1
"""Starting posterior variance over the variance of the last component, in image units."""

_CHUNK = 256


def _patch_rows(images: NDArray[np.uint8], grid: int) -> NDArray[np.float64]:
    """Return `[N, grid^2, C * side * side] float64 in [0, 1]`, side at most MAX_SIDE."""
    count, channels, size, _ = images.shape
    pool = max(1, size // grid // MAX_SIDE)
    small = size // pool
    pooled = images.reshape(count, channels, small, pool, small, pool).mean(axis=(3, 5)) / 255.0
    side = small // grid
    cells = pooled.reshape(count, channels, grid, side, grid, side)
    rows: NDArray[np.float64] = cells.transpose(0, 2, 4, 1, 3, 5).reshape(count, grid * grid, -1)
    return rows


def patch_moments(images: ImageSet, indices: NDArray[np.int64], model: ModelConfig) -> Sum:
    """Return the patch moments of a site, a mergeable Sum.

    It holds "patch.count" `[1]` images, "patch.sum" `[grid^2, D]` per cell and
    "patch.second_moment" `[D, D]` over all patches, D = channels * side * side.

    Raises:
        DataError: `indices` is empty.
    """
    if len(indices) == 0:
        raise DataError("patch moments", ["the train split has no image; add images or leave"])
    image = ImageConfig.model_construct(size_px=images.images.shape[-1])
    grid = latent_grid(model, image)
    total: NDArray[np.float64] | None = None
    for start in range(0, len(indices), _CHUNK):
        rows = _patch_rows(np.asarray(images.images[indices[start : start + _CHUNK]]), grid)
        flat = rows.reshape(-1, rows.shape[-1])
        piece = np.concatenate([rows.sum(axis=0), flat.T @ flat])
        total = piece if total is None else total + piece
    assert total is not None
    return Sum(
        {
            "patch.count": np.array([float(len(indices))]),
            "patch.sum": total[: grid * grid],
            "patch.second_moment": total[grid * grid :],
        }
    )


def _components(moments: Sum, keep: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the leading `[keep, D]` directions and `[keep]` variances about the cells' means."""
    count, sums = float(moments["patch.count"][0]), moments["patch.sum"]
    scatter = moments["patch.second_moment"] - sums.T @ sums / count
    values, vectors = np.linalg.eigh(scatter / (count * len(sums)))
    keep = min(keep, len(values))
    values, vectors = values[::-1][:keep], vectors[:, ::-1][:, :keep].T
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    return vectors * np.sign(largest), np.maximum(values, 0.0)


def _grown(rows: NDArray[np.float64], channels: int, side: int) -> torch.Tensor:
    """Return `[n, C, side, side] float32` of rows `[n, C * s * s]`, s at most side."""
    small = round((rows.shape[1] / channels) ** 0.5)
    images = torch.from_numpy(rows.reshape(-1, channels, small, small)).float()
    if small == side:
        return images
    return functional.interpolate(images, size=side, mode="bilinear", align_corners=False)


def start_linear_path(model: Autoencoder, moments: Sum) -> None:
    """Start the linear path from the PCA of merged patch moments, in place.

    Each latent channel has unit variance over the images the moments came from; the posterior
    starts narrow enough not to drown the last component kept.

    Raises:
        DataError: the moments are of another patch size or channel count, or of no image.
        ValueError: the model has no linear path.
    """
    if model.linear_path is None:
        raise ValueError("the model has no linear path to start")
    channels, side = model.image_config.channels, model.patch
    numbers = channels * min(side, MAX_SIDE) ** 2
    expected = ((model.grid**2, numbers), (numbers, numbers))
    if (moments["patch.sum"].shape, moments["patch.second_moment"].shape) != expected:
        found = moments["patch.sum"].shape
        raise DataError("patch moments", [f"expected sums of shape {expected[0]}, found {found}"])
    if not moments["patch.count"][0] > 0:
        raise DataError("patch moments", ["no image was counted; at least one is needed"])
    directions, variances = _components(moments, model.model_config.latent_channels)
    scale = np.sqrt(np.maximum(variances, SMALLEST_VARIANCE))
    area = (side / min(side, MAX_SIDE)) ** 2
    kept = len(directions)
    means = _grown(moments["patch.sum"] / moments["patch.count"][0], channels, side)
    floor = NOISE_SHARE * scale[-1] ** 2 / scale**2
    path = model.linear_path
    inner = slice(path.margin, path.margin + side)
    cells = means.view(model.grid, model.grid, channels, side, side).permute(2, 0, 3, 1, 4)
    latent = model.model_config.latent_channels
    with torch.no_grad():
        path.reader.zero_()
        path.writer.zero_()
        path.reader[:kept] = _grown(directions / scale[:, None] / area, channels, side).flatten(1)
        path.writer[:kept, :, inner, inner] = _grown(directions * scale[:, None], channels, side)
        path.mean_image.copy_(cells.reshape(path.mean_image.shape))
        logvar = torch.from_numpy(np.log(floor)).float().clamp(*LOGVAR_RANGE)
        model.to_latent.bias[latent : latent + kept] = logvar
