"""The decoded axis shows what the field is made of, and no patient."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mfm_core.atlas import Atlas
from mfm_core.bias_axes import ALPHAS, decode_bias_axis, draw_bias_axis
from mfm_core.contrasts import here_or_elsewhere
from mfm_core.drawing import MAX_BYTES
from mfm_core.errors import CheckpointError, ConfigError, DataError
from mfm_core.inference import infer
from mfm_core.latent_sums import latent_sum
from tests.mfm_core.blob_world import SIDE, World, blob_world


def tilted_site(world: World) -> Atlas:
    """Return an atlas where "here" are the images that get brighter towards the bottom."""
    train = world.images.select("train")
    pixels = world.images.images[train, 0].astype(float)
    tilt = pixels[:, SIDE // 2 :].mean(axis=(1, 2)) - pixels[:, : SIDE // 2].mean(axis=(1, 2))
    mine = train[tilt > np.median(tilt)]
    mu, patients = infer(world.model, world.images, mine).mu, world.images.patients[mine]
    columns = (world.images.labels[mine], world.images.attributes[mine], patients)
    return here_or_elsewhere(world.atlas, latent_sum(mu, *columns, world.ontology))


def test_the_axis_shows_what_the_sides_differ_in():
    world = blob_world()
    frames = decode_bias_axis(world.model, tilted_site(world), "site", "here")
    assert frames.shape == (len(ALPHAS), 1, SIDE, SIDE)
    assert frames.dtype == np.float32
    assert frames.min() >= 0 and frames.max() <= 1
    change = (frames[-1] - frames[0])[0]
    assert change[-8:].mean() > 0.05  # the bottom gets brighter,
    assert change[:8].mean() < -0.05  # the top darker,
    assert abs(change[12:20].mean()) < 0.05  # the middle, where the blobs are, stays


def test_the_start_is_the_mean_of_all_patients_whatever_the_field():
    world = blob_world()
    here = decode_bias_axis(world.model, tilted_site(world), "site", "here", (0.0, 1.0))
    elsewhere = decode_bias_axis(world.model, tilted_site(world), "site", "elsewhere", (0.0, -1.0))
    np.testing.assert_allclose(here, elsewhere, atol=1e-5)


def test_the_picture_is_small_plain_and_coloured_on_the_right():
    world = blob_world()
    png = draw_bias_axis(world.model, tilted_site(world), "site", "here")
    assert len(png) <= MAX_BYTES
    image = Image.open(io.BytesIO(png))
    assert not getattr(image, "text", {})
    pixels = np.asarray(image.convert("RGB")).astype(int)
    orange = (pixels[..., 0] - pixels[..., 2] > 100) & (pixels[..., 1] < 190)
    blue = (pixels[..., 2] - pixels[..., 0] > 100) & (pixels[..., 1] < 190)
    columns = orange.shape[1] * 3 // 4
    assert orange[:, columns:].sum() > 200 and blue[:, columns:].sum() > 200
    assert not orange[:, :columns].any() and not blue[:, :columns].any()
    assert png == draw_bias_axis(world.model, tilted_site(world), "site", "here")


def test_decoding_leaves_the_model_in_its_mode():
    world = blob_world()
    atlas = tilted_site(world)
    world.model.train()
    try:
        decode_bias_axis(world.model, atlas, "site", "here")
        assert world.model.training
    finally:
        world.model.eval()


def test_what_cannot_be_drawn_is_refused_with_what_to_do():
    world = blob_world()
    atlas = tilted_site(world)
    with pytest.raises(DataError, match=r"alpha 9, nan is outside \[-4, 4\]; choose smaller"):
        decode_bias_axis(world.model, atlas, "site", "here", (1.0, 9.0, float("nan")))
    with pytest.raises(ConfigError, match="it has here, elsewhere"):
        decode_bias_axis(world.model, atlas, "site", "there")
    with pytest.raises(ConfigError, match="'view' is not in the ontology"):
        draw_bias_axis(world.model, atlas, "view", "AP")
    with pytest.raises(DataError, match="above 0"):
        draw_bias_axis(world.model, atlas, "site", "here", alpha=-1.0)
    with pytest.raises(CheckpointError, match="same run"):
        draw_bias_axis(world.model, replace(atlas, encoder_hash="other"), "site", "here")
    counts = {"site": atlas.attribute_counts["site"] * np.array([1.0, 0.0])}
    with pytest.raises(DataError, match="one side"):
        draw_bias_axis(world.model, replace(atlas, attribute_counts=counts), "site", "here")
    broken = replace(atlas, means=np.full_like(atlas.means, np.nan))
    with pytest.raises(DataError, match="not finite"):
        draw_bias_axis(world.model, broken, "site", "here")
