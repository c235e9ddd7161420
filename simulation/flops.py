"""Counts the floating point operations of real code: torch's counter, set right in two places.

`torch.utils.flop_counter` (2.15) counts products, convolutions, grouped and transposed
convolutions rightly in the forward pass, but the weight gradient of a convolution with g groups
g times over, so a depthwise layer of 64 channels would count 32 times its backward pass; and it
does not know products that are added in place. A test holds all three against direct counts.
What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def _convolution_backward(
    gradient: Sequence[int],
    images: Sequence[int],
    weight: Sequence[int],
    _bias: object,
    _stride: object,
    _padding: object,
    _dilation: object,
    transposed: bool,
    _output_padding: object,
    _groups: int,
    mask: Sequence[bool],
    **_: Any,
) -> int:
    """Return the operations of a convolution's backward pass, from shapes.

    The gradients of images and of weights cost as much as the forward pass each: every weight
    meets every pixel of the smaller side (the output; the input where transposed) once.
    """
    places = prod(images[2:]) if transposed else prod(gradient[2:])
    forward = 2 * images[0] * places * prod(weight)
    return forward * (int(mask[0]) + int(mask[1]))


def _add_product(_total: object, left: Sequence[int], right: Sequence[int], **_: Any) -> int:
    """Return the operations of a product that is added in place, which the counter leaves out."""
    return 2 * prod(left) * right[-1]


def count_flops(work: Callable[[], object]) -> dict[str, int]:
    """Run `work` once and return operations by torch operator; a multiply-add counts as two.

    Counted are matrix products and convolutions, forward and backward; additions, norms and
    activations are not.
    """
    formulas = {
        torch.ops.aten.convolution_backward: _convolution_backward,
        torch.ops.aten.baddbmm_: _add_product,
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        work()
    counts = counter.get_flop_counts().get("Global", {})
    return {str(operator): int(number) for operator, number in counts.items()}
