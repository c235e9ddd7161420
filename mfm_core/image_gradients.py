"""The gradients of many images by all weights, kept apart at the least cost: norms, clipped sums.

A layer of products (1x1 group convolution, linear layer, basis of the linear path) has, for image
n, the gradient sum_t left[n, t] x right[n, t] over its places t. Where places are few and weights
many it is never formed: its squared norm is sum_{t, s} (left_t . left_s)(right_t . right_s) (the
"ghost norm" of Goodfellow, 2015, arXiv 1510.01799, with places as in Li et al., 2022, arXiv
2110.05679), and the weighted sum over images is the one product that a plain step takes, with
weighted rows (Bu et al., 2023, arXiv 2210.00038). Where weights are few the gradients are formed.
A weight may be used several times in a pass; a later use may hold fewer images, the first ones.
What is done early is done while the numbers are in the cache: a product is formed, or its rows
multiplied with each other, as soon as the rows are there. Where images share a unit (a patient),
the norm is that of their gradients added up: products are formed for it, one weight at a time.

A norm may come out too small by float32's rounding, and a clip that is passed is no clip: norms
are therefore rounded up by more than that (`SLACK`).
Nothing here crosses the hospital's boundary: a gradient of one image never may.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, combinations
from typing import Any, NamedTuple

import torch

SLACK = 2e-6
"""Share of the sizes that went into a squared norm which is added to it: 33 roundings."""

SMALL = 2**11
"""Weights with fewer numbers are laid side by side in one sheet; a larger one has its own."""

PIECE = 2**12
"""Numbers whose squares torch adds up at a time: its float32 sums of squares come out the smaller
the longer they are, of 2**16 numbers by 5e-6."""

Join = Callable[[torch.Tensor], torch.Tensor]
"""From gradients of images `[N, ...]` to those of units `[U, ...]`."""


class Product(NamedTuple):
    """Gradients as sums of outer products over places, not formed: `[N, g, o, i]`.

    Attributes:
        left: `[N, T, g, o]`, what comes back.
        right: `[N, T, g, i]`, what came in.
        inner: inner products of the rows of `left` and of `right` (`inner_products`); None where
            they were not taken early.
    """

    left: torch.Tensor
    right: torch.Tensor
    inner: tuple[torch.Tensor, torch.Tensor] | None = None


Use = torch.Tensor | Product
"""Gradients of some images by one weight: formed, `[N, ...]`, memory of its own, or not."""


def is_wide(places: int, outer: int, inner: int) -> bool:
    """Return whether places are so few that the gradients cost more than their norms."""
    return places * (outer + inner) < outer * inner


def inner_products(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return `[g, N, T, S]` of rows `[N, T, g, c]` and `[M, S, g, c]`, N the smaller number."""
    count = min(len(one), len(other))
    one, other = one[:count], other[:count]
    if one.shape[1] == other.shape[1] == 1:
        return (one * other).sum(dim=3).permute(2, 0, 1).unsqueeze(3)
    groups = one.shape[2]
    found = one.new_empty(groups, count, one.shape[1], other.shape[1])
    for group in range(groups):
        torch.bmm(one[:, :, group], other[:, :, group].mT, out=found[group])
    return found


def multiply(
    left: torch.Tensor,
    right: torch.Tensor,
    rights: torch.Tensor | None = None,
    *,
    alone: bool = True,
) -> Use:
    """Return the gradients of one use of a layer of products, in the form that costs least.

    Args:
        left: `[N, T, g, o]`, what comes back.
        right: `[N, T, g, i]`, what came in.
        rights: inner products of the rows of `right`, where they were taken before.
        alone: whether norms of single images will be asked for; those of units of several images
            take no inner products.
    """
    if not is_wide(left.shape[1], left.shape[3], right.shape[3]):
        return _form(left, right)
    if not alone:
        return Product(left, right)
    rights = inner_products(right, right) if rights is None else rights
    return Product(left, right, (inner_products(left, left), rights))


def _form(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the gradients, `[N, g, o, i]`."""
    (count, places, groups, outer), inner = left.shape, right.shape[3]
    if places == 1:
        return left[:, 0, :, :, None] * right[:, 0, :, None, :]
    found = left.new_empty(count, groups, outer, inner)
    for group in range(groups):
        torch.bmm(left[:, :, group].mT, right[:, :, group], out=found[:, group])
    return found


def formed(uses: Sequence[Use], shape: Sequence[int]) -> torch.Tensor:
    """Return the gradients of all images, `[N, *shape]`: the uses added up, in place of one."""
    parts = [_form(use.left, use.right) if isinstance(use, Product) else use for use in uses]
    parts = sorted((part.reshape(len(part), *shape) for part in parts), key=len, reverse=True)
    total = parts[0]
    for part in parts[1:]:
        total[: len(part)] += part
    return total


class Gradients:
    """The gradients of the images of one pass by all weights.

    Args:
        uses: of every parameter; the longest of each has all N images.
    """

    def __init__(self, uses: Mapping[Any, list[Use]]) -> None:
        self._products: dict[Any, list[Product]] = {}
        self._sheets: list[tuple[list[Any], torch.Tensor]] = []
        small: dict[Any, torch.Tensor] = {}
        for parameter, found in uses.items():
            products = [use for use in found if isinstance(use, Product)]
            if len(products) == len(found):
                self._products[parameter] = sorted(products, key=lambda use: -len(use.left))
                continue
            flat = formed(found, [parameter.numel()])
            if parameter.numel() < SMALL:
                small[parameter] = flat
            else:
                self._sheets.append(([parameter], flat))
        if small:
            self._sheets.append((list(small), torch.cat(list(small.values()), dim=1)))

    def __len__(self) -> int:
        """Return how many parameters there are."""
        return len(self._products) + sum(len(parameters) for parameters, _ in self._sheets)

    def each(self, parameter: torch.Tensor) -> torch.Tensor:
        """Return the gradients by one parameter, `[N, *shape]`."""
        if parameter in self._products:
            return formed(self._products[parameter], parameter.shape)
        for parameters, sheet in self._sheets:
            parts = torch.split(sheet, [p.numel() for p in parameters], dim=1)
            for one, part in zip(parameters, parts, strict=True):
                if one is parameter:
                    return part.view(len(part), *parameter.shape)
        raise KeyError("the parameter had no part in the pass")

    def norms(self, join: Join | None) -> torch.Tensor:
        """Return the norms of the gradients of all images or, joined, of all units: `[N or U]`.

        Never too small.

        Args:
            join: adds up the images of each unit; None where every image is a unit.
        """
        sheets: Iterable[torch.Tensor] = (sheet for _, sheet in self._sheets)
        squares: list[torch.Tensor] = []
        if join is None:
            squares += _square_norms(list(self._products.values()))
        else:
            wide = (formed(uses, [p.numel()]) for p, uses in self._products.items())
            sheets = map(join, chain(sheets, wide))
        for sheet in sheets:
            for piece in torch.split(sheet, PIECE, dim=1):
                lengths = torch.linalg.vector_norm(piece, dim=1)
                squares.append(lengths.square_().mul_(1.0 + SLACK))
        total: torch.Tensor = torch.stack(squares).sum(dim=0)
        return total.sqrt_()

    def add_weighted(self, weights: torch.Tensor) -> None:
        """Add the sum over images of weight times gradient to every parameter's `grad`.

        Args:
            weights: `[N]`; 0 leaves an image out only if its gradient is finite (`erase`).
        """
        for parameters, sheet in self._sheets:
            sums = torch.split(weights @ sheet, [p.numel() for p in parameters])
            for parameter, found in zip(parameters, sums, strict=True):
                parameter.grad += found.view(parameter.shape)
        for parameter, products in self._products.items():
            for use in products:
                _add_weighted(parameter.grad, use, weights[: len(use.left)])

    def erase(self, images: torch.Tensor) -> None:
        """Set the gradients of some images to zero, in place; `images` is `[N]` bool."""
        for _, sheet in self._sheets:
            sheet.masked_fill_(images[:, None], 0.0)
        for use in (use for products in self._products.values() for use in products):
            for part in (use.left, use.right):
                part.masked_fill_(images[: len(part), None, None, None], 0.0)


def _square_norms(weights: list[list[Product]]) -> list[torch.Tensor]:
    """Return parts `[N]` of the images' squared norms, of the uses of each weight, longest first.

    Inner products of one shape, whatever the weight, are multiplied in one go.
    """
    if not weights:
        return []
    total = weights[0][0].left.new_zeros(len(weights[0][0].left))
    slack, kinds = torch.zeros_like(total), defaultdict(list)
    for products in weights:
        for use in products:
            kinds[use.left.shape[:2], len(products)].append(_inner(use))
        for one, other in combinations(products, 2):
            lefts = inner_products(one.left, other.left)
            rights = inner_products(one.right, other.right)
            total[: len(other.left)] += 2.0 * lefts.mul_(rights).sum(dim=(0, 2, 3))
    for (shape, times), pairs in kinds.items():
        lefts, rights = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        # The lengths of all outer products added up, whatever their directions; of several uses
        # the square of the sum is at most the sum of squares, so many times.
        lengths = [inner.diagonal(dim1=2, dim2=3) for inner in (lefts, rights)]
        reach = (lengths[0] * lengths[1]).sqrt_().sum(dim=2).square_().sum(dim=0)
        slack[: shape[0]].add_(reach, alpha=SLACK * times)
        total[: shape[0]] += lefts.mul_(rights).sum(dim=(0, 2, 3))
    return [total.clamp_min_(0.0), slack]


def _inner(use: Product) -> tuple[torch.Tensor, torch.Tensor]:
    if use.inner is not None:
        return use.inner
    return inner_products(use.left, use.left), inner_products(use.right, use.right)


def _add_weighted(total: torch.Tensor, use: Product, weights: torch.Tensor) -> None:
    count, places, groups, outer = use.left.shape
    rows = (use.left * weights[:, None, None, None]).view(count * places, groups, outer)
    right = use.right.reshape(count * places, groups, -1)
    total.view(groups, outer, -1).baddbmm_(rows.permute(1, 2, 0), right.transpose(0, 1))
