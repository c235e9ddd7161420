"""Random changes of training images: one warp, one gain, then damage to the input only.

Paper section 2.3.1 (denoising: the model sees a damaged image and reconstructs the undamaged one).
Mirror, rotation, scale, shift and perspective of an image are one homography, so an image is
interpolated once and every image of a batch has its own. Conventions are those of torchvision's
functional transforms with bilinear interpolation (`align_corners=False`, zeros outside), and the
tests hold them against it pixel by pixel. Everything random comes from the caller's generator; a
change that is switched off does not move the draws of the others. Pixels are torch's; the few
numbers of an image are numpy's in float64, where a small operation costs a tenth. The gain is
about black, not about the mean: an empty background stays exactly 0.
Nothing here crosses the hospital's boundary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mfm_core.config import AugmentationConfig

Array = NDArray[np.float64]

HORIZON = 0.01
"""Smallest denominator of a homography: what lies behind the horizon is sampled far outside."""

MOST_BOXES = 8
"""Boxes that are always drawn (`AugmentationConfig.erase_boxes` has this bound)."""

NEGLIGIBLE = 1e-12
"""Window weights below this count as 0; left in, they turn subnormal and slow the products."""

SMALLEST_SIGMA_PX = 0.01
"""A blur below this changes nothing in float32; it keeps the window finite at sigma 0."""


@dataclass(frozen=True)
class _Draws:
    """Numbers of N images; each but `flip` uniform in [-1, 1] or, where noted, in [0, 1]."""

    rotation: Array
    scale: Array
    shift: Array  # [N, 2]
    flip: Array  # [0, 1]
    gain: Array
    sigma: Array  # [0, 1]
    corners: Array  # [N, 4, 2]
    boxes: Array  # [N, 8, 4] in [0, 1]: width, height, left, top


def _draw(count: int, generator: torch.Generator) -> _Draws:
    drawn = torch.rand(count, 15 + 4 * MOST_BOXES, generator=generator, device=generator.device)
    numbers = drawn.cpu().numpy().astype(np.float64)
    signed = 2.0 * numbers - 1.0
    return _Draws(
        rotation=signed[:, 0],
        scale=signed[:, 1],
        shift=signed[:, 2:4],
        flip=numbers[:, 4],
        gain=signed[:, 5],
        sigma=numbers[:, 6],
        corners=signed[:, 7:15].reshape(count, 4, 2),
        boxes=numbers[:, 15:].reshape(count, MOST_BOXES, 4),
    )


def affine(rotation_deg: Array, scale: Array, shift_px: Array, flip: NDArray[np.bool_]) -> Array:
    """Return the matrices that lead from output pixels to input pixels, `[N, 3, 3] float64`.

    The content is mirrored left-right, scaled, rotated about the image's centre and shifted, in
    this order. Coordinates are pixels from the image's centre, x to the right, y down.

    Args:
        rotation_deg: `[N]`, counter-clockwise as seen, as torchvision's `rotate`.
        scale: `[N]` > 0, larger than 1 enlarges.
        shift_px: `[N, 2]`, to the right and down.
        flip: `[N]` bool.
    """
    angle = np.deg2rad(rotation_deg)
    sign = np.where(flip, -1.0, 1.0)
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    matrices = np.zeros((len(scale), 3, 3))
    matrices[:, 0, 0], matrices[:, 0, 1] = cosine * sign, -sine * sign
    matrices[:, 1, 0], matrices[:, 1, 1] = sine, cosine
    matrices[:, :2, 2] = -(matrices[:, :2, :2] @ shift_px[:, :, None])[:, :, 0]
    matrices[:, 2, 2] = 1.0
    return matrices


def perspective(moves_px: Array, height: int, width: int) -> Array:
    """Return the matrices that lead from output pixels to input pixels, `[N, 3, 3] float64`.

    The output's corner k shows the input's corner k moved by `moves_px[:, k]`. The four points
    need to stay a convex quadrilateral: true for moves below a quarter of the sides. Coordinates
    as in `affine`; square to quadrilateral in closed form (Heckbert, "Fundamentals of texture
    mapping and image warping", 1989, section 2.2.3).

    Args:
        moves_px: `[N, 4, 2]`, x and y of upper left, upper right, lower right, lower left.
        height: of the images, pixels.
        width: of the images, pixels.
    """
    ends = np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
    first, second, third, fourth = np.moveaxis(ends + moves_px, 1, 0)
    bend, right, down = first - second + third - fourth, second - third, fourth - third
    area = right[:, 0] * down[:, 1] - down[:, 0] * right[:, 1]
    square = np.empty((len(moves_px), 3, 3))
    square[:, 2, 0] = (bend[:, 0] * down[:, 1] - down[:, 0] * bend[:, 1]) / area
    square[:, 2, 1] = (right[:, 0] * bend[:, 1] - bend[:, 0] * right[:, 1]) / area
    square[:, :2, 0] = second - first + square[:, 2, :1] * second
    square[:, :2, 1] = fourth - first + square[:, 2, 1:2] * fourth
    square[:, :2, 2] = first
    square[:, 2, 2] = 1.0
    to_unit = np.array([[1 / width, 0, 0.5], [0, 1 / height, 0.5], [0, 0, 1]])
    return np.asarray(square @ to_unit)


def warp(images: torch.Tensor, matrices: Array) -> torch.Tensor:
    """Return `[N, C, H, W]` sampled through homographies: bilinear, zeros outside.

    Args:
        images: `[N, C, H, W]` float.
        matrices: `[N, 3, 3]`, from output to input pixels, both from the image's centre, with a
            positive last row at the centre; products of `affine` and `perspective`.
    """
    height, width = images.shape[2:]
    x, y = np.arange(width) + (0.5 - width / 2), np.arange(height) + (0.5 - height / 2)
    to_unit = matrices * np.array([[2 / width], [2 / height], [1]])
    along_x = to_unit[:, :, 0, None] * x
    along_y = to_unit[:, :, 1, None] * y + to_unit[:, :, 2, None]
    columns, rows = (torch.from_numpy(line).to(images) for line in (along_x, along_y))
    found = rows[:, :, :, None] + columns[:, :, None, :]
    grid = found[:, :2] / found[:, 2:].clamp_min_(HORIZON)
    return functional.grid_sample(images, grid.permute(0, 2, 3, 1), align_corners=False)


def blur(images: torch.Tensor, sigma_px: Array, radius: int) -> torch.Tensor:
    """Return the images under a Gaussian window of 2 radius + 1 pixels, mirrored at the border.

    Args:
        images: `[N, C, H, W]` float.
        sigma_px: `[N]` >= 0, pixels; 0 leaves an image as it is.
        radius: of the window, pixels, below both sides.
    """
    height, width = images.shape[2:]
    offset = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offset / np.maximum(sigma_px, SMALLEST_SIGMA_PX)[:, None]) ** 2)
    weights[weights < NEGLIGIBLE] = 0.0
    window = torch.from_numpy(weights / weights.sum(axis=1, keepdims=True)).to(images)
    down, across = (
        (window @ _mirrored_shifts(side, radius).to(images)).view(-1, 1, side, side)
        for side in (height, width)
    )
    return down @ images @ across.mT


@lru_cache(maxsize=8)
def _mirrored_shifts(side: int, radius: int) -> torch.Tensor:
    """Return `[2 radius + 1, side * side]`: one matrix per shift, mirrored at both ends.

    A window times these matrices is the banded matrix that filters a line of `side` pixels.
    """
    source = np.abs(np.arange(side) + np.arange(-radius, radius + 1)[:, None])
    source = (side - 1) - np.abs((side - 1) - source)
    return torch.from_numpy(np.eye(side, dtype=np.float32)[source].reshape(len(source), -1))


def box_mask(boxes: Array, height: int, width: int) -> NDArray[np.bool_]:
    """Return `[N, 1, H, W]`, True for pixels whose centre lies in a box.

    Args:
        boxes: `[N, B, 4]`, left, top, right, bottom in pixels from the upper left corner.
        height: of the images, pixels.
        width: of the images, pixels.
    """
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    columns = (x >= boxes[:, :, 0:1]) & (x < boxes[:, :, 2:3])
    rows = (y >= boxes[:, :, 1:2]) & (y < boxes[:, :, 3:4])
    return np.asarray((rows[:, :, :, None] & columns[:, :, None, :]).any(axis=1, keepdims=True))


def _move(images: torch.Tensor, config: AugmentationConfig, draws: _Draws) -> torch.Tensor:
    """Return the images under their random homographies."""
    height, width = images.shape[2:]
    sides = np.array([width, height])
    moving = (config.rotation_deg, config.scale, config.shift, config.flip_probability)
    if not any(moving) and config.perspective == 0:
        return images
    matrices = affine(
        draws.rotation * config.rotation_deg,
        (1.0 + config.scale) ** draws.scale,
        draws.shift * (config.shift * sides),
        draws.flip < config.flip_probability,
    )
    if config.perspective > 0:
        moves = draws.corners * (0.5 * config.perspective * sides)
        matrices = perspective(moves, height, width) @ matrices
    return warp(images, matrices)


def _damage(
    target: torch.Tensor, config: AugmentationConfig, draws: _Draws, generator: torch.Generator
) -> torch.Tensor:
    """Return the input: the target blurred, with noise and erased boxes."""
    height, width = target.shape[2:]
    damaged = target
    if config.blur_sigma_px > 0:
        radius = min(math.ceil(3 * config.blur_sigma_px), height - 1, width - 1)
        damaged = blur(damaged, draws.sigma * config.blur_sigma_px, radius)
    if config.noise_std > 0:
        noise = torch.randn(
            target.shape, generator=generator, device=generator.device, dtype=target.dtype
        )
        damaged = torch.add(damaged, noise.to(target.device), alpha=config.noise_std)
    if config.erase_boxes > 0 and config.erase_fraction > 0:
        sides = np.array([width, height])
        boxes = draws.boxes[:, : config.erase_boxes]
        extent = boxes[..., :2] * (config.erase_fraction * sides)
        start = boxes[..., 2:] * (sides - extent)
        mask = box_mask(np.concatenate((start, start + extent), axis=2), height, width)
        hidden = torch.from_numpy(mask).to(target.device)
        damaged = torch.where(hidden, target.mean(dim=(2, 3), keepdim=True), damaged)
    if config.clean_share > 0:
        drawn = torch.rand(len(target), generator=generator, device=generator.device)
        spared = (drawn < config.clean_share).to(target.device)[:, None, None, None]
        damaged = torch.where(spared, target, damaged)
    return damaged.clamp(0.0, 1.0)


def augment(
    images: torch.Tensor, config: AugmentationConfig, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (input, target), two new `[N, C, H, W]` in [0, 1], each image changed on its own.

    Input and target share mirror, rotation (uniform in +-rotation_deg), scale (log-uniform
    between 1 / (1 + scale) and 1 + scale), shift (uniform in +-shift of the side, both axes),
    perspective (each corner moves uniformly by up to half of `perspective` of the side, both axes,
    the reach of torchvision's distortion_scale) and gain (uniform in 1 +- brightness, cut at 1).
    The input alone is blurred (sigma uniform in 0 to blur_sigma_px), gets Gaussian noise of
    noise_std and erased boxes: erase_boxes per image, sides uniform in 0 to erase_fraction of the
    side, anywhere inside the image, filled with the target's mean of that image and channel. With
    probability clean_share an image is spared all three.

    Args:
        images: `[N, C, H, W] float32 in [0, 1]`.
        config: the largest size of each change; 0 switches it off.
        generator: source of every draw; the same state gives the same result.

    Raises:
        ValueError: `images` is not a batch of floating point images.
    """
    if images.ndim != 4 or not images.is_floating_point():
        found = f"{tuple(images.shape)} {images.dtype}"
        raise ValueError(f"augment expects [N, C, H, W] float in [0, 1], found {found}")
    with torch.no_grad():
        draws = _draw(len(images), generator)
        target = _move(images, config, draws)
        if config.brightness > 0:
            gain = torch.from_numpy(1.0 + config.brightness * draws.gain).to(images)
            target = target * gain[:, None, None, None]
        target = target.clamp(0.0, 1.0)
        return _damage(target, config, draws, generator), target
