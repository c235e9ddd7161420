"""Gradients of images by one weight: norms and clipped sums equal those of formed gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from mfm_core.image_gradients import Gradients, Product, Use, formed, multiply
from mfm_core.private_training import _join

COUNT = 5


Rows = tuple[torch.Tensor, torch.Tensor]


def rows(places: int, groups: int, outer: int, inner: int, count: int = COUNT) -> Rows:
    """Return what comes back and what came in, `[N, T, g, o]` and `[N, T, g, i]`."""
    chance = torch.Generator().manual_seed(places + count)
    sizes = (count, places, groups)
    left = torch.randn(*sizes, outer, generator=chance, dtype=torch.float64)
    return left, torch.randn(*sizes, inner, generator=chance, dtype=torch.float64)


def loop(uses: list[Rows]) -> torch.Tensor:
    """Return the gradients `[N, g, o, i]`, outer product by outer product."""
    found = [torch.einsum("ntgo,ntgi->ngoi", *use) for use in uses]
    total = torch.zeros_like(max(found, key=len))
    for part in found:
        total[: len(part)] += part
    return total


def by_one_weight(uses: list[Rows], shape: tuple[int, ...]) -> tuple[nn.Parameter, Gradients]:
    weight = nn.Parameter(torch.zeros(shape, dtype=uses[0][0].dtype))
    weight.grad = torch.zeros_like(weight)
    return weight, Gradients({weight: [multiply(*use) for use in uses]})


SHAPES = {
    "one place": [(1, 3, 4, 6)],
    "few places, many weights": [(2, 2, 9, 7)],
    "many places, few weights": [(30, 2, 3, 4)],
    "used twice, the second time by fewer images": [(2, 2, 9, 7), (3, 2, 9, 7, 2)],
    "used twice, wide and narrow": [(2, 2, 9, 7, 3), (40, 2, 9, 7)],
}


@pytest.mark.parametrize("sizes", SHAPES.values(), ids=SHAPES.keys())
def test_products_equal_the_loop(sizes: list[tuple[int, ...]]) -> None:
    uses = [rows(*size) for size in sizes]
    expected = loop(uses)
    weight, found = by_one_weight(uses, expected.shape[1:])
    torch.testing.assert_close(found.each(weight), expected)
    lengths = expected.flatten(1).norm(dim=1)
    norms = found.norms(None)
    torch.testing.assert_close(norms, lengths, rtol=1e-4, atol=0.0)
    assert bool((norms >= lengths).all())
    weights = torch.linspace(0.1, 1.0, COUNT, dtype=torch.float64)
    found.add_weighted(weights)
    torch.testing.assert_close(weight.grad, torch.einsum("n,n...->...", weights, expected))
    found.add_weighted(weights)
    torch.testing.assert_close(weight.grad, torch.einsum("n,n...->...", 2 * weights, expected))


def test_wide_products_are_never_formed_and_narrow_ones_are() -> None:
    wide, narrow = multiply(*rows(2, 2, 9, 7)), multiply(*rows(30, 2, 3, 4))
    assert isinstance(wide, Product)
    assert isinstance(narrow, torch.Tensor) and narrow.shape == (COUNT, 2, 3, 4)


@pytest.mark.parametrize("sizes", SHAPES.values(), ids=SHAPES.keys())
def test_norms_are_the_same_whether_inner_products_were_taken_early(
    sizes: list[tuple[int, ...]],
) -> None:
    uses, owners = [rows(*size) for size in sizes], torch.tensor([0, 0, 1, 1, 2])
    weight = nn.Parameter(torch.zeros(loop(uses).shape[1:], dtype=torch.float64))
    early, late = (
        Gradients({weight: [multiply(*use, alone=alone) for use in uses]})
        for alone in (True, False)
    )
    for join in (None, partial(_join, owners)):
        assert torch.equal(early.norms(join), late.norms(join))


def test_many_weights_are_told_apart() -> None:
    """Small ones share a sheet, a large one has its own, a wide one none."""
    shapes = {"wide": (2, 9, 7), "small": (6, 1), "large": (3, 800), "other": (5,)}
    chance = torch.Generator().manual_seed(0)
    weights = {name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()}
    each = {name: torch.randn(COUNT, *shape, generator=chance) for name, shape in shapes.items()}
    left, right = (part.float() for part in rows(2, 2, 9, 7))
    each["wide"] = loop([(left, right)])
    uses: dict[nn.Parameter, list[Use]] = {weights[name]: [each[name]] for name in shapes}
    uses[weights["wide"]] = [multiply(left, right)]
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    found, shares = Gradients(uses), torch.rand(COUNT, generator=chance)
    flat = torch.cat([part.flatten(1) for part in each.values()], dim=1)
    torch.testing.assert_close(found.norms(None), flat.norm(dim=1), rtol=1e-4, atol=0.0)
    found.add_weighted(shares)
    for name, weight in weights.items():
        torch.testing.assert_close(found.each(weight), each[name])
        torch.testing.assert_close(weight.grad, torch.einsum("n,n...->...", shares, each[name]))
    assert len(found) == len(shapes)


def test_norms_of_units_are_those_of_their_images_added_up() -> None:
    """A patient's gradients may cancel: norms of images say nothing of it."""
    left, right = rows(2, 2, 9, 7)
    left[1], right[1] = -left[0], right[0]
    owners = torch.tensor([0, 0, 1, 1, 1])
    _, found = by_one_weight([(left, right)], (2, 9, 7))
    norms = found.norms(partial(_join, owners))
    assert float(norms[0]) < 1e-6
    expected = loop([(left, right)])[2:].sum(dim=0).norm()
    torch.testing.assert_close(norms[1], expected, rtol=1e-4, atol=0.0)


def test_a_norm_that_cancels_is_not_rounded_below_its_size() -> None:
    """In float32 the inner products of nearly opposite rows may come out below the truth."""
    chance = torch.Generator().manual_seed(0)
    left, right = (torch.randn(200, 1, 1, 40, generator=chance) for _ in range(2))
    nearly = -left * (1 + 1e-4 * torch.randn(200, 1, 1, 40, generator=chance))
    left, right = torch.cat([left, nearly], 1), right.repeat(1, 2, 1, 1)
    exact = loop([(left.double(), right.double())]).flatten(1).norm(dim=1)
    _, found = by_one_weight([(left, right)], (1, 40, 40))
    assert bool((found.norms(None).double() >= exact).all())


def test_the_norm_of_many_numbers_is_not_rounded_below_its_size() -> None:
    """Added up in float32 without a break, 2**18 squares come out 2e-5 too small."""
    chance = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.zeros(2**18))
    each = torch.randn(4, 2**18, generator=chance)
    found = Gradients({weight: [each]}).norms(None).double()
    exact = each.double().norm(dim=1)
    assert bool((found >= exact).all()) and bool((found <= exact * (1 + 1e-5)).all())


@pytest.mark.parametrize("size", [(2, 2, 9, 7), (30, 2, 3, 4)], ids=["wide", "narrow"])
def test_erased_images_have_no_part_whatever_they_hold(size: tuple[int, ...]) -> None:
    left, right = rows(*size)
    left[3, 0, 0, 0] = float("nan")
    shape = (size[1], size[2], size[3])
    weight, found = by_one_weight([(left, right)], shape)
    weights = torch.ones(COUNT, dtype=torch.float64)
    weights[3] = 0.0
    assert not torch.isfinite(found.norms(None)[3])
    found.add_weighted(weights)
    assert weight.grad is not None and not torch.isfinite(weight.grad).all()
    weight.grad.zero_()
    found.erase(weights == 0)
    found.add_weighted(weights)
    others = [part[[0, 1, 2, 4]] for part in rows(*size)]
    torch.testing.assert_close(weight.grad, loop([(others[0], others[1])]).sum(dim=0))


def test_a_use_by_all_and_one_by_few_add_up() -> None:
    total = formed([torch.ones(2, 3), torch.ones(COUNT, 3)], (3,))
    assert total.tolist() == [[2.0] * 3] * 2 + [[1.0] * 3] * 3
