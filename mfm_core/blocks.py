"""ShuffleNet units, laid out so that a CPU spends its time in matrix products.

Pointwise *group* convolutions, channel shuffle and a depthwise 3x3 (ShuffleNet; paper section
2.1), mirrored by transposed convolutions with channel shuffle. All tensors are channels-last, so
that a pointwise group convolution is one batched product over a view, and a stride-2 convolution
or transposed convolution of kernel 2 is one product and one copy that also shuffles. Each unit
has one GroupNorm at its narrow place (no BatchNorm: it mixes patients and breaks under unlike
sites), and its last product starts at zero, so that a new unit is the identity.
Nothing here crosses the hospital's boundary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class _GroupProduct(torch.autograd.Function):
    """Rows times a block-diagonal matrix, without a copy of the rows."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return `[M, g * o]` of rows `[M, g * i]` and weight `[g, o, i]`."""
        ctx.save_for_backward(rows, weight)
        return _product(rows, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Return the gradients of rows and weight."""
        rows, weight = ctx.saved_tensors
        groups, _, inner = weight.shape
        gradient = gradients[0].contiguous()
        back = _product(gradient, weight) if ctx.needs_input_grad[0] else None
        left = gradient.view(len(rows), groups, -1).permute(1, 2, 0)
        return back, torch.bmm(left, rows.view(len(rows), groups, inner).transpose(0, 1))


def _product(rows: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """Return rows `[M, g * i]` times blocks `[g, i, o]`, `[M, g * o]`."""
    groups, inner, outer = blocks.shape
    if groups == 1:
        return rows @ blocks[0]
    if torch.is_grad_enabled():  # a gradient of the gradient is asked for; `out` has none
        cut = rows.view(len(rows), groups, inner).transpose(0, 1)
        return torch.bmm(cut, blocks).transpose(0, 1).reshape(len(rows), groups * outer)
    result = rows.new_empty(len(rows), groups * outer)
    torch.bmm(
        rows.view(len(rows), groups, inner).transpose(0, 1),
        blocks,
        out=result.view(len(rows), groups, outer).transpose(0, 1),
    )
    return result


def to_rows(images: torch.Tensor) -> torch.Tensor:
    """Return `[N * H * W, C]` of channels-last `[N, C, H, W]`: a view."""
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])


def to_images(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Return channels-last `[count, C, H, H]` of `[count * H * H, C]`: a view."""
    side = math.isqrt(len(rows) // count)
    return rows.view(count, side, side, rows.shape[1]).permute(0, 3, 1, 2)


def channel_shuffle(rows: torch.Tensor, groups: int) -> torch.Tensor:
    """Return `[M, C]` with the channels of the groups exchanged.

    Every group is cut into `groups` pieces and piece j goes to group j, so the next group
    convolution reads equally from every group of the one before. (ShuffleNet's own order inside a
    group differs by a permutation that the weights absorb; this one copies whole pieces.)
    """
    if groups == 1:
        return rows
    pieces = rows.view(len(rows), groups, groups, -1)
    return pieces.transpose(1, 2).reshape(rows.shape)


def space_to_depth(images: torch.Tensor, side: int, groups: int = 1) -> torch.Tensor:
    """Return `[N * H/s * W/s, C * s * s]` of `[N, C, H, W]`: the group stays the slowest index.

    The order of the last index is (group, row, column, channel of the group).
    """
    count, channels, height, width = images.shape
    last = images.permute(0, 2, 3, 1)
    cells = last.reshape(
        count, height // side, side, width // side, side, groups, channels // groups
    )
    return cells.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, channels * side * side)


def depth_to_space(rows: torch.Tensor, count: int, side: int, groups: int = 1) -> torch.Tensor:
    """Return channels-last `[N, C, H * s, W * s]`: the inverse of `space_to_depth`."""
    cells = math.isqrt(len(rows) // count)
    channels = rows.shape[1] // side**2
    apart = rows.view(count, cells, cells, groups, side, side, channels // groups)
    joined = apart.permute(0, 1, 4, 2, 5, 3, 6)
    return joined.reshape(count, cells * side, cells * side, channels).permute(0, 3, 1, 2)


class GroupPointwise(nn.Module):
    """A 1x1 group convolution on rows: `[M, before]` to `[M, after]`, without bias.

    Args:
        before: channels in, a multiple of `groups`.
        after: channels out, a multiple of `groups`.
        groups: number of groups.
    """

    def __init__(self, before: int, after: int, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, after // groups, before // groups))
        nn.init.normal_(self.weight, std=math.sqrt(groups / before))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return `[M, after]`."""
        weight: torch.Tensor = self.weight
        if torch.is_autocast_enabled(rows.device.type):
            kind = torch.get_autocast_dtype(rows.device.type)
            rows, weight = rows.to(kind), weight.to(kind)
        product: torch.Tensor = _GroupProduct.apply(rows, weight)
        return product


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution that keeps the sides: `[N, before, H, W]` to `[N, after, H, W]`.

    Its own name, because Opacus's grad sampler of `nn.Conv2d` (1.6) returns wrong gradients for
    channels-last images; `mfm_core.grad_samplers` registers one that does not.
    """

    def __init__(self, before: int, after: int, groups: int = 1, bias: bool = False) -> None:
        super().__init__(before, after, 3, padding=1, groups=groups, bias=bias)


class Norm(nn.GroupNorm):
    """A GroupNorm that keeps the moments of its last batch, for gradients per image.

    Attributes:
        moments: mean and 1 / deviation, `[N, groups]` each; empty before the first batch.
    """

    moments: tuple[torch.Tensor, ...] = ()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the images with mean 0 and variance 1 per group, scaled and shifted."""
        count, channels, height, width = images.shape
        given = (self.weight, self.bias, count, channels, height * width, self.num_groups, self.eps)
        found, *moments = torch.native_group_norm(images, *given)
        self.moments = tuple(part.detach() for part in moments)
        return found


def group_norm(channels: int, norm_channels: int) -> Norm:
    """Return a GroupNorm of `norm_channels` channels a group; one group if that won't divide."""
    groups = channels // norm_channels if channels % norm_channels == 0 else 1
    return Norm(max(groups, 1), channels)


class ShuffleUnit(nn.Module):
    """A residual ShuffleNet unit: `[N, C, H, W]` to the same shape.

    Group conv -> GroupNorm -> ReLU -> shuffle -> depthwise 3x3 -> group conv -> add.
    """

    def __init__(self, width: int, inner: int, groups: int, norm_channels: int) -> None:
        super().__init__()
        self.groups = groups
        self.narrow = GroupPointwise(width, inner, groups)
        self.norm = group_norm(inner, norm_channels)
        self.depthwise = Conv3x3(inner, inner, groups=inner)
        self.widen = GroupPointwise(inner, width, groups)
        nn.init.zeros_(self.widen.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the unit's output, `[N, C, H, W]`."""
        count = len(images)
        inner = self.norm(to_images(self.narrow(to_rows(images)), count))
        rows = channel_shuffle(to_rows(functional.relu(inner, inplace=True)), self.groups)
        mixed = self.depthwise(to_images(rows, count))
        added: torch.Tensor = images + to_images(self.widen(to_rows(mixed)), count)
        return added


class Down(nn.Module):
    """Halve the sides: GroupNorm, then a 2x2 stride-2 group convolution."""

    def __init__(self, width: int, wider: int, groups: int, norm_channels: int) -> None:
        super().__init__()
        self.groups = groups
        self.norm = group_norm(width, norm_channels)
        self.conv = GroupPointwise(4 * width, wider, groups)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return `[N, wider, H/2, W/2]` of `[N, width, H, W]`."""
        active = functional.relu(self.norm(images), inplace=True)
        return to_images(self.conv(space_to_depth(active, 2, self.groups)), len(images))


class Up(nn.Module):
    """Double the sides: GroupNorm, ReLU, 2x2 stride-2 grouped transposed convolution.

    A transposed convolution whose kernel is its stride is one product per pixel; the copy that
    spreads its result also shuffles the channels.
    """

    def __init__(self, width: int, narrower: int, groups: int, norm_channels: int) -> None:
        super().__init__()
        self.groups = groups
        self.norm = group_norm(width, norm_channels)
        self.conv = GroupPointwise(width, 4 * narrower, groups)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return `[N, narrower, 2H, 2W]` of `[N, width, H, W]`."""
        active = functional.relu(self.norm(images), inplace=True)
        rows = self.conv(to_rows(active))
        count, groups = len(images), self.groups
        cells = math.isqrt(len(rows) // count)
        apart = rows.view(count, cells, cells, groups, 2, 2, groups, -1)
        joined = apart.permute(0, 1, 4, 2, 5, 6, 3, 7)
        spread = joined.reshape(count, 2 * cells, 2 * cells, rows.shape[1] // 4)
        doubled: torch.Tensor = spread.permute(0, 3, 1, 2)
        return doubled


class _GentleClamp(torch.autograd.Function):
    """Clamp to [0, 1]; the gradient passes where a step against it would lead back inside."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        """Return the values held inside [0, 1]."""
        ctx.save_for_backward(values)
        return values.clamp(0.0, 1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        """Return the gradient without the part that would push an outside value further out."""
        (values,) = ctx.saved_tensors
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
