"""Gradients per image out of one pass, held against one backward pass for each image."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from torch import nn

from mfm_core.autoencoder import Autoencoder, Output, build_autoencoder
from mfm_core.blocks import Block, Conv3x3, Down, ShuffleUnit, Up
from mfm_core.config import ImageConfig, ModelConfig, ObjectiveConfig
from mfm_core.grad_samplers import Tape, sample_conv
from mfm_core.private_objective import cycle_errors, losses_per_image

SMALL = ModelConfig(widths=(16, 32), depths=(1, 1), groups=2, latent_channels=8)
COUNT, AGAIN = 5, 3


def unlike_a_fresh_model(model: Autoencoder) -> Autoencoder:
    """Return the model with random numbers in every parameter: no branch is silent."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(noise, alpha=0.05)
    return model.train()


def whole_losses(
    model: Autoencoder, stage: int, attention: Callable[[], torch.Tensor], picked: slice
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the loss per image of some images of a batch, with the same draws for each."""
    generator = torch.Generator().manual_seed(2)
    dtype = model.head.weight.dtype
    side = model.image_config.size_px
    channels = model.image_config.channels
    target = torch.rand(COUNT, channels, side, side, generator=generator, dtype=dtype)
    noise = torch.randn(COUNT, model.latent_size, generator=generator, dtype=dtype)
    labels = torch.tensor([0, 1, -1, 2, 0])
    config = ObjectiveConfig()

    def losses(given: torch.Tensor) -> torch.Tensor:
        mu, logvar = model.encode(given)
        latent = mu + noise[picked] * torch.exp(0.5 * logvar)
        found = Output(model.decode(latent), mu, logvar, model.classify(mu))
        start, stop, _ = picked.indices(COUNT)
        again = max(0, min(stop, AGAIN) - start)
        cycle = cycle_errors(model, found, again)
        kept = (stage, attention())
        return losses_per_image(found, target[picked], labels[picked], config, kept, cycle)["loss"]

    return losses


def compare(model: Autoencoder, stage: int, tolerance: float) -> None:
    images = torch.rand(
        COUNT,
        model.image_config.channels,
        model.image_config.size_px,
        model.image_config.size_px,
        generator=torch.Generator().manual_seed(3),
        dtype=model.head.weight.dtype,
    )
    model.attention_logits.requires_grad_(stage == 1)
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with Tape(model) as tape:
        everything = slice(0, COUNT)
        spread = lambda: tape.spread(model.attention_logits)  # noqa: E731
        tape.sample(images, whole_losses(model, stage, spread, everything))
        found = {name: tape.gradients.each(p).clone() for name, p in learning.items()}
    assert not tape.gradients
    for index in range(COUNT):
        one = slice(index, index + 1)
        model.zero_grad()
        losses = whole_losses(model, stage, lambda: model.attention_logits, one)
        losses(images[one]).sum().backward()
        for name, parameter in learning.items():
            expected = parameter.grad
            assert expected is not None and found[name][index].shape == expected.shape, name
            gap = (found[name][index] - expected).norm()
            assert gap <= tolerance * max(float(expected.norm()), 1e-3), (name, index, gap)
    silent = [n for n, g in found.items() if not g.flatten(1).any(dim=1).any()]
    assert not silent


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_equal_to_a_loop_over_images_for_every_parameter(stage: int) -> None:
    model = unlike_a_fresh_model(build_autoencoder(ModelConfig(), ImageConfig(size_px=64), 3, 0))
    compare(model, stage, 1e-5)


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("linear_path", [True, False])
def test_equal_in_float64_to_the_last_digits(stage: int, channels: int, linear_path: bool) -> None:
    config = SMALL.model_copy(update={"linear_path": linear_path})
    image = ImageConfig(size_px=32, channels=channels)
    model = unlike_a_fresh_model(build_autoencoder(config, image, 3, 0).double())
    compare(model, stage, 1e-11)


def test_equal_where_blocks_run_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a graphics card, where a block is not one pass."""
    monkeypatch.setattr(Tape, "_watched", lambda _: [])
    model = unlike_a_fresh_model(build_autoencoder(SMALL, ImageConfig(size_px=32), 3, 0).double())
    compare(model, 0, 1e-11)


def test_no_layer_of_a_block_is_called_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = unlike_a_fresh_model(build_autoencoder(SMALL, ImageConfig(size_px=32), 3, 0))
    blocks = [part for part in model.modules() if isinstance(part, Block)]
    assert {type(block) for block in blocks} == {ShuffleUnit, Down, Up}
    for layer in (layer for block in blocks for layer in block.children()):
        monkeypatch.setattr(layer, "forward", None)
    with Tape(model) as tape:
        spread = lambda: tape.spread(model.attention_logits)  # noqa: E731
        losses = whole_losses(model, 0, spread, slice(0, COUNT))
        tape.sample(torch.rand(COUNT, 1, 32, 32), losses)
        assert len(tape.gradients) == sum(p.requires_grad for p in model.parameters())


def test_patches_that_overlap_are_sampled_too() -> None:
    image = ImageConfig(size_px=32, channels=3)
    config = SMALL.model_copy(update={"overlap": 2})
    compare(unlike_a_fresh_model(build_autoencoder(config, image, 3, 0).double()), 0, 1e-11)


def test_the_head_alone() -> None:
    model = unlike_a_fresh_model(build_autoencoder(SMALL, ImageConfig(size_px=32), 3, 0))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    latents = torch.randn(4, model.latent_size)
    labels = torch.tensor([0, 1, 2, 1])

    def losses(given: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model.classify(given), labels, reduction="none")

    with Tape(model) as tape:
        tape.sample(latents, losses)
        wrong = torch.softmax(model.head(latents), 1) - nn.functional.one_hot(labels, 3)
        torch.testing.assert_close(tape.gradients.each(model.head.bias), wrong)
        expected = wrong[:, :, None] * latents[:, None, :]
        torch.testing.assert_close(tape.gradients.each(model.head.weight), expected)


@pytest.mark.filterwarnings("ignore:Full backward hook:UserWarning")
def test_opacus_own_hooks_use_the_registered_samplers() -> None:
    layer = GradSampleModule(Conv3x3(4, 4, groups=4), loss_reduction="sum")
    images = torch.randn(3, 4, 6, 6, requires_grad=True)
    (layer(images) ** 2).sum().backward()
    found = layer._module.weight.grad_sample
    plain = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
    plain.load_state_dict(layer._module.state_dict())
    for index in range(3):
        plain.zero_grad()
        (plain(images[index : index + 1].detach()) ** 2).sum().backward()
        torch.testing.assert_close(found[index], plain.weight.grad, atol=1e-4, rtol=1e-5)
    from opacus.grad_sample.grad_sample_module import GradSampleHooks

    assert GradSampleHooks.GRAD_SAMPLERS[Conv3x3] is sample_conv


def test_a_layer_without_a_sampler_is_refused() -> None:
    model = build_autoencoder(SMALL, ImageConfig(size_px=32), 3, 0)
    model.encoder.norm = nn.BatchNorm2d(32)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="no grad sampler for \\['BatchNorm2d'\\]"):
        Tape(model)


def test_a_parameter_without_a_part_in_the_losses_is_refused_and_everything_is_put_back() -> None:
    model = build_autoencoder(SMALL, ImageConfig(size_px=32), 3, 0)
    learning = [p for p in model.parameters() if p.requires_grad]
    hooks = len(model.encoder._forward_pre_hooks)
    with pytest.raises(ValueError, match="no part in the losses"), Tape(model) as tape:
        tape.sample(torch.rand(2, 1, 32, 32), lambda given: model.encode(given)[0].sum(dim=1))
    assert all(p.requires_grad for p in learning) and not tape.gradients
    assert len(model.encoder._forward_pre_hooks) == hooks
    assert all(part.watch is None for part in model.modules() if isinstance(part, Block))
