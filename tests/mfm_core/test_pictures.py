import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mfm_core.drawing import MAX_BYTES
from mfm_core.explanation import METHODS, Question, class_shift, decode_class_means
from mfm_core.gallery import Reconstruction
from mfm_core.pictures import (
    draw_attention,
    draw_class_means,
    draw_methods,
    draw_reconstructions,
    draw_sweep,
)
from tests.mfm_core.blob_world import CLASSES, blob_world


def pixels_of(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG")
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def orange(pixels):
    return ((pixels[..., 0] - pixels[..., 2]) > 100) & (pixels[..., 1] < 190)


def blue(pixels):
    return ((pixels[..., 2] - pixels[..., 0]) > 100) & (pixels[..., 1] < 190)


@pytest.fixture
def sweep():
    world = blob_world()
    return class_shift(world.model, world.atlas, world.image(world.first(0)), "left blob")


def test_a_panel_is_small_legible_and_without_metadata(sweep):
    png = draw_sweep(sweep)
    assert len(png) <= MAX_BYTES
    image = Image.open(io.BytesIO(png))
    assert image.width >= 800 and image.height >= 900
    assert not image.info.get("Software") and not getattr(image, "text", {})


def test_the_same_sweep_gives_the_same_bytes(sweep):
    assert draw_sweep(sweep) == draw_sweep(sweep)


def test_what_gets_brighter_is_orange_and_what_gets_darker_is_blue(sweep):
    back = class_shift(
        blob_world().model, blob_world().atlas, sweep.reconstruction, "left blob", alphas=(-2.0,)
    )
    tile = (slice(0, 330), slice(440, 530))  # the left half of the difference map
    up, down = pixels_of(draw_sweep(sweep))[tile], pixels_of(draw_sweep(back))[tile]
    assert orange(up).sum() > 100 > 10 * orange(down).sum()
    assert blue(down).sum() > 100 > 10 * blue(up).sum()


def test_one_direction_only_gives_a_shorter_panel(sweep):
    world = blob_world()
    both = pixels_of(draw_sweep(sweep))
    only = class_shift(world.model, world.atlas, sweep.original, "left blob", alphas=(1.0, 2.0))
    assert len(pixels_of(draw_sweep(only))) < len(both) - 200


def test_hostile_and_long_class_names_are_drawn_as_they_are(sweep):
    names = ("clear", "$x_1$ <b>&\\frac{a}{b} " + "very long name " * 6, "right blob")
    hostile = replace(sweep, classes=names, target=names[1])
    assert len(draw_sweep(hostile)) <= MAX_BYTES


def test_colour_images_keep_their_colours():
    world = blob_world()
    base = class_shift(world.model, world.atlas, world.image(0), "clear")
    red = np.concatenate([base.original, base.original * 0.2, base.original * 0.2])
    frames = np.concatenate([base.images, base.images * 0.2, base.images * 0.2], axis=1)
    pixels = pixels_of(draw_sweep(replace(base, original=red, images=frames)))
    assert ((pixels[..., 0] > 60) & (pixels[..., 1] < pixels[..., 0] / 2)).mean() > 0.1


def test_reconstructions_show_damage_and_residual():
    world = blob_world()
    rows = [
        Reconstruction(world.image(i), np.zeros_like(world.image(i)), world.image(i) * 0.8)
        for i in range(6)
    ]
    png = draw_reconstructions(rows)
    pixels = pixels_of(png)
    assert len(png) <= MAX_BYTES
    assert blue(pixels).mean() > 0.05 and orange(pixels).mean() < 0.01


def test_noise_everywhere_still_fits_the_limit():
    rng = np.random.default_rng(0)
    noise = [rng.random((3, 1, 128, 128), dtype=np.float32) for _ in range(6)]
    assert len(draw_reconstructions([Reconstruction(*row) for row in noise])) <= MAX_BYTES


def test_an_attention_map_is_blue_where_pixels_count_less():
    weights = np.ones((2, 32, 32), dtype=np.float32)
    assert not blue(pixels_of(draw_attention(weights, None))).any()
    weights[1, 8:24, 8:24] = 0.5
    pixels = pixels_of(draw_attention(weights, np.full((1, 32, 32), 0.5, dtype=np.float32)))
    assert blue(pixels).mean() > 0.01 and orange(pixels).mean() < 0.005
    assert (pixels[-50:, -3:] > 250).all(), "the note is cut off at the right"
    weights[0, 8:24, 8:24] = 1.5  # stage one is shown too
    assert orange(pixels_of(draw_attention(weights, None))).mean() > 0.01


@pytest.mark.parametrize("count", [2, 5, 15])
def test_class_means_fill_their_rows(count):
    world = blob_world()
    means = np.repeat(decode_class_means(world.model, world.atlas)[:1], count, axis=0)
    pixels = pixels_of(draw_class_means(means, [f"class {n}" for n in range(count)]))
    assert pixels.shape[1] >= 800


def test_a_class_without_images_has_no_mean():
    world = blob_world()
    means = decode_class_means(world.model, world.atlas).copy()
    whole = pixels_of(draw_class_means(means, CLASSES))
    means[1:] = np.nan
    assert (pixels_of(draw_class_means(means, CLASSES)) < 200).sum() < (whole < 200).sum() / 2


@pytest.fixture
def explanations():
    world = blob_world()
    image = world.image(world.first(0))
    question = Question("left blob")
    return [method(world.model, world.atlas, image, question) for method in METHODS.values()]


def test_methods_stand_side_by_side_over_the_image(explanations):
    png = draw_methods(explanations)
    whole, one = pixels_of(png), pixels_of(draw_methods(explanations[:1]))
    assert len(png) <= MAX_BYTES and len(one) < len(whole) and whole.shape[1] >= 800
    left, right = slice(228, 325), slice(325, 422)  # halves of the first method's tile
    tile = slice(60, 250)
    assert orange(whole[tile, left]).sum() > 5 * max(orange(whole[tile, right]).sum(), 20)
    assert not orange(whole[tile, 17:211]).any()


def test_a_map_of_nothing_is_drawn_as_the_image(explanations):
    quiet = next(found for found in explanations if found.method == "grad_cam")
    assert not quiet.saliency.any()
    assert not orange(pixels_of(draw_methods([quiet]))).any()


def test_maps_do_not_depend_on_their_own_scale(explanations):
    louder = [replace(found, saliency=found.saliency * 1000) for found in explanations]
    assert draw_methods(louder) == draw_methods(explanations)


def test_another_picture_can_stand_under_the_maps(explanations):
    white = np.ones_like(explanations[0].image)
    first, second = draw_methods(explanations), draw_methods(explanations, white)
    assert pixels_of(second).mean() > pixels_of(first).mean() + 20


def test_frames_outside_the_training_are_framed(sweep):
    inside = draw_sweep(replace(sweep, supported=np.ones(11, dtype=bool)))
    flags = np.ones(11, dtype=bool)
    flags[-1] = False
    assert len(pixels_of(draw_sweep(replace(sweep, supported=flags)))) >= len(pixels_of(inside))
    assert draw_sweep(replace(sweep, supported=flags)) != inside
