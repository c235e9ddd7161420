"""ShuffleNet units, laid out so that a CPU spends its time in matrix products.

Pointwise *group* convolutions, channel shuffle and a depthwise 3x3 (ShuffleNet; paper section
2.1), mirrored by transposed convolutions with channel shuffle. Tensors are channels-last, the
inner width is a multiple of the groups, each unit has one GroupNorm at its narrow place (no
BatchNorm: it mixes patients and breaks under unlike sites) and the last product of a unit starts
at zero, so that a new unit is the identity. Nothing here crosses the hospital's boundary.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def channel_shuffle(images: torch.Tensor, groups: int) -> torch.Tensor:
    """Return `[N, C, H, W]` with the channels of the groups interleaved.

    Channel `g * (C / groups) + c` moves to `c * groups + g`, so that the next group convolution
    reads from every group of the one before.
    """
    if groups == 1:
        return images
    count, channels, height, width = images.shape
    last = images.permute(0, 2, 3, 1).reshape(count, height, width, groups, channels // groups)
    mixed = last.transpose(3, 4).reshape(count, height, width, channels)
    return mixed.permute(0, 3, 1, 2)


def group_norm(channels: int, norm_channels: int) -> nn.GroupNorm:
    """Return a GroupNorm of `norm_channels` channels a group; one group if that won't divide."""
    groups = channels // norm_channels if channels % norm_channels == 0 else 1
    return nn.GroupNorm(max(groups, 1), channels)


class ShuffleUnit(nn.Module):
    """A residual ShuffleNet unit: `[N, C, H, W]` to the same shape.

    group conv -> GroupNorm -> ReLU -> shuffle -> depthwise 3x3 -> group conv -> add.
    """

    def __init__(self, width: int, inner: int, groups: int, norm_channels: int) -> None:
        super().__init__()
        self.groups = groups
        self.narrow = nn.Conv2d(width, inner, 1, groups=groups, bias=False)
        self.norm = group_norm(inner, norm_channels)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.widen = nn.Conv2d(inner, width, 1, groups=groups)
        for parameter in self.widen.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the unit's output, `[N, C, H, W]`."""
        inner = functional.relu(self.norm(self.narrow(images)), inplace=True)
        mixed = self.depthwise(channel_shuffle(inner, self.groups))
        output: torch.Tensor = images + self.widen(mixed)
        return output


class Down(nn.Module):
    """Halve the sides: 2x2 stride-2 group convolution, GroupNorm, ReLU, shuffle."""

    def __init__(self, width: int, wider: int, groups: int, norm_channels: int) -> None:
        super().__init__()
        self.groups = groups
        self.conv = nn.Conv2d(width, wider, 2, stride=2, groups=groups, bias=False)
        self.norm = group_norm(wider, norm_channels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return `[N, wider, H/2, W/2]` of `[N, width, H, W]`."""
        return channel_shuffle(
            functional.relu(self.norm(self.conv(images)), inplace=True), self.groups
        )


class Up(nn.Module):
    """Double the sides: 2x2 stride-2 grouped transposed convolution, GroupNorm, ReLU, shuffle."""

    def __init__(self, width: int, narrower: int, groups: int, norm_channels: int) -> None:
        super().__init__()
        self.groups = groups
        self.conv = nn.ConvTranspose2d(width, narrower, 2, stride=2, groups=groups, bias=False)
        self.norm = group_norm(narrower, norm_channels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return `[N, narrower, 2H, 2W]` of `[N, width, H, W]`."""
        return channel_shuffle(
            functional.relu(self.norm(self.conv(images)), inplace=True), self.groups
        )


class _GentleClamp(torch.autograd.Function):
    """Clamp to [0, 1]; the gradient passes where a step against it would lead back inside."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, values: torch.Tensor) -> torch.Tensor:
        """Return the values held inside [0, 1]."""
        ctx.save_for_backward(values)
        return values.clamp(0.0, 1.0)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *gradients: torch.Tensor
    ) -> torch.Tensor:
        """Return the gradient without the part that would push an outside value further out."""
        (values,) = ctx.saved_tensors  # type: ignore[attr-defined]  # set by save_for_backward
        (gradient,) = gradients
        outward = ((values < 0) & (gradient > 0)) | ((values > 1) & (gradient < 0))
        return gradient.masked_fill(outward, 0.0)


def clamp_gently(values: torch.Tensor) -> torch.Tensor:
    """Return values clamped to [0, 1]; values outside still learn to come back.

    Dark backgrounds become exactly 0, which SSIM rewards: its stabilising constant corresponds
    to a deviation of 0.03, so faint ripples on a flat background cost as much as lost structure.
    """
    clamped: torch.Tensor = _GentleClamp.apply(values)
    return clamped
