"""A linear way into and out of the spatial latent: patches in, overlapping windows out.

Each latent cell reads its own patch and draws a window of twice the patch's side, so neighbours
overlap by half and a learned decoder can hide the patch edges. The start is a PCA of patches
(`mfm_core.patches`), which fills the middle of the windows; the margins start at zero.
Nothing here crosses the hospital's boundary.
"""

from __future__ import annotations

import torch
from torch import nn

from mfm_core.blocks import space_to_depth


class LinearPath(nn.Module):
    """Linear patch encoder and overlapping linear decoder around a mean image.

    Args:
        channels: of the image.
        latent: channels of the spatial latent.
        grid: cells along a side.
        patch: side of a patch in pixels.
    """

    def __init__(self, channels: int, latent: int, grid: int, patch: int) -> None:
        super().__init__()
        self.channels, self.grid, self.patch = channels, grid, patch
        self.margin = patch // 2
        window = patch + 2 * self.margin
        self.mean_image = nn.Parameter(torch.full((1, channels, grid * patch, grid * patch), 0.5))
        self.reader = nn.Parameter(torch.zeros(latent, channels * patch * patch))
        self.writer = nn.Parameter(torch.zeros(latent, channels, window, window))
        nn.init.orthogonal_(self.reader)

    def read(self, centred: torch.Tensor) -> torch.Tensor:
        """Return `[N * grid * grid, latent]` of images less their mean, `[N, C, H, W]`."""
        return space_to_depth(centred, self.patch) @ self.reader_rows()

    def reader_rows(self) -> torch.Tensor:
        """Return the reader as `[patch * patch * C, latent]`, in the order of `space_to_depth`."""
        cells = self.reader.view(-1, self.channels, self.patch * self.patch)
        return cells.permute(2, 1, 0).reshape(-1, len(self.reader))

    def write(self, rows: torch.Tensor, count: int) -> torch.Tensor:
        """Return `[N, C, H, W]` of latent rows `[N * grid * grid, latent]`, the mean included."""
        grid, half, channels = self.grid, self.margin, self.channels
        windows = (rows @ self.writer.flatten(1)).view(
            count, grid, grid, channels, 4, half, 4, half
        )
        canvas = rows.new_zeros(count, channels, grid + 1, 2, half, grid + 1, 2, half)
        for down in (0, 1):
            for right in (0, 1):
                part = windows[:, :, :, :, 2 * down : 2 * down + 2, :, 2 * right : 2 * right + 2]
                place = canvas[:, :, down : down + grid, :, :, right : right + grid]
                place += part.permute(0, 3, 1, 4, 5, 2, 6, 7)
        side = (grid + 1) * self.patch
        inside = slice(half, side - half)
        return canvas.view(count, channels, side, side)[:, :, inside, inside] + self.mean_image
