"""Structural similarity (SSIM) with a closed-form gradient, as matrix products.

Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to
structural similarity", IEEE TIP 2004; the reconstruction loss of the paper's section 2.1.
Definition: Gaussian window 11 x 11, sigma 1.5, valid region only (no padding), population
variances, data range 1, mean over channels: what `pytorch_msssim.ssim` and skimage's
`structural_similarity(gaussian_weights=True, use_sample_covariance=False)` compute.

The sums run over u = x + y and v = x - y in place of x and y:

    SSIM = (1 - mean(v)^2 / l) (1 - var(v) / s)
    l = (mean(u)^2 + mean(v)^2) / 2 + C1        s = (var(u) + var(v)) / 2 + C2

which is the same function, but its deviation from 1 is no longer a difference of large numbers
in float32. Every window mean is a product with a banded matrix, cut into blocks along the band,
and a few images are done at a time so that all maps stay in the cache.
Nothing here crosses the hospital's boundary.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch

WINDOW = 11
"""Side of the Gaussian window, pixels."""

SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2

BLOCK = 32
"""Rows of a block of the banded matrix: 42 columns in place of all."""

CHUNK_PIXELS = 2**17
"""Pixels done at a time; their maps fit a core's cache."""


class _Block(NamedTuple):
    """A dense piece of the band: output rows need only input rows start to stop."""

    start: int
    stop: int
    matrix: torch.Tensor


class _Bands(NamedTuple):
    """The window mean along one axis of a given length, and its transpose."""

    mean: tuple[_Block, ...]
    spread: tuple[_Block, ...]


def gaussian_window() -> torch.Tensor:
    """Return the normalised window along one axis, `[11] float64`."""
    offset = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-(offset**2) / (2 * SIGMA**2))
    return weights / weights.sum()


@lru_cache(maxsize=16)
def _bands(size: int, dtype: torch.dtype, device: torch.device) -> _Bands:
    with torch.inference_mode(False), torch.no_grad():
        band = torch.zeros(size - WINDOW + 1, size, dtype=torch.float64)
        for row, values in enumerate(band):
            values[row : row + WINDOW] = gaussian_window()
        return _Bands(*(_cut(matrix, dtype, device) for matrix in (band, band.T)))


def _cut(band: torch.Tensor, dtype: torch.dtype, device: torch.device) -> tuple[_Block, ...]:
    """Return the blocks of a banded matrix, balanced in height."""
    count = -(-len(band) // BLOCK)
    blocks = []
    for piece in band.tensor_split(count):
        used = piece.any(dim=0).nonzero()
        start, stop = int(used.min()), int(used.max()) + 1
        matrix = piece[:, start:stop].to(device, dtype).contiguous()
        blocks.append(_Block(start, stop, matrix))
    return tuple(blocks)


def _filter(
    maps: torch.Tensor, rows: tuple[_Block, ...], columns: tuple[_Block, ...]
) -> torch.Tensor:
    """Return rows @ map @ columns^T of every map `[K, M, H, W]`."""
    kinds, images, height, width = maps.shape
    flat = maps.reshape(kinds * images, height, width)
    down = torch.cat(
        [
            torch.bmm(matrix.expand(len(flat), -1, -1), flat[:, start:stop])
            for start, stop, matrix in rows
        ],
        dim=1,
    )
    lines = down.view(-1, width)
    across = [lines[:, start:stop] @ matrix.T for start, stop, matrix in columns]
    return torch.cat(across, dim=1).view(kinds, images, down.shape[1], -1)


class _Result(NamedTuple):
    """Of M single-channel images: SSIM maps and, where wanted, gradients of the weighted mean."""

    maps: torch.Tensor
    x: torch.Tensor | None
    y: torch.Tensor | None


def _evaluate(
    x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor | None, wanted: tuple[bool, bool]
) -> _Result:
    """Return SSIM maps `[M, H - 10, W - 10]` and gradients `[M, H, W]`.

    Args:
        x: `[M, H, W]`.
        y: `[M, H, W]`.
        weight: `[M or 1, H - 10, W - 10]`, what each map pixel weighs; None weighs all alike.
        wanted: whether the gradients for x and y are needed.
    """
    height, width = (_bands(side, x.dtype, x.device) for side in x.shape[1:])
    u, v = x + y, x - y
    sums = _filter(torch.stack((u, v, u * u, v * v)), height.mean, width.mean)
    mean_u, mean_v, power_u, power_v = sums.unbind(0)
    square_u, square_v = mean_u * mean_u, mean_v * mean_v
    var_v = power_v - square_v
    over_l = (square_u + square_v).mul_(0.5).add_(C1).reciprocal_()
    over_s = (power_u - square_u).add_(var_v).mul_(0.5).add_(C2).reciprocal_()
    light_gap, structure_gap = square_v * over_l, var_v * over_s
    light, structure = 1.0 - light_gap, 1.0 - structure_gap
    maps = light * structure
    if not any(wanted):
        return _Result(maps, None, None)
    scale = 1.0 / maps[0].numel()
    share = light * over_s * scale if weight is None else light * over_s * (weight * scale)
    by_light = structure * over_l * scale if weight is None else structure * over_l * weight * scale
    slopes = maps.new_empty(3 + wanted[1], *maps.shape)
    by_power_u = torch.mul(share, structure_gap * 0.5, out=slopes[1])
    by_power_v = torch.mul(share, structure_gap.mul_(0.5).sub_(1.0), out=slopes[2])
    by_mean_u = mean_u * (by_light * light_gap - 2.0 * by_power_u)
    by_mean_v = mean_v * (by_light * light_gap.sub_(2.0) - 2.0 * by_power_v)
    torch.add(by_mean_u, by_mean_v, out=slopes[0])
    if wanted[1]:
        torch.sub(by_mean_u, by_mean_v, out=slopes[3])
    spread = _filter(slopes, height.spread, width.spread)
    part_u, part_v = u.mul_(spread[1]).mul_(2.0), v.mul_(spread[2]).mul_(2.0)
    for_x = spread[0] + part_u + part_v if wanted[0] else None
    for_y = spread[3] + part_u - part_v if wanted[1] else None
    return _Result(maps, for_x, for_y)


def _evaluate_chunks(
    x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor | None, wanted: tuple[bool, bool]
) -> _Result:
    """Return `_evaluate` of a batch, a few images at a time; `weight` is `[M or 1, ...]`."""
    size = max(1, CHUNK_PIXELS // x[0].numel())
    pieces = []
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        own = weight[part] if weight is not None and len(weight) > 1 else weight
        pieces.append(_evaluate(x[part], y[part], own, wanted))
    maps, for_x, for_y = zip(*pieces, strict=True)
    return _Result(
        torch.cat(maps),
        torch.cat(for_x) if wanted[0] else None,
        torch.cat(for_y) if wanted[1] else None,
    )


class _Ssim(torch.autograd.Function):
    """Value and gradient in one go; the backward pass only scales by the incoming gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor | None
    ) -> torch.Tensor:
        images, channels = x.shape[:2]
        flat_x, flat_y = (t.reshape(images * channels, *t.shape[2:]) for t in (x, y))
        centres = None if weight is None else window_centres(weight)[:, 0]
        spread = centres
        if centres is not None and len(centres) > 1 and channels > 1:
            spread = centres.repeat_interleave(channels, dim=0)
        found = _evaluate_chunks(flat_x, flat_y, spread, ctx.needs_input_grad[:2])
        maps = found.maps.view(images, channels, *found.maps.shape[1:]).mean(dim=1)
        # What is kept for the backward pass is per image; it is scaled there.
        gap = maps.sub(1.0) if ctx.needs_input_grad[2] else None
        ctx.save_for_backward(found.x, found.y, gap)
        ctx.shapes = (x.shape, None if weight is None else weight.shape)
        if centres is None:
            return maps.mean(dim=(1, 2))
        return 1.0 + ((maps - 1.0) * centres).mean(dim=(1, 2))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *incoming: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        for_x, for_y, gap = ctx.saved_tensors
        shape, weight_shape = ctx.shapes
        outer = incoming[0].view(-1, 1, 1, 1)
        scaled = [
            None if part is None else part.view(shape) * (outer / shape[1])
            for part in (for_x, for_y)
        ]
        if gap is None:
            return scaled[0], scaled[1], None
        by_centre = gap * (outer[:, 0] / gap[0].numel())
        if weight_shape[0] == 1:
            by_centre = by_centre.sum(dim=0, keepdim=True)
        border = WINDOW // 2
        padded = torch.nn.functional.pad(by_centre, (border, border, border, border))
        return scaled[0], scaled[1], padded.view(weight_shape)


def window_centres(pixels: torch.Tensor) -> torch.Tensor:
    """Return `[..., H - 10, W - 10]` of `[..., H, W]`: the pixels on which a whole window lies."""
    border = WINDOW // 2
    return pixels[..., border:-border, border:-border]


def ssim(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean SSIM of every image, `[N]` in [-1, 1] (without weights).

    Differentiable once in x, y and weight, in closed form; only the gradients that are needed are
    computed. With weights W the result is `1 - mean(W (1 - SSIM map))`, the mean over the centres
    of all whole windows (`window_centres`; a border of 5 pixels has no part) and over channels:
    `1 - ssim(x, y, W)` is the paper's weighted error `mean(W e)` (section 2.3.2), and weights of
    1 give the plain value.

    Args:
        x: `[N, C, H, W] float32 or float64 in [0, 1]`, sides of at least 11 pixels.
        y: as x.
        weight: `[1 or N, 1, H, W]`, same dtype; None weighs every pixel alike.

    Raises:
        ValueError: shapes or dtypes do not fit together, or an image is smaller than the window.
    """
    if x.ndim != 4 or x.shape != y.shape or x.dtype != y.dtype:
        found = f"{tuple(x.shape)} {x.dtype} and {tuple(y.shape)} {y.dtype}"
        raise ValueError(f"ssim expects two [N, C, H, W] of one shape and dtype, found {found}")
    if x.dtype not in {torch.float32, torch.float64}:
        raise ValueError(f"ssim expects float32 or float64, found {x.dtype}; convert the images")
    if min(x.shape) < 1 or min(x.shape[2:]) < WINDOW:
        raise ValueError(f"ssim needs sides of at least {WINDOW} pixels, found {tuple(x.shape)}")
    if weight is not None:
        expected = {(count, 1, *x.shape[2:]) for count in (1, len(x))}
        if tuple(weight.shape) not in expected or weight.dtype != x.dtype:
            found = f"{tuple(weight.shape)} {weight.dtype}"
            raise ValueError(f"weight: expected one of {sorted(expected)} {x.dtype}, found {found}")
    if not torch.is_grad_enabled():
        x, y = x.detach(), y.detach()
        weight = None if weight is None else weight.detach()
    value: torch.Tensor = _Ssim.apply(x, y, weight)
    return value
