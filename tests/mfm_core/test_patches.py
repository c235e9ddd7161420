import numpy as np
import pytest
import torch

from mfm_core.autoencoder import build_autoencoder
from mfm_core.config import ImageConfig, ModelConfig
from mfm_core.dataset import ImageSet
from mfm_core.errors import DataError
from mfm_core.linear_path import LinearPath, describe, draw
from mfm_core.patches import patch_moments, start_linear_path

CONFIG = ModelConfig(widths=(16, 32), depths=(1, 1), groups=2, latent_channels=8)
DEEP = ModelConfig(stem=8, widths=(16, 32, 64), depths=(1, 1, 1), groups=2, latent_channels=64)


def image_set(count: int, channels: int = 1, size: int = 32, seed: int = 0) -> ImageSet:
    generator = np.random.default_rng(seed)
    low = generator.random((count, channels, size // 4, size // 4))
    fine = 0.1 * generator.random((count, channels, size, size))
    smooth = np.kron(low, np.ones((1, 1, 4, 4))) + fine
    images = np.clip(255 * smooth / 1.1, 0, 255).astype(np.uint8)
    rows = np.zeros(count, dtype=np.int64)
    return ImageSet(images, rows, np.zeros((count, 0), dtype=np.int64), np.arange(count), rows)


def test_federated_moments_equal_pooled_moments() -> None:
    images = image_set(300)
    pooled = patch_moments(images, np.arange(300), CONFIG)
    parts = [patch_moments(images, part, CONFIG) for part in np.split(np.arange(300), [10, 290])]
    merged = parts[2].merge(parts[0]).merge(parts[1])
    for name in pooled.arrays:
        np.testing.assert_allclose(merged[name], pooled[name], rtol=1e-9, atol=1e-9)


def test_moments_are_those_of_the_patches() -> None:
    images = image_set(3)
    moments = patch_moments(images, np.arange(3), CONFIG)
    patches = images.images.reshape(3, 4, 8, 4, 8).transpose(1, 3, 0, 2, 4).reshape(16, 3, 64)
    centred = patches / 255.0 - 0.5
    second = np.einsum("cni,cnj->cij", centred, centred)
    rows, columns = np.triu_indices(64)
    np.testing.assert_allclose(moments["patch.count"], [3.0])
    np.testing.assert_allclose(
        moments["patch.second_moment"], second[:, rows, columns], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_description_keeps_lengths_and_draw_goes_back(channels: int) -> None:
    images = torch.from_numpy(
        np.kron(np.random.default_rng(0).random((2, channels, 8, 8)), np.ones((4, 4)))
    ).float()
    cells = describe(images, 4)
    torch.testing.assert_close(cells.square().sum(), images.square().sum())
    if channels == 1:
        torch.testing.assert_close(draw(cells, 4, channels, 8), images)


def test_grey_survives_the_colour_description() -> None:
    grey = torch.rand(2, 1, 32, 32).expand(-1, 3, -1, -1)
    torch.testing.assert_close(draw(describe(grey, 4), 4, 3, 8), grey)


def test_start_reconstruction_is_the_pca_reconstruction_of_every_cell() -> None:
    images = image_set(200)
    model = build_autoencoder(CONFIG, ImageConfig(size_px=32), 2, seed=0)
    start_linear_path(model, patch_moments(images, np.arange(200), CONFIG))
    with torch.no_grad():
        ours = model(images.batch(np.arange(20))).reconstruction.numpy()

    cells = images.images.reshape(200, 4, 8, 4, 8).transpose(1, 3, 0, 2, 4) / 255.0
    back = np.empty((16, 20, 64))
    for cell, rows in enumerate(cells.reshape(16, 200, 64)):
        mean = rows.mean(axis=0)
        kept = np.linalg.svd(rows - mean, full_matrices=False)[2][:8]
        back[cell] = (rows[:20] - mean) @ kept.T @ kept + mean
    pca = back.reshape(4, 4, 20, 8, 8).transpose(2, 0, 3, 1, 4).reshape(20, 1, 32, 32)
    np.testing.assert_allclose(ours, pca.clip(0, 1), atol=2e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_latents_start_with_unit_variance_and_mean_zero(channels: int) -> None:
    images = image_set(200, channels)
    model = build_autoencoder(CONFIG, ImageConfig(size_px=32, channels=channels), 2, seed=0)
    start_linear_path(model, patch_moments(images, np.arange(200), CONFIG))
    with torch.no_grad():
        mu = model.encode(images.batch(np.arange(200)))[0]
    np.testing.assert_allclose(mu.mean(dim=0), 0.0, atol=1e-3)
    np.testing.assert_allclose(mu.var(dim=0), 1.0, rtol=2e-2)


def test_posterior_noise_drowns_no_component() -> None:
    images = image_set(200)
    model = build_autoencoder(CONFIG, ImageConfig(size_px=32), 2, seed=0)
    start_linear_path(model, patch_moments(images, np.arange(200), CONFIG))
    assert model.linear_path is not None
    with torch.no_grad():
        _, logvar = model.encode(images.batch(np.arange(4)))
    strength = model.linear_path.gain_out.flatten()
    noise = torch.exp(0.5 * logvar[0]) * strength
    assert noise.max() <= 0.5 * strength.min()


@pytest.mark.parametrize("channels", [1, 3])
def test_large_patches_are_averaged_before_their_moments(channels: int) -> None:
    images = image_set(40, channels, size=128)
    moments = patch_moments(images, np.arange(40), DEEP)
    numbers = 256 if channels == 1 else 288
    assert moments["patch.second_moment"].shape == (16, numbers * (numbers + 1) // 2)
    model = build_autoencoder(DEEP, ImageConfig(size_px=128, channels=channels), 2, seed=0)
    start_linear_path(model, moments)
    batch = images.batch(np.arange(40))
    with torch.no_grad():
        error = (model(batch).reconstruction - batch).square().mean()
    assert error < 0.6 * batch.var()


def test_cells_that_never_vary_stay_finite() -> None:
    images = image_set(5)
    images.images[:, :, :8] = 0
    model = build_autoencoder(CONFIG, ImageConfig(size_px=32), 2, seed=0)
    start_linear_path(model, patch_moments(images, np.arange(5), CONFIG))
    output = model(images.batch(np.arange(5)))
    for value in (output.mu, output.logvar, output.reconstruction):
        assert torch.isfinite(value).all()
    assert output.mu.abs().max() < 10


def test_wrong_or_empty_moments_are_refused() -> None:
    images = image_set(20)
    with pytest.raises(DataError, match="no image"):
        patch_moments(images, np.arange(0), CONFIG)
    model = build_autoencoder(CONFIG, ImageConfig(size_px=64), 2, seed=0)
    with pytest.raises(DataError, match="shape"):
        start_linear_path(model, patch_moments(images, np.arange(20), CONFIG))
    without = CONFIG.model_copy(update={"linear_path": False})
    plain = build_autoencoder(without, ImageConfig(size_px=32), 2, seed=0)
    with pytest.raises(ValueError, match="no linear path"):
        start_linear_path(plain, patch_moments(images, np.arange(20), CONFIG))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 128])
def test_with_overlap_the_start_is_the_same(channels: int, size: int) -> None:
    images = image_set(60, channels, size)
    shape = CONFIG if size == 32 else DEEP.model_copy(update={"latent_channels": 8})
    moments = patch_moments(images, np.arange(60), shape)
    drawn = []
    for overlap in (0, 3):
        config = shape.model_copy(update={"overlap": overlap})
        model = build_autoencoder(config, ImageConfig(size_px=size, channels=channels), 2, seed=0)
        start_linear_path(model, moments)
        with torch.no_grad():
            drawn.append(model(images.batch(np.arange(10))).reconstruction)
    torch.testing.assert_close(drawn[1], drawn[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize(("overlap", "reached"), [(0, 8), (3, 14)])
def test_a_cell_draws_as_far_as_its_overlap(overlap: int, reached: int) -> None:
    path = LinearPath(1, 4, 4, 8, overlap)
    with torch.no_grad():
        path.gain_out.fill_(1.0)
        latent = torch.zeros(1, 16, 4)
        latent[0, 5] = 1.0  # the cell in row 1, column 1
        drawn = (path.write(latent) - path.mean_image)[0, 0] != 0
    assert int(drawn.any(dim=0).sum()) == int(drawn.any(dim=1).sum()) == reached


def test_drawing_with_overlap_is_the_transpose_of_describing() -> None:
    """<describe(x), y> = <x, draw(y)>, so that one basis serves both ways."""
    path = LinearPath(1, 4, 4, 8, overlap=3)
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(4))
    numbers = path.describe(x)
    y = torch.randn(numbers.shape, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close((numbers * y).sum(), (x * path.draw(y)).sum(), rtol=1e-4, atol=1e-3)
