"""Gradients of images by one weight: norms and clipped sums equal those of formed gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from mfm_core.image_gradients import (
    Product,
    Use,
    Whole,
    erase,
    formed,
    square_norms,
    thin,
    weighted_sum,
)
from mfm_core.private_training import _join

COUNT = 5


def product(places: int, groups: int, outer: int, inner: int, count: int = COUNT) -> Product:
    chance = torch.Generator().manual_seed(places + count)
    sizes = (count, places, groups)
    left = torch.randn(*sizes, outer, generator=chance, dtype=torch.float64)
    return Product(left, torch.randn(*sizes, inner, generator=chance, dtype=torch.float64))


def loop(uses: list[Product]) -> torch.Tensor:
    """Return the gradients `[N, g, o, i]`, outer product by outer product."""
    found = [torch.einsum("ntgo,ntgi->ngoi", *use) for use in uses]
    total = torch.zeros_like(max(found, key=len))
    for part in found:
        total[: len(part)] += part
    return total


SHAPES = {
    "one place": [(1, 3, 4, 6)],
    "few places, many weights": [(2, 2, 9, 7)],
    "many places, few weights": [(30, 2, 3, 4)],
    "used twice, the second time by fewer images": [(2, 2, 9, 7), (3, 2, 9, 7, 2)],
    "used twice, wide and narrow": [(2, 2, 9, 7, 3), (40, 2, 9, 7)],
}


@pytest.mark.parametrize("sizes", SHAPES.values(), ids=SHAPES.keys())
def test_products_equal_the_loop(sizes: list[tuple[int, ...]]) -> None:
    uses = [product(*size) for size in sizes]
    gradients = loop(uses)
    shape = gradients.shape[1:]
    torch.testing.assert_close(formed(uses, shape), gradients)
    kept: list[Use] = thin(uses, shape)
    lengths = gradients.flatten(1).square().sum(dim=1)
    norms = square_norms(kept, None, shape)
    torch.testing.assert_close(norms, lengths, rtol=1e-4, atol=0.0)
    assert bool((norms >= lengths).all())
    weights = torch.linspace(0.1, 1.0, COUNT, dtype=torch.float64)
    expected = torch.einsum("n,n...->...", weights, gradients)
    torch.testing.assert_close(weighted_sum(kept, weights, shape), expected)


def test_wide_products_are_never_formed_and_narrow_ones_are() -> None:
    wide, narrow = product(2, 2, 9, 7), product(30, 2, 3, 4)
    assert thin([wide], (2, 9, 7)) == [wide]
    (whole,) = thin([narrow], (2, 3, 4))
    assert isinstance(whole, Whole) and whole.each.shape == (COUNT, 2, 3, 4)


def test_norms_of_units_are_those_of_their_images_added_up() -> None:
    """A patient's gradients may cancel: norms of images say nothing of it."""
    use = product(2, 2, 9, 7)
    use.left[1], use.right[1] = -use.left[0], use.right[0]
    owners = torch.tensor([0, 0, 1, 1, 1])
    norms = square_norms([use], partial(_join, owners), (2, 9, 7))
    gradients = loop([use])
    assert float(norms[0]) < 1e-12
    expected = gradients[2:].sum(dim=0).square().sum()
    torch.testing.assert_close(norms[1], expected, rtol=1e-4, atol=0.0)


def test_a_norm_that_cancels_is_not_rounded_below_its_size() -> None:
    """In float32 the inner products of nearly opposite rows may come out below the truth."""
    chance = torch.Generator().manual_seed(0)
    left, right = (torch.randn(200, 1, 1, 40, generator=chance) for _ in range(2))
    nearly = -left * (1 + 1e-4 * torch.randn(200, 1, 1, 40, generator=chance))
    use = Product(torch.cat([left, nearly], 1), right.repeat(1, 2, 1, 1))
    exact = loop([Product(use.left.double(), use.right.double())]).flatten(1).square().sum(dim=1)
    assert bool((square_norms([use], None, (1, 40, 40)).double() >= exact).all())


@pytest.mark.parametrize("use", [product(2, 2, 9, 7), Whole(torch.randn(COUNT, 126).double())])
def test_erased_images_have_no_part_whatever_they_hold(use: Use) -> None:
    use[0][3] = float("nan")
    weights = torch.ones(COUNT, dtype=torch.float64)
    weights[3] = 0.0
    assert not torch.isfinite(weighted_sum([use], weights, (2, 9, 7))).all()
    erase([use], weights == 0)
    assert torch.isfinite(weighted_sum([use], weights, (2, 9, 7))).all()
