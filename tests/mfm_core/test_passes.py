"""One pass against the same block layer by layer; a hook on a layer is what chooses the layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from mfm_core.blocks import Down, GroupPointwise, Norm, ShuffleUnit, Up
from mfm_core.devices import Precision, has_bfloat16, rounding

BLOCKS = ("unit", "down", "up")

HERE = torch.device("cpu")

ROUNDED = pytest.param(
    "bf16",
    marks=pytest.mark.skipif(
        not has_bfloat16(HERE), reason="this processor has no bfloat16 instructions"
    ),
)


def build(kind: str, groups: int = 2, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    if kind == "unit":
        block: nn.Module = ShuffleUnit(32, 16, groups, 8)
    else:
        block = {"down": Down, "up": Up}[kind](32, 16, groups, 8)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block


def pictures(side: int = 4, count: int = 3) -> torch.Tensor:
    values = torch.randn(count, 32, side, side, generator=torch.Generator().manual_seed(1))
    return values.contiguous(memory_format=torch.channels_last)


@contextmanager
def watched(block: nn.Module) -> Iterator[list[nn.Module]]:
    """Yield the layers that were called."""
    called: list[nn.Module] = []
    handles = [
        layer.register_forward_hook(lambda layer, given, found: called.append(layer))
        for layer in block.children()
    ]
    yield called
    for handle in handles:
        handle.remove()


def learn(
    block: nn.Module, images: torch.Tensor, precision: Precision = "float32"
) -> list[torch.Tensor]:
    """Return output and gradients of images and weights."""
    given = images.clone(memory_format=torch.preserve_format).requires_grad_()
    with rounding(HERE, precision):
        found = block(given)
    slope = torch.randn(found.shape, generator=torch.Generator().manual_seed(2)).to(found)
    wanted = [given, *(p for p in block.parameters() if p.requires_grad)]
    return [found.detach(), *torch.autograd.grad(found, wanted, slope)]


@pytest.mark.parametrize("side", [2, 4, 16])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kind", BLOCKS)
def test_a_pass_has_the_bits_of_its_layers(kind: str, groups: int, side: int) -> None:
    block, images = build(kind, groups), pictures(side)
    ours = learn(block, images)
    with watched(block) as called:
        theirs = learn(block, images)
    assert {type(layer) for layer in called} >= {GroupPointwise, Norm}
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * float(other.abs().max()))
    assert torch.equal(ours[0], theirs[0])


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("precision", [ROUNDED])
def test_a_rounded_pass_is_near_its_rounded_layers_and_float32(
    precision: Precision, kind: str, groups: int
) -> None:
    block, images = build(kind, groups), pictures(16)
    ours, exact = learn(block, images, precision), learn(block, images)
    with watched(block) as called:
        theirs = learn(block, images, precision)
    assert {type(layer) for layer in called} >= {GroupPointwise, Norm}
    for number, (one, layers, full) in enumerate(zip(ours, theirs, exact, strict=True)):
        assert one.dtype == torch.float32
        bound = (0.01 if number == 0 else 0.15) * float(full.norm())
        assert 0 < float((one - full).norm()) < bound
        assert float((one - layers).norm()) < bound


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("precision", [ROUNDED])
def test_what_a_rounded_pass_keeps_is_half_as_long(precision: Precision, kind: str) -> None:
    block = build(kind)
    with rounding(HERE, precision):
        found = block(pictures().requires_grad_())
    node: Any = found.grad_fn
    assert type(node).__name__ in {"UnitPassBackward", "ResizePassBackward"}
    weights = sum(1 for _ in block.parameters())
    *between, mean, over_deviation = node.saved_tensors[1 + weights :]
    assert between and {part.dtype for part in between} == {torch.bfloat16}
    assert mean.dtype == over_deviation.dtype == torch.float32


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("precision", [ROUNDED])
def test_a_gradient_of_a_rounded_gradient_is_that_of_float32(
    precision: Precision, kind: str
) -> None:
    block, images = build(kind), pictures()

    def twice(precision: Precision, entering: torch.dtype) -> tuple[torch.Tensor, ...]:
        given = images.clone(memory_format=torch.preserve_format).requires_grad_()
        with rounding(HERE, precision):
            found = block(given.to(entering))
            slope = torch.linspace(-1, 1, found.numel()).view(found.shape).to(found)
            (first,) = torch.autograd.grad(found, given, slope, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [given, *block.parameters()])

    exact = twice("float32", torch.float32)
    for one, other in zip(twice(precision, torch.float32), exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
    for one, other in zip(twice(precision, torch.bfloat16), exact, strict=True):
        assert float((one - other).norm()) <= 0.1 * float(other.norm())


@pytest.mark.parametrize("precision", ["float32", ROUNDED])
@pytest.mark.parametrize("kind", BLOCKS)
def test_a_pass_changes_neither_its_input_nor_the_gradient_it_gets(
    kind: str, precision: Precision
) -> None:
    block, images = build(kind), pictures()
    given = images.clone(memory_format=torch.preserve_format).requires_grad_()
    with rounding(HERE, precision):
        found = block(given)
    slope = torch.ones_like(found)
    first = torch.autograd.grad(found, given, slope, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(found, given, slope)[0], first)
    assert torch.equal(given.detach(), images)
    assert torch.equal(slope, torch.ones_like(found))


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_pass_takes_images_and_gradients_of_any_layout(kind: str) -> None:
    block, images = build(kind), pictures()
    expected = learn(block, images)
    for one, other in zip(learn(block, images.contiguous()), expected, strict=True):
        torch.testing.assert_close(one, other)
    given = images.clone(memory_format=torch.preserve_format).requires_grad_()
    (spread_out,) = torch.autograd.grad(block(given).sum(), given)
    found = block(given)
    (plain,) = torch.autograd.grad(found, given, torch.ones(found.shape))
    torch.testing.assert_close(spread_out, plain)


@pytest.mark.parametrize("kind", BLOCKS)
def test_frozen_weights_get_no_gradient_and_change_no_other(kind: str) -> None:
    block, images = build(kind), pictures()
    names = ["out", "images", *dict(block.named_parameters())]
    every = dict(zip(names, learn(block, images), strict=True))
    for name, parameter in block.named_parameters():
        block.requires_grad_(False)
        parameter.requires_grad_(True)
        found, by_images, by_one = learn(block, images)
        assert torch.equal(found, every["out"])
        assert torch.equal(by_images, every["images"])
        assert torch.equal(by_one, every[name])
    with torch.no_grad():
        assert torch.equal(block(images), every["out"])


@pytest.mark.parametrize("kind", BLOCKS)
def test_gradients_and_gradients_of_gradients_are_right(kind: str) -> None:
    block = build(kind, seed=3).double()
    images = pictures(2, 1).double().requires_grad_()
    names = [name for name, _ in block.named_parameters()]

    def run(images: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        given = dict(zip(names, weights, strict=True))
        found = torch.func.functional_call(block, given, (images,))
        assert isinstance(found, torch.Tensor)
        return found

    inputs = (images, *block.parameters())
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)
