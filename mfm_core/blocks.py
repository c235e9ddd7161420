"""ShuffleNet units, laid out so that a CPU spends its time in matrix products.

Pointwise *group* convolutions, channel shuffle and a depthwise 3x3 (ShuffleNet; paper section
2.1), mirrored by transposed convolutions with channel shuffle. All tensors are channels-last, so
that convolutions of one pixel, or of pixels side by side, are batched products (`mfm_core.rows`).
On a processor a block is one pass (`mfm_core.passes`), in bfloat16 too where autocast asks for it,
unless a hook wants to see its layers. Each unit has one GroupNorm at its narrow place (no
BatchNorm: it mixes patients and breaks under unlike sites), and its last product starts at zero, so
that a new unit is the identity.
Nothing here crosses the hospital's boundary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from mfm_core.passes import ResizePass, UnitPass, Watch
from mfm_core.rows import (
    GroupProduct,
    channel_shuffle,
    space_to_depth,
    spread,
    to_images,
    to_rows,
)


def _kind(given: torch.Tensor) -> torch.dtype:
    """Return the dtype of a product's factors: autocast's, or that of what is given."""
    if torch.is_autocast_enabled(given.device.type):
        return torch.get_autocast_dtype(given.device.type)
    return given.dtype


def _in_one_pass(block: Block, images: torch.Tensor) -> bool:
    """Return whether a block may run as one pass: on a processor, its layers not hooked."""
    if images.device.type != "cpu" or (block.watch and torch.is_autocast_enabled("cpu")):
        return False
    return not any(layer._forward_hooks or layer._forward_pre_hooks for layer in block.children())


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
        kind = _kind(rows)
        product: torch.Tensor = GroupProduct.apply(rows.to(kind), self.weight.to(kind))
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


class Block(nn.Module):
    """Layers that may run as one pass; `children` are in the order in which they follow each other.

    Attributes:
        norm: the one among them.
        watch: is shown what the layers were given, and by its result what comes back to them
            (`mfm_core.passes.Watch`); asked in one pass only, and never where products are
            rounded: a gradient's length must not come out too small.
    """

    norm: Norm
    watch: Watch | None = None


class ShuffleUnit(Block):
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
        if not _in_one_pass(self, images):
            return self._by_layers(images)
        norm, narrow, widen = self.norm, self.narrow.weight, self.widen.weight
        weights = (narrow, norm.weight, norm.bias, self.depthwise.weight, widen)
        settings = (norm.num_groups, norm.eps, _kind(images), self.watch)
        whole: torch.Tensor = UnitPass.apply(images, *weights, *settings)
        return whole

    def _by_layers(self, images: torch.Tensor) -> torch.Tensor:
        count = len(images)
        inner = self.norm(to_images(self.narrow(to_rows(images)), count))
        rows = channel_shuffle(to_rows(functional.relu(inner, inplace=True)), self.groups)
        mixed = self.depthwise(to_images(rows, count))
        added: torch.Tensor = images + to_images(self.widen(to_rows(mixed)), count)
        return added


class Down(Block):
    """Halve the sides: GroupNorm, then a 2x2 stride-2 group convolution."""

    def __init__(self, width: int, wider: int, groups: int, norm_channels: int) -> None:
        super().__init__()
        self.groups = groups
        self.norm = group_norm(width, norm_channels)
        self.conv = GroupPointwise(4 * width, wider, groups)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return `[N, wider, H/2, W/2]` of `[N, width, H, W]`."""
        if _in_one_pass(self, images):
            return _resize(self, images, halves=True)
        active = functional.relu(self.norm(images), inplace=True)
        return to_images(self.conv(space_to_depth(active, 2, self.groups)), len(images))


class Up(Block):
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
        if _in_one_pass(self, images):
            return _resize(self, images, halves=False)
        active = functional.relu(self.norm(images), inplace=True)
        return spread(self.conv(to_rows(active)), len(images), self.groups)


def _resize(block: Down | Up, images: torch.Tensor, *, halves: bool) -> torch.Tensor:
    norm, weights = block.norm, (block.norm.weight, block.norm.bias, block.conv.weight)
    settings = (halves, norm.num_groups, norm.eps, _kind(images), block.watch)
    found: torch.Tensor = ResizePass.apply(images, *weights, *settings)
    return found


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
