import numpy as np
import torch

from mfm_core.autoencoder import build_autoencoder
from mfm_core.config import ImageConfig, ModelConfig
from mfm_core.dataset import ImageSet
from mfm_core.inference import infer, latents_of
from mfm_core.patches import patch_moments, start_linear_path
from mfm_core.ssim import ssim

CONFIG = ModelConfig(widths=(16, 32), depths=(1, 1), groups=2, latent_channels=8)


def image_set(count: int) -> ImageSet:
    images = np.random.default_rng(0).integers(0, 256, (count, 1, 32, 32), dtype=np.uint8)
    rows = np.zeros(count, dtype=np.int64)
    return ImageSet(images, rows, np.zeros((count, 0), dtype=np.int64), np.arange(count), rows)


def test_rows_follow_the_indices_whatever_the_batch_size() -> None:
    images = image_set(12)
    model = build_autoencoder(CONFIG, ImageConfig(size_px=32), 3, seed=0)
    start_linear_path(model, patch_moments(images, np.arange(12), CONFIG))
    torch.nn.init.normal_(model.head.weight)
    indices = np.array([7, 2, 11, 2, 0])
    whole, parts = infer(model, images, indices), infer(model, images, indices, batch_size=2)
    assert whole.mu.shape == (5, model.latent_size)
    assert whole.logits.shape == (5, 3)
    assert whole.mu.dtype == whole.logits.dtype == whole.ssim.dtype == np.float32
    for name in ("mu", "logits", "ssim"):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), atol=1e-4)
    np.testing.assert_array_equal(whole.mu[1], whole.mu[3])
    batch = images.batch(indices)
    with torch.no_grad():
        expected = ssim(model.decode(torch.from_numpy(whole.mu)), batch).numpy()
    np.testing.assert_allclose(whole.ssim, expected, atol=1e-5)


def test_nothing_is_sampled_and_the_mode_is_kept() -> None:
    images = image_set(4)
    model = build_autoencoder(CONFIG, ImageConfig(size_px=32), 3, seed=0).train()
    one, two = infer(model, images, np.arange(4)), infer(model, images, np.arange(4))
    np.testing.assert_array_equal(one.ssim, two.ssim)
    assert model.training


def test_no_image_gives_empty_answers() -> None:
    model = build_autoencoder(CONFIG, ImageConfig(size_px=32), 3, seed=0)
    answer = infer(model, image_set(2), np.arange(0))
    assert answer.mu.shape == (0, model.latent_size)
    assert answer.ssim.shape == (0,)


def test_latents_alone_are_the_same_bits_and_the_mode_is_kept() -> None:
    images = image_set(9)
    model = build_autoencoder(CONFIG, ImageConfig(size_px=32), 2, seed=0).train()
    start_linear_path(model, patch_moments(images, np.arange(9), CONFIG))
    indices = np.array([8, 0, 3, 3, 1])
    found = latents_of(model, images, indices, batch_size=2)
    assert model.training
    np.testing.assert_array_equal(found, infer(model, images, indices, batch_size=2).mu)
    assert latents_of(model, images, indices[:0]).shape == (0, model.latent_size)
