from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from mfm_core.blocks import (
    Block,
    Down,
    GroupPointwise,
    ShuffleUnit,
    Up,
    clamp_gently,
)
from mfm_core.rows import channel_shuffle, to_images, to_rows
from tests.mfm_core.test_rows import pictures


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_pointwise_equals_torchs_group_convolution_with_its_gradients(groups: int) -> None:
    images = pictures(16).requires_grad_()
    layer = GroupPointwise(16, 24, groups)
    kernel = layer.weight.detach().reshape(24, 16 // groups, 1, 1).requires_grad_()
    ours = to_images(layer(to_rows(images)), len(images))
    theirs = functional.conv2d(images, kernel, groups=groups)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    ours_in, ours_weight = torch.autograd.grad((ours * weight).sum(), [images, layer.weight])
    theirs_in, theirs_weight = torch.autograd.grad((theirs * weight).sum(), [images, kernel])
    torch.testing.assert_close(ours_in, theirs_in)
    torch.testing.assert_close(ours_weight.flatten(), theirs_weight.flatten())


def test_pointwise_passes_gradcheck() -> None:
    rows = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    layer = GroupPointwise(8, 4, 2).double()
    assert torch.autograd.gradcheck(
        lambda r, w: functional_product(layer, r, w), (rows, layer.weight)
    )


def functional_product(layer: nn.Module, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    result = torch.func.functional_call(layer, {"weight": weight}, (rows,))
    assert isinstance(result, torch.Tensor)
    return result


def test_down_equals_a_strided_group_convolution() -> None:
    images = pictures(16)
    down = Down(16, 32, 2, 8)
    kernel = down.conv.weight.view(32, 2, 2, 8).permute(0, 3, 1, 2)
    expected = functional.conv2d(functional.relu(down.norm(images)), kernel, stride=2, groups=2)
    torch.testing.assert_close(down(images), expected)


def test_up_equals_a_transposed_group_convolution_then_shuffle() -> None:
    images = pictures(16)
    up = Up(16, 8, 2, 8)
    kernel = up.conv.weight.view(2, 2, 2, 4, 8).permute(0, 4, 3, 1, 2).reshape(16, 4, 2, 2)
    active = functional.relu(up.norm(images))
    plain = functional.conv_transpose2d(active, kernel, stride=2, groups=2)
    expected = to_images(channel_shuffle(to_rows(plain), 2), len(images))
    torch.testing.assert_close(up(images), expected)


def test_a_new_unit_is_the_identity_and_still_learns() -> None:
    images = pictures(32)
    unit = ShuffleUnit(32, 16, 2, 8)
    assert torch.equal(unit(images), images)
    (unit(images) * torch.randn_like(images)).sum().backward()
    gradient = unit.widen.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_a_unit_treats_every_image_alone() -> None:
    unit = ShuffleUnit(32, 16, 2, 8)
    nn.init.normal_(unit.widen.weight)
    images = pictures(32)
    torch.testing.assert_close(unit(images)[1:2], unit(images[1:2]))


@pytest.mark.parametrize("kind", [ShuffleUnit, Down, Up])
def test_who_watches_is_never_shown_rounded_numbers(kind: type[Block]) -> None:
    block, images = kind(32, 16, 2, 8), pictures(32)
    shown: list[torch.dtype] = []

    def watch(*given: object) -> Callable[..., None]:
        shown.extend(part.dtype for part in given if isinstance(part, torch.Tensor))
        return lambda *_: None

    block.watch = watch
    with torch.autocast("cpu", torch.bfloat16):
        block(images)
    assert not shown
    block(images)
    assert set(shown) == {torch.float32}


def test_clamp_lets_only_returning_gradients_through() -> None:
    values = torch.tensor([-0.5, -0.5, 0.5, 1.5, 1.5], requires_grad=True)
    result = clamp_gently(values)
    assert result.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    result.backward(torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0]))
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, -1.0, 1.0, 1.0, 0.0]
