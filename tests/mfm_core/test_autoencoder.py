import itertools

import pytest
import torch
from opacus.validators import ModuleValidator
from torch import nn

from mfm_core.autoencoder import build_autoencoder, count_parameters, parameters_of
from mfm_core.config import ImageConfig, ModelConfig
from mfm_core.errors import ConfigError

SMALL = ModelConfig(widths=(16, 32), depths=(1, 1), groups=2, latent_channels=8)
IMAGE = ImageConfig(size_px=32)


def pictures(count: int = 3, size: int = 32, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, size, size, generator=generator)


@pytest.mark.parametrize(
    ("size", "stem", "channels", "linear"),
    [
        *itertools.product((64, 128), (4, 8), (1, 3), (True,)),
        (64, 4, 1, False),
    ],
)
def test_every_shipped_shape_stays_within_the_papers_budget(
    size: int, stem: int, channels: int, linear: bool
) -> None:
    config = ModelConfig(stem=stem, linear_path=linear)
    image = ImageConfig(size_px=size, channels=channels)
    assert count_parameters(build_autoencoder(config, image, 15, seed=0)) <= 1_400_000


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "shape"),
    [
        (32, SMALL),
        (160, ModelConfig()),
        (224, ModelConfig(stem=8)),
        (64, ModelConfig(linear_path=False, groups=1, bottleneck=0.3)),
        (96, ModelConfig(widths=(32,), depths=(3,), groups=4, bottleneck=1.0)),
        (128, ModelConfig(widths=(48, 16, 64, 32), depths=(1, 3, 2, 1), latent_channels=5)),
        (64, ModelConfig(stem=8, widths=(16,) * 4, depths=(2,) * 4)),
        (64, ModelConfig(overlap=3)),
        (128, ModelConfig(stem=8, overlap=8)),
    ],
)
def test_the_closed_form_counts_what_is_built(size: int, shape: ModelConfig, channels: int) -> None:
    image = ImageConfig(size_px=size, channels=channels)
    for classes in (2, 15):
        built = build_autoencoder(shape, image, classes, seed=0)
        assert parameters_of(shape, image, classes) == count_parameters(built)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_range(linear: bool, channels: int) -> None:
    config = SMALL.model_copy(update={"linear_path": linear})
    image = ImageConfig(size_px=32, channels=channels)
    model = build_autoencoder(config, image, 5, seed=1)
    images = pictures(channels=channels)
    output = model(images, torch.Generator().manual_seed(0))
    assert model.latent_size == 8 * 4 * 4
    assert output.mu.shape == output.logvar.shape == (3, model.latent_size)
    assert output.logits.shape == (3, 5)
    assert output.reconstruction.shape == images.shape
    assert output.reconstruction.min() >= 0
    assert output.reconstruction.max() <= 1
    assert model.head.in_features == model.latent_size
    assert model.attention_logits.shape == (1, 1, 32, 32)


def test_same_seed_same_bits_and_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    one, two, other = (build_autoencoder(SMALL, IMAGE, 4, seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    for first, second in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(one.encoder.first.weight, other.encoder.first.weight)


def test_units_write_nothing_at_first_but_all_of_them_learn() -> None:
    model = build_autoencoder(SMALL, IMAGE, 4, seed=0)
    assert model.linear_path is not None
    nn.init.normal_(model.linear_path.gain_out)
    images = pictures()
    cells = model.linear_path.read(images - model.linear_path.mean_image)
    mu, _ = model.encode(images)
    assert torch.equal(mu, cells.flatten(1))
    assert torch.equal(model.decode(mu), model.linear_path.write(cells).clamp(0, 1))
    output = model(images, torch.Generator().manual_seed(0))
    ((output.reconstruction - images).square().sum() + output.mu.sum()).backward()
    for parameter in (model.to_latent.weight, model.decoder.last.weight):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_nothing_goes_round_the_latent() -> None:
    model = build_autoencoder(SMALL, IMAGE, 4, seed=0)
    mu, _ = model.encode(pictures())
    output = model(pictures())
    assert torch.equal(output.reconstruction, model.decode(mu))
    assert torch.equal(output.logits, model.classify(mu))


def test_sampling_uses_only_the_given_generator() -> None:
    model = build_autoencoder(SMALL, IMAGE, 4, seed=0)
    assert model.linear_path is not None
    nn.init.normal_(model.linear_path.gain_out)
    torch.manual_seed(1)
    one = model(pictures(), torch.Generator().manual_seed(7)).reconstruction
    torch.manual_seed(2)
    two = model(pictures(), torch.Generator().manual_seed(7)).reconstruction
    assert torch.equal(one, two)
    assert not torch.equal(one, model(pictures()).reconstruction)


def test_each_image_is_treated_alone() -> None:
    model = build_autoencoder(SMALL, IMAGE, 4, seed=0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    together = model(pictures())
    alone = model(pictures()[1:2])
    torch.testing.assert_close(together.mu[1:2], alone.mu, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        together.reconstruction[1:2], alone.reconstruction, atol=1e-4, rtol=1e-4
    )


def test_opacus_accepts_the_model() -> None:
    model = build_autoencoder(ModelConfig(), ImageConfig(), 15, seed=0).train()
    assert ModuleValidator.validate(model, strict=False) == []
    kinds = {type(module) for module in model.modules()}
    assert not kinds & {nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm}
    assert list(model.buffers()) == []


def test_an_image_the_stages_cannot_halve_is_refused() -> None:
    deep = ModelConfig(stem=8, widths=(16,) * 4, depths=(1,) * 4, groups=2)
    with pytest.raises(ConfigError, match="multiple of 64"):
        build_autoencoder(deep, ImageConfig(size_px=96), 2, seed=0)
