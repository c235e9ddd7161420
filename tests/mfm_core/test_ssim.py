"""SSIM equals two independent implementations, and its closed-form gradient is the gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_msssim import ssim as reference
from skimage.metrics import structural_similarity

from mfm_core.ssim import WINDOW, gaussian_window, ssim, window_centres

KINDS = ("smooth", "dark", "flat", "noise", "saturated")


def pair(kind: str, shape: tuple[int, int, int, int] = (6, 1, 64, 64)) -> tuple[torch.Tensor, ...]:
    """Two image batches, float32 in [0, 1], of one kind of difficulty."""
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    raw = torch.rand(shape, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(raw, 5, 1, 2)
    other = torch.rand(shape, generator=generator)
    if kind == "smooth":
        return smooth, (smooth + 0.1 * (other - 0.5)).clamp(0, 1)
    if kind == "dark":
        x = (smooth - 0.5).clamp(0, 1)
        return x, 0.9 * x
    if kind == "flat":
        return torch.full(shape, 0.7) + 1e-3 * raw, torch.full(shape, 0.7) + 1e-3 * other
    if kind == "noise":
        return raw, other
    return (raw > 0.5).float(), (other > 0.5).float()


def exact(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """skimage's Gaussian SSIM in float64, mean over channels."""
    return np.array(
        [
            np.mean(
                [
                    structural_similarity(
                        a.double().numpy(),
                        b.double().numpy(),
                        gaussian_weights=True,
                        sigma=1.5,
                        use_sample_covariance=False,
                        data_range=1.0,
                    )
                    for a, b in zip(first, second, strict=True)
                ]
            )
            for first, second in zip(x, y, strict=True)
        ]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_value_is_that_of_skimage_in_both_precisions(kind: str) -> None:
    x, y = pair(kind)
    truth = exact(x, y)
    np.testing.assert_allclose(ssim(x.double(), y.double()).numpy(), truth, atol=1e-12)
    np.testing.assert_allclose(ssim(x, y).numpy(), truth, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [64, 96])
def test_value_and_gradient_are_those_of_pytorch_msssim(kind: str, size: int) -> None:
    x, y = (t.double() for t in pair(kind, (3, 1, size, size)))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    value = ssim(ours, y)
    # Given our window: its own is rounded to float32, an error of 1e-6 in float64.
    window = gaussian_window().view(1, 1, 1, WINDOW)
    expected = reference(theirs, y, data_range=1.0, size_average=False, win=window)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (value * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    assert ours.grad is not None and theirs.grad is not None
    error = (ours.grad - theirs.grad).norm() / theirs.grad.norm()
    assert error < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_float32_gradient_keeps_its_digits(kind: str) -> None:
    x, y = pair(kind)
    single, double = x.clone().requires_grad_(), x.double().requires_grad_()
    ssim(single, y).sum().backward()
    ssim(double, y.double()).sum().backward()
    assert single.grad is not None and double.grad is not None
    error = (single.grad - double.grad).norm() / double.grad.norm()
    assert error < (1e-5 if kind != "flat" else 1e-4)


def test_three_channels_are_averaged_and_sides_may_differ() -> None:
    x, y = pair("smooth", (3, 3, 40, 77))
    np.testing.assert_allclose(ssim(x, y).numpy(), exact(x, y), atol=1e-6)
    apart = torch.stack([ssim(x[:, c : c + 1], y[:, c : c + 1]) for c in range(3)])
    torch.testing.assert_close(ssim(x, y), apart.mean(dim=0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("weights", [None, 1, 2])
def test_gradcheck_in_double_for_x_y_and_weight(weights: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.rand(2, 2, 14, 12, dtype=torch.float64, generator=generator).requires_grad_()
        for _ in range(2)
    )
    if weights is None:
        assert torch.autograd.gradcheck(ssim, (x, y))
        return
    weight = torch.rand(weights, 1, 14, 12, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(ssim, (x, y, weight.requires_grad_()))


def test_a_batch_of_many_chunks_is_every_image_alone() -> None:
    x, y = pair("smooth", (5, 1, 224, 224))
    weight = torch.rand(5, 1, 224, 224)
    batch = x.clone().requires_grad_()
    together = ssim(batch, y, weight)
    together.sum().backward()
    for index in range(5):
        own = x[index : index + 1].clone().requires_grad_()
        alone = ssim(own, y[index : index + 1], weight[index : index + 1])
        alone.sum().backward()
        torch.testing.assert_close(together[index], alone[0], rtol=0, atol=1e-6)
        assert batch.grad is not None and own.grad is not None
        torch.testing.assert_close(batch.grad[index], own.grad[0], rtol=1e-4, atol=1e-9)


def test_weights_of_one_change_nothing_and_weights_pick_their_windows() -> None:
    x, y = pair("smooth")
    torch.testing.assert_close(ssim(x, y, torch.ones(1, 1, 64, 64)), ssim(x, y))
    picked = torch.zeros(1, 1, 64, 64)
    picked[..., 20, 31] = 1.0
    local = ssim(x[..., 15:26, 26:37], y[..., 15:26, 26:37])  # one window, centre (20, 31)
    torch.testing.assert_close(1 - ssim(x, y, picked), (1 - local) / 54**2, rtol=1e-3, atol=1e-9)
    border = torch.ones(1, 1, 64, 64)
    window_centres(border).zero_()
    torch.testing.assert_close(ssim(x, y, border), torch.ones(6))


def test_equal_images_have_ssim_one_and_no_gradient() -> None:
    x, _ = pair("noise")
    moving = x.clone().requires_grad_()
    value = ssim(moving, x)
    value.sum().backward()
    torch.testing.assert_close(value.detach(), torch.ones(6), rtol=0, atol=1e-7)
    assert moving.grad is not None and moving.grad.abs().max() < 1e-7


def test_memory_layout_and_grad_mode_do_not_change_the_value() -> None:
    x, y = pair("smooth", (4, 3, 32, 32))
    plain = ssim(x, y)
    last = x.to(memory_format=torch.channels_last)
    assert torch.equal(ssim(last, y), plain)
    with torch.inference_mode():
        first = ssim(x[..., :27], y[..., :27])  # fills the cache of bands under inference mode
    assert not first.requires_grad
    learning = x[..., :27].clone().requires_grad_()
    ssim(learning, y[..., :27]).sum().backward()
    with torch.no_grad():
        assert not ssim(learning, y[..., :27]).requires_grad


def test_the_window_is_symmetric_and_normalised() -> None:
    window = gaussian_window()
    assert len(window) == WINDOW and torch.equal(window, window.flip(0))
    assert abs(float(window.sum()) - 1) < 1e-15


@pytest.mark.parametrize(
    ("x", "y", "weight", "word"),
    [
        (torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 17), None, "one shape"),
        (torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16).double(), None, "dtype"),
        (torch.rand(1, 1, 16, 10), torch.rand(1, 1, 16, 10), None, "at least 11"),
        (torch.rand(1, 1, 16, 16).half(), torch.rand(1, 1, 16, 16).half(), None, "convert"),
        (torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16), torch.ones(3, 1, 16, 16), "weight"),
    ],
)
def test_what_does_not_fit_is_refused(
    x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor | None, word: str
) -> None:
    with pytest.raises(ValueError, match=word):
        ssim(x, y, weight)
