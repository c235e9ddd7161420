"""The gradients of many images by one weight, kept apart at the least cost: norms and clipped sums.

A layer of products (1x1 group convolution, linear layer, basis of the linear path) has, for image
n, the gradient sum_t left[n, t] x right[n, t] over its places t. Where places are few and weights
many it is never formed: its squared norm is sum_{t, s} (left_t . left_s)(right_t . right_s) (the
"ghost norm" of Goodfellow, 2015, arXiv 1510.01799, with places as in Li et al., 2022, arXiv
2110.05679), and the weighted sum over images is the one product that a plain step takes, with
weighted rows (Bu et al., 2023, arXiv 2210.00038). Where weights are few the gradients are formed.
A weight may be used several times in a pass; a later use may hold fewer images, the first ones.

A norm may come out too small by float32's rounding, and a clip that is passed is no clip: norms
are therefore rounded up by more than that (`SLACK`).
Nothing here crosses the hospital's boundary: a gradient of one image never may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import torch

SLACK = 2e-6
"""Share of the sizes that went into a squared norm which is added to it: 33 roundings."""


class Whole(NamedTuple):
    """Gradients that are formed.

    Attributes:
        each: `[N, *shape]`.
    """

    each: torch.Tensor


class Product(NamedTuple):
    """Gradients as sums of outer products over places: `[N, g, o, i]`, or the weight's own shape.

    Attributes:
        left: `[N, T, g, o]`, what comes back.
        right: `[N, T, g, i]`, what came in.
    """

    left: torch.Tensor
    right: torch.Tensor

    @property
    def is_wide(self) -> bool:
        """Whether places are so few that the gradients cost more than their norms."""
        (_, places, _, outer), inner = self.left.shape, self.right.shape[3]
        return places * (outer + inner) < outer * inner

    def form(self) -> torch.Tensor:
        """Return the gradients, `[N, g, o, i]`."""
        (count, places, groups, outer), inner = self.left.shape, self.right.shape[3]
        if places == 1:
            return self.left[:, 0, :, :, None] * self.right[:, 0, :, None, :]
        found = self.left.new_empty(count, groups, outer, inner)
        for group in range(groups):
            left, right = self.left[:, :, group], self.right[:, :, group]
            torch.bmm(left.mT, right, out=found[:, group])
        return found


Use = Whole | Product
Join = Callable[[torch.Tensor], torch.Tensor]
"""From gradients of images `[N, ...]` to those of units `[U, ...]`."""


def formed(uses: Sequence[Use], shape: Sequence[int]) -> torch.Tensor:
    """Return the gradients of all images, `[N, *shape]`: the uses added up."""
    parts = [use.each if isinstance(use, Whole) else use.form() for use in uses]
    parts = sorted((part.reshape(len(part), *shape) for part in parts), key=len, reverse=True)
    total = parts[0].clone() if len(parts) > 1 else parts[0]
    for part in parts[1:]:
        total[: len(part)] += part
    return total


def thin(uses: Sequence[Use], shape: Sequence[int]) -> list[Use]:
    """Return the uses in the form that costs least from here on: all products, or one whole."""
    if all(isinstance(use, Product) and use.is_wide for use in uses):
        return list(uses)
    return [Whole(formed(uses, shape))]


def square_norms(uses: Sequence[Use], join: Join | None, shape: Sequence[int]) -> torch.Tensor:
    """Return the squared norms of all images or, joined, of all units; never too small.

    Args:
        uses: of one weight, as `thin` returns them.
        join: adds up the images of each unit; None where every image is a unit.
        shape: of the weight.
    """
    if join is not None or isinstance(uses[0], Whole):
        each = formed(uses, shape)
        found = _lengths(each if join is None else join(each))
        return found * (1.0 + SLACK)
    products = [use for use in uses if isinstance(use, Product)]
    products.sort(key=lambda use: len(use.left), reverse=True)
    total, reach = _inner(products[0], products[0]), _reach(products[0])
    for use in products[1:]:
        total[: len(use.left)] += _inner(use, use)
        reach[: len(use.left)] += _reach(use)
    for one, other in combinations(products, 2):
        total[: len(other.left)] += 2.0 * _inner(one, other)
    return total.clamp_min_(0.0).add_(reach.square_().sum(dim=1), alpha=SLACK)


def weighted_sum(uses: Sequence[Use], weights: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return the sum over images of weight times gradient, of the weight's shape.

    Args:
        uses: of one weight.
        weights: `[N]`; an image of weight 0 has no part, whatever its gradient is.
        shape: of the weight.
    """
    found = [_weigh(use, weights[: len(use[0])]) for use in uses]
    total = found[0]
    for part in found[1:]:
        total = total.add_(part.view(total.shape))
    return total.view(*shape)


def erase(uses: Sequence[Use], images: torch.Tensor) -> None:
    """Set the gradients of some images to zero, in place; `images` is `[N]` bool."""
    for use in uses:
        for part in use:
            of_these = images[: len(part)].view(-1, *[1] * (part.ndim - 1))
            part.masked_fill_(of_these, 0.0)


def _lengths(each: torch.Tensor) -> torch.Tensor:
    norms: torch.Tensor = torch.linalg.vector_norm(each.reshape(len(each), -1), dim=1)
    return norms.square_()


def _reach(use: Product) -> torch.Tensor:
    """Return `[N, g]`: the lengths of all outer products added up, whatever their directions."""
    left: torch.Tensor = torch.linalg.vector_norm(use.left, dim=3)
    return left.mul_(torch.linalg.vector_norm(use.right, dim=3)).sum(dim=1)


def _inner(one: Product, other: Product) -> torch.Tensor:
    """Return the inner products of the gradients of two uses, `[N]` of the shorter."""
    count = min(len(one.left), len(other.left))
    lefts, rights = (one.left[:count], other.left[:count]), (one.right[:count], other.right[:count])
    if lefts[0].shape[1] == lefts[1].shape[1] == 1:
        left = (lefts[0] * lefts[1]).sum(dim=3)[:, 0]
        return left.mul_((rights[0] * rights[1]).sum(dim=3)[:, 0]).sum(dim=1)
    found = one.left.new_zeros(count)
    for group in range(lefts[0].shape[2]):
        left, right = (torch.bmm(a[:, :, group], b[:, :, group].mT) for a, b in (lefts, rights))
        found += left.mul_(right).sum(dim=(1, 2))
    return found


def _weigh(use: Use, weights: torch.Tensor) -> torch.Tensor:
    if isinstance(use, Whole):
        return weights @ use.each.reshape(len(weights), -1)
    count, places, groups, outer = use.left.shape
    rows = (use.left * weights[:, None, None, None]).view(count * places, groups, outer)
    right = use.right.reshape(count * places, groups, -1)
    return torch.bmm(rows.permute(1, 2, 0), right.transpose(0, 1))
