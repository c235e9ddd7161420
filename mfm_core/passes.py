"""Whole layers as one node of autograd: the same bits as step by step, in fewer calls.

At the sizes of this model a step of training is a thousand small calls, and each pass over a
tensor costs as much as the product beside it. Here norm, activation, shuffle and products follow
each other without a node, a view or a sum of gradients in between, and what may be done in place
is. Where a gradient of the gradient is asked for, it is computed once more in the plain way, in
the weights' own precision.

Factors may be bfloat16: images and gradients are rounded once where they enter, and what lies
between the two products of a unit is bfloat16. Residual sums, what is normed of them, moments of
the norms and weights stay float32; a weight's gradient is summed in float32 and rounded once.
Nothing here crosses the hospital's boundary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from mfm_core.rows import (
    GroupProduct,
    channel_shuffle,
    depth_to_space,
    exchange,
    gather,
    product,
    space_to_depth,
    spread,
    sum_with_product,
    to_images,
    to_rows,
    weight_gradient,
)

aten = torch.ops.aten

Watch = Callable[..., Callable[..., None]]
"""Is shown how many images there are, the norm's moments (a list) and what each layer of a block
was given, in their order: products rows, the others images. What it returns is shown, in the same
order, the gradients by what the layers returned."""


class UnitPass(torch.autograd.Function):
    """A residual unit: product, norm, ReLU, shuffle, depthwise 3x3, product, sum."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, *given: Any) -> torch.Tensor:
        """Return the unit's output, `[N, C, H, W]`.

        Args:
            ctx: keeps what the backward pass needs.
            images: `[N, C, H, W]`, channels-last.
            given: weights `[g, I / g, C / g]` of the first product, scale and shift `[I]` of the
                norm, depthwise weights `[I, 1, 3, 3]`, weights `[g, C / g, I / g]` of the second
                product; groups and eps of the norm; dtype of the factors; None or who watches.
        """
        _, scale, shift, _, _, norm_groups, eps, kind, watch = given
        count, rows = len(images), to_rows(images)
        factors = rows.to(kind)
        narrow, depthwise, widen = (given[place].to(kind) for place in (0, 3, 4))
        inner = to_images(product(factors, narrow.mT), count)
        active, moments, sizes = _norm_and_relu(inner, scale, shift, norm_groups, eps)
        active = to_images(exchange(to_rows(active), len(narrow)), count)
        mixed = torch.conv2d(active, depthwise, None, 1, 1, 1, len(scale))
        rounded = (factors, narrow, depthwise, widen)
        ctx.save_for_backward(images, *given[:5], *rounded, inner, active, mixed, *moments)
        ctx.sizes, ctx.eps = sizes, eps
        ctx.watched = watch and watch(count, moments, rows, inner, active, to_rows(mixed))
        start = rows.to(scale.dtype)
        return to_images(sum_with_product(start, to_rows(mixed), widen.mT), count)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of images and weights, as far as they are needed."""
        *kept, inner, active, mixed, mean, over_deviation = ctx.saved_tensors
        inputs, (factors, narrow, depthwise, widen) = kept[:6], kept[6:]
        needed, norm = ctx.needs_input_grad, (ctx.sizes[3], ctx.eps)
        if torch.is_grad_enabled():
            return _differentiable(_plain_unit, inputs, norm, gradients[0], needed)
        count, groups, scale = len(gradients[0]), len(narrow), inputs[2]
        arrived = to_rows(gradients[0]).contiguous()
        slope = arrived.to(factors.dtype)
        by_mixed = to_images(product(slope, widen), count)
        by_active, by_depthwise = _depthwise_gradients(by_mixed, active, depthwise, needed[4])
        by_active = to_images(exchange(_through_relu(by_active, active), groups), count)
        by_inner, by_scale, by_shift = aten.native_group_norm_backward(
            by_active, inner, mean, over_deviation, scale, *ctx.sizes, [True, *needed[2:4]]
        )
        by_rows, by_images = to_rows(by_inner), None
        if ctx.watched:
            ctx.watched(by_rows, by_active, by_mixed, slope)
        if needed[0]:
            by_images = to_images(sum_with_product(arrived, by_rows, narrow), count)
        by_narrow = weight_gradient(by_rows, factors, groups) if needed[1] else None
        by_widen = weight_gradient(slope, to_rows(mixed), groups) if needed[5] else None
        return by_images, by_narrow, by_scale, by_shift, by_depthwise, by_widen, *[None] * 4


class ResizePass(torch.autograd.Function):
    """Norm, ReLU and a product that halves or doubles the sides."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, *given: Any) -> torch.Tensor:
        """Return `[N, D, H / 2, W / 2]` or `[N, D, 2 H, 2 W]`.

        Args:
            ctx: keeps what the backward pass needs.
            images: `[N, C, H, W]`, channels-last.
            given: scale and shift `[C]` of the norm; weights `[g, D / g, 4 C / g]` of the product
                that halves, `[g, 4 D / g, C / g]` of the one that doubles; whether it halves;
                groups and eps of the norm; dtype of the factors; None or who watches.
        """
        scale, shift, weight, halves, norm_groups, eps, kind, watch = given
        count = len(images)
        active, moments, sizes = _norm_and_relu(images, scale, shift, norm_groups, eps)
        active = active.to(kind)
        rows = space_to_depth(active, 2, len(weight)) if halves else to_rows(active)
        ctx.save_for_backward(images, scale, shift, weight, rows, *moments)
        ctx.sizes, ctx.eps, ctx.halves = sizes, eps, halves
        ctx.watched = watch and watch(count, moments, images, rows)
        found = product(rows, weight.to(kind).mT)
        found = to_images(found, count) if halves else spread(found, count, len(weight))
        return found.to(scale.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of images and weights, as far as they are needed."""
        *inputs, rows, mean, over_deviation = ctx.saved_tensors
        needed, norm = ctx.needs_input_grad, (ctx.halves, ctx.sizes[3], ctx.eps)
        if torch.is_grad_enabled():
            return _differentiable(_plain_resize, inputs, norm, gradients[0], needed)
        images, scale, _, weight = inputs
        weight, arrived = weight.to(rows.dtype), gradients[0].to(rows.dtype)
        count, groups = len(images), len(weight)
        slope = to_rows(arrived) if ctx.halves else gather(arrived, groups)
        slope = slope.contiguous()
        by_rows = product(slope, weight)
        aten.threshold_backward.grad_input(by_rows, rows, 0, grad_input=by_rows)
        by_weight = weight_gradient(slope, rows, groups) if needed[3] else None
        by_active = to_images(by_rows, count)
        if ctx.halves:
            by_active = depth_to_space(by_rows, count, 2, groups)
        by_active = by_active.to(images.dtype)
        if ctx.watched:
            ctx.watched(by_active, slope)
        by_images, by_scale, by_shift = aten.native_group_norm_backward(
            by_active, images, mean, over_deviation, scale, *ctx.sizes, list(needed[:3])
        )
        return by_images, by_scale, by_shift, by_weight, *[None] * 5


def _norm_and_relu(
    images: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, groups: int, eps: float
) -> tuple[torch.Tensor, list[torch.Tensor], tuple[int, int, int, int]]:
    """Return the active images, and the moments and sizes that the norm's backward pass takes."""
    sizes = (len(images), len(scale), images.shape[2] * images.shape[3], groups)
    active, *moments = torch.native_group_norm(images, scale, shift, *sizes, eps)
    return active.relu_(), moments, sizes


def _through_relu(slope: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
    """Return the rows `[M, C]` of a gradient before a ReLU, from its output; overwrites `slope`."""
    held = aten.threshold_backward.grad_input(slope, active, 0, grad_input=slope)
    return to_rows(held).contiguous()


def _depthwise_gradients(
    slope: torch.Tensor, images: torch.Tensor, weight: torch.Tensor, needed: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the gradients of images and, where needed, weight of a depthwise 3x3 convolution."""
    one, none, groups = [1, 1], [0, 0], len(weight)
    given = (slope, images, weight, None, one, one, one, False, none, groups)
    by_images, by_weight, _ = aten.convolution_backward(*given, [True, needed, False])
    return by_images, by_weight


def _differentiable(
    plain: Callable[..., torch.Tensor],
    inputs: list[torch.Tensor],
    settings: tuple[Any, ...],
    slope: torch.Tensor,
    needed: tuple[bool, ...],
) -> tuple[torch.Tensor | None, ...]:
    """Return gradients that can be differentiated: the pass once more, in the plain way."""
    wanted = [part for part, need in zip(inputs, needed, strict=False) if need]
    with torch.autocast(slope.device.type, enabled=False):
        again = plain(*inputs, *settings)
        found = torch.autograd.grad(again, wanted, slope, create_graph=True)
    left = iter(found)
    return tuple(next(left) if need else None for need in needed)


def _plain_unit(images: torch.Tensor, *given: Any) -> torch.Tensor:
    narrow, scale, shift, depthwise, widen, norm_groups, eps = given
    count, images = len(images), images.to(scale.dtype)
    inner = to_images(GroupProduct.apply(to_rows(images), narrow), count)
    active = functional.relu(functional.group_norm(inner, norm_groups, scale, shift, eps))
    rows = channel_shuffle(to_rows(active), len(narrow))
    mixed = functional.conv2d(to_images(rows, count), depthwise, None, 1, 1, 1, len(scale))
    added: torch.Tensor = images + to_images(GroupProduct.apply(to_rows(mixed), widen), count)
    return added


def _plain_resize(images: torch.Tensor, *given: Any) -> torch.Tensor:
    scale, shift, weight, halves, norm_groups, eps = given
    count, groups, images = len(images), len(weight), images.to(scale.dtype)
    active = functional.relu(functional.group_norm(images, norm_groups, scale, shift, eps))
    if halves:
        return to_images(GroupProduct.apply(space_to_depth(active, 2, groups), weight), count)
    return spread(GroupProduct.apply(to_rows(active), weight), count, groups)
