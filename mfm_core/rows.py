"""Rows of channels: how a CPU sees channels-last images, and what is done to them as products.

A pointwise group convolution is one batched product over a view; a stride-2 convolution or
transposed convolution of kernel 2 is one product and one copy that also shuffles.
Nothing here crosses the hospital's boundary.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import Any

import torch

SHORTEST_PIECE = 8
"""Numbers of a piece from which on a list of pieces is quicker than a copy of many axes."""

LONGEST_LIST = 2**17
"""Pieces of a list that is kept, half a megabyte; longer copies are made axis by axis."""


class GroupProduct(torch.autograd.Function):
    """Rows times a block-diagonal matrix, without a copy of the rows."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return `[M, g * o]` of rows `[M, g * i]` and weight `[g, o, i]`."""
        ctx.save_for_backward(rows, weight)
        return product(rows, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of rows and weight, as far as they are needed."""
        rows, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        back = product(gradient, weight) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return back, None
        return back, weight_gradient(gradient, rows, len(weight))


def product(rows: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """Return rows `[M, g * i]` times blocks `[g, i, o]`, `[M, g * o]`."""
    groups, _, outer = blocks.shape
    if groups == 1:
        return rows @ blocks[0]
    if torch.is_grad_enabled():  # a gradient of the gradient is asked for; `out` has none
        found = torch.bmm(_apart(rows, groups), blocks)
        return found.transpose(0, 1).reshape(len(rows), groups * outer)
    if rows.device.type == "cpu" and rows.dtype != torch.bfloat16:  # that has no MKL
        return add_product(rows.new_zeros(len(rows), groups * outer), rows, blocks)
    result = rows.new_empty(len(rows), groups * outer)
    torch.bmm(_apart(rows, groups), blocks, out=_apart(result, groups))
    return result


def _apart(rows: torch.Tensor, groups: int) -> torch.Tensor:
    """Return rows `[M, g * c]` as one matrix a group, `[g, M, c]`: a view, in one call."""
    (count, channels), (down, across) = rows.shape, rows.stride()
    each = channels // groups
    return rows.as_strided((groups, count, each), (each * across, down, across))


def add_product(total: torch.Tensor, rows: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """Add rows `[M, g * i]` times blocks `[g, i, o]` to `total [M, g * o]` in place.

    MKL clears what it writes group by group, piece by piece, in a pass of its own; adding to zeros
    that were written in one go gives the same bits and takes .55 to .95 x as long.
    """
    groups = blocks.shape[0]
    _apart(total, groups).baddbmm_(_apart(rows, groups), blocks)
    return total


def sum_with_product(start: torch.Tensor, rows: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """Return `start [M, g * o]` plus rows `[M, g * i]` times blocks `[g, i, o]`, as start's dtype.

    Where the factors are bfloat16 the product is rounded before it is added.
    """
    if rows.dtype == start.dtype:
        return add_product(start.clone(memory_format=torch.contiguous_format), rows, blocks)
    return product(rows, blocks).to(start.dtype).add_(start)


def weight_gradient(slope: torch.Tensor, rows: torch.Tensor, groups: int) -> torch.Tensor:
    """Return the gradient `[g, o, i]` of a weight: slope `[M, g * o]` by rows `[M, g * i]`.

    The narrower factor comes first, which is .85 to 1 x the time of the other order; in bfloat16
    group by group, where oneDNN takes .5 to .9 x as long as for all groups in one call.
    """
    if slope.dtype == torch.bfloat16 and slope.device.type == "cpu":
        pairs = zip(slope.chunk(groups, 1), rows.chunk(groups, 1), strict=True)
        return torch.stack([one.mT @ other for one, other in pairs])
    return torch.bmm(_apart(slope, groups).mT, _apart(rows, groups))


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
    shuffled: torch.Tensor = _Shuffle.apply(rows, groups)
    return shuffled


class _Shuffle(torch.autograd.Function):
    """`channel_shuffle`, which is its own inverse and so its own gradient."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, groups: int) -> torch.Tensor:
        """Return the rows shuffled."""
        ctx.groups = groups
        return exchange(rows.clone(memory_format=torch.contiguous_format), groups)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradient shuffled back."""
        return channel_shuffle(gradients[0], ctx.groups), None


def exchange(rows: torch.Tensor, groups: int) -> torch.Tensor:
    """Shuffle the channels of rows `[M, C]` in place: piece j of group i for piece i of group j.

    Pair by pair, because the pieces that stay need no copy and a copy of two axes is a quick one.
    """
    pieces = _apart(rows, groups * groups)
    for first, second in itertools.combinations(range(groups), 2):
        one, other = pieces[first * groups + second], pieces[second * groups + first]
        kept = one.clone()
        one.copy_(other)
        other.copy_(kept)
    return rows


def space_to_depth(images: torch.Tensor, side: int, groups: int = 1) -> torch.Tensor:
    """Return `[N * H/s * W/s, C * s * s]` of `[N, C, H, W]`: the group stays the slowest index.

    The order of the last index is (group, row, column, channel of the group).
    """
    count, channels, height, width = images.shape
    cells = (count, height // side, side, width // side, side, groups, channels // groups)
    moved = _reordered(images.permute(0, 2, 3, 1), cells, (0, 1, 3, 5, 2, 4, 6))
    return moved.view(-1, channels * side * side)


def depth_to_space(rows: torch.Tensor, count: int, side: int, groups: int = 1) -> torch.Tensor:
    """Return channels-last `[N, C, H * s, W * s]`: the inverse of `space_to_depth`."""
    cells = math.isqrt(len(rows) // count)
    channels = rows.shape[1] // side**2
    apart = (count, cells, cells, groups, side, side, channels // groups)
    joined = _reordered(rows, apart, (0, 1, 4, 2, 5, 3, 6))
    return joined.view(count, cells * side, cells * side, channels).permute(0, 3, 1, 2)


def spread(rows: torch.Tensor, count: int, groups: int) -> torch.Tensor:
    """Return channels-last `[N, C, 2 H, 2 W]` of rows `[N * H * W, 4 * C]`, channels shuffled.

    The last step of a grouped transposed convolution whose kernel is its stride: the order of the
    rows' channels is (group, row, column, channel of the group).
    """
    cells, channels = math.isqrt(len(rows) // count), rows.shape[1] // 4
    apart = (count, cells, cells, groups, 2, 2, groups, channels // groups**2)
    joined = _reordered(rows, apart, (0, 1, 4, 2, 5, 6, 3, 7))
    return joined.view(count, 2 * cells, 2 * cells, channels).permute(0, 3, 1, 2)


def gather(images: torch.Tensor, groups: int) -> torch.Tensor:
    """Return rows `[N * H / 2 * W / 2, 4 * C]` of `[N, C, H, W]`: the inverse of `spread`."""
    count, channels, height, width = images.shape
    pieces = (groups, groups, channels // groups**2)
    joined = (count, height // 2, 2, width // 2, 2, *pieces)
    apart = _reordered(images.permute(0, 2, 3, 1), joined, (0, 1, 3, 6, 2, 4, 5, 7))
    return apart.view(-1, 4 * channels)


def _reordered(
    values: torch.Tensor, shape: tuple[int, ...], order: tuple[int, ...]
) -> torch.Tensor:
    """Return a copy of values, cut to `shape`, with axes in a new order; the last stays the last.

    By a list of pieces where that is quicker: torch copies many short axes one row at a time.
    """
    values, pieces = values.reshape(shape), math.prod(shape[:-1])
    listed = shape[-1] >= SHORTEST_PIECE and pieces <= LONGEST_LIST
    if torch.is_grad_enabled() or values.device.type != "cpu" or not listed:
        return values.permute(order).contiguous()
    places = _places(shape[:-1], order[:-1])
    moved = values.reshape(pieces, shape[-1]).index_select(0, places)
    return moved.view([shape[axis] for axis in order])


@lru_cache(maxsize=32)
def _places(shape: tuple[int, ...], order: tuple[int, ...]) -> torch.Tensor:
    """Return which piece comes where, `[prod(shape)] int32`."""
    with torch.inference_mode(False):
        places = torch.arange(math.prod(shape), dtype=torch.int32)
        return places.view(shape).permute(order).flatten()
