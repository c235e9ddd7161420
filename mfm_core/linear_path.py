"""A linear way into and out of the spatial latent: one small basis per latent cell.

Every cell of the latent has a patch of the image and a basis of its own, started from a PCA
(`mfm_core.patches`): with one basis shared by all cells the same number of latents reconstructs
far less, because in a centred image each place has its own statistics. A patch is described by
at most 16 x 16 numbers of luminance and 4 x 4 of each colour difference, which bounds the size
of basis and moments. With an overlap the luminance that a cell reads and draws reaches into its
neighbours (a lapped transform, Malvar and Staelin 1989): it starts as the PCA of the patch, with
nothing outside, and learns to hide the seams. Nothing here crosses the hospital's boundary.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

MAX_SIDE = 16
"""Larger patches are averaged down to this side: their leading components are smooth."""

COLOUR_POOL = 4
"""Colour differences are averaged over squares of this side (of the averaged-down patch)."""

_OPPONENT = (
    (3.0**-0.5,) * 3,
    (2.0**-0.5, 0.0, -(2.0**-0.5)),
    (6.0**-0.5, -2 * 6.0**-0.5, 6.0**-0.5),
)
"""Orthonormal rows: luminance and two colour differences."""


def _cut(images: torch.Tensor, grid: int, overlap: int = 0) -> torch.Tensor:
    """Return `[grid * grid, N, C * w * w]` of `[N, C, grid * s, grid * s]`, w = s + 2 overlap."""
    count, channels, size, _ = images.shape
    side = size // grid
    if overlap:
        window = side + 2 * overlap
        return functional.unfold(images, window, padding=overlap, stride=side).permute(2, 0, 1)
    cells = images.reshape(count, channels, grid, side, grid, side)
    return cells.permute(2, 4, 0, 1, 3, 5).reshape(grid * grid, count, -1)


def _join(cells: torch.Tensor, grid: int, channels: int, overlap: int = 0) -> torch.Tensor:
    """Return `[N, C, grid * s, grid * s]`: the transpose of `_cut`, its inverse without overlap."""
    count, side = cells.shape[1], round((cells.shape[2] / channels) ** 0.5)
    if overlap:
        step = side - 2 * overlap
        size = (grid * step, grid * step)
        given = cells.permute(1, 2, 0)
        return functional.fold(given, size, side, padding=overlap, stride=step)
    apart = cells.view(grid, grid, count, channels, side, side)
    return apart.permute(2, 3, 0, 4, 1, 5).reshape(count, channels, grid * side, grid * side)


def _shrink(images: torch.Tensor, factor: int) -> torch.Tensor:
    """Return the image averaged over squares, scaled so that squares keep their energy."""
    return functional.avg_pool2d(images, factor) * factor if factor > 1 else images


def _grow(images: torch.Tensor, factor: int) -> torch.Tensor:
    """Return the smooth enlargement that `_shrink` undoes for slowly varying images."""
    if factor == 1:
        return images
    return functional.interpolate(images / factor, scale_factor=factor, mode="bilinear")


def patch_side(patch: int) -> int:
    """Return the side at which a patch of `patch` pixels is described."""
    return min(patch, MAX_SIDE)


def describe(images: torch.Tensor, grid: int, overlap: int = 0) -> torch.Tensor:
    """Return `[grid * grid, N, D]` numbers per cell of `[N, C, H, W]`; `draw` goes back."""
    patch = images.shape[-1] // grid
    small = _shrink(images, patch // patch_side(patch))
    if images.shape[1] == 1:
        return _cut(small, grid, overlap)
    opponent = torch.einsum("ij,njhw->nihw", small.new_tensor(_OPPONENT), small)
    luminance, colour = opponent[:, :1], _shrink(opponent[:, 1:], COLOUR_POOL)
    return torch.cat([_cut(luminance, grid, overlap), _cut(colour, grid)], dim=2)


def draw(
    cells: torch.Tensor, grid: int, channels: int, patch: int, overlap: int = 0
) -> torch.Tensor:
    """Return `[N, C, grid * patch, grid * patch]` of `[grid * grid, N, D]`."""
    side = patch_side(patch)
    window = (side + 2 * overlap) ** 2
    luminance = _join(cells[:, :, :window], grid, 1, overlap)
    if channels == 3:
        colour = _grow(_join(cells[:, :, window:], grid, 2), COLOUR_POOL)
        opponent = torch.cat([luminance, colour], dim=1)
        luminance = torch.einsum("ij,nihw->njhw", cells.new_tensor(_OPPONENT), opponent)
    return _grow(luminance, patch // side)


def description_size(channels: int, patch: int, overlap: int = 0) -> int:
    """Return D, the numbers that describe a patch of `patch` pixels and the overlap round it."""
    side = patch_side(patch)
    return (side + 2 * overlap) ** 2 + (2 * (side // COLOUR_POOL) ** 2 if channels == 3 else 0)


def inner_numbers(channels: int, patch: int, overlap: int) -> torch.Tensor:
    """Return `[D0] int64`: where the numbers of a patch alone lie among those with overlap."""
    side = patch_side(patch)
    window = side + 2 * overlap
    line = torch.arange(overlap, overlap + side)
    inside = (line[:, None] * window + line).flatten()
    colours = description_size(channels, patch) - side**2
    return torch.cat([inside, window**2 + torch.arange(colours)])


class LinearPath(nn.Module):
    """One basis per latent cell, used for reading and (transposed) for writing.

    Args:
        channels: of the image, 1 or 3.
        latent: latent numbers per cell.
        grid: cells along a side.
        patch: side of a cell's patch in pixels.
        overlap: described pixels by which a cell reaches into its neighbours.
    """

    def __init__(self, channels: int, latent: int, grid: int, patch: int, overlap: int = 0) -> None:
        super().__init__()
        self.channels, self.grid, self.patch, self.overlap = channels, grid, patch, overlap
        numbers = description_size(channels, patch, overlap)
        size = grid * patch
        self.mean_image = nn.Parameter(torch.full((1, channels, size, size), 0.5))
        self.basis = nn.Parameter(torch.empty(grid * grid, latent, numbers))
        nn.init.normal_(self.basis, std=numbers**-0.5)
        self.gain_in = nn.Parameter(torch.ones(grid * grid, 1, latent))
        self.gain_out = nn.Parameter(torch.zeros(grid * grid, 1, latent))

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Return what `read` finds in images, four axes, or `write` makes of a latent, three."""
        return self.read(given) if given.ndim == 4 else self.write(given)

    def read(self, centred: torch.Tensor) -> torch.Tensor:
        """Return latent `[N, grid * grid, latent]` of images less their mean, `[N, C, H, W]`."""
        numbers = torch.bmm(self.describe(centred), self.basis.transpose(1, 2))
        return (numbers * self.gain_in).transpose(0, 1)

    def write(self, latent: torch.Tensor) -> torch.Tensor:
        """Return `[N, C, H, W]` of latent `[N, grid * grid, latent]`, the mean included."""
        cells = torch.bmm(latent.transpose(0, 1) * self.gain_out, self.basis)
        return self.draw(cells) + self.mean_image

    def describe(self, images: torch.Tensor) -> torch.Tensor:
        """Return `[grid * grid, N, D]` numbers per cell, the overlap's among them."""
        return describe(images, self.grid, self.overlap)

    def draw(self, cells: torch.Tensor) -> torch.Tensor:
        """Return `[N, C, H, W]` of numbers per cell, what overlaps added up."""
        return draw(cells, self.grid, self.channels, self.patch, self.overlap)
