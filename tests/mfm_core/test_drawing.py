import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from mfm_core.drawing import MAX_BYTES, encode_png


def drawn(picture: np.ndarray) -> np.ndarray:
    figure = Figure(figsize=(2, 2), dpi=120)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(picture, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    return np.asarray(Image.open(io.BytesIO(encode_png(figure))).convert("RGB")).astype(int)


def test_greys_stay_grey_and_a_small_patch_of_colour_survives():
    picture = np.repeat(np.linspace(0, 1, 240)[None, :, None], 240, axis=0).repeat(3, axis=2)
    picture[:12, :12] = (0.9, 0.5, 0.0)
    found = drawn(picture)
    assert np.abs(found[:12, :12] - np.array([230, 128, 0])).max() <= 12
    assert np.abs(found[20:] - (picture[20:] * 255)).max() <= 4
    assert np.ptp(found[20:], axis=2).max() == 0


def test_noise_is_cut_down_to_the_limit():
    figure = Figure(figsize=(7, 8), dpi=120)
    noise = np.random.default_rng(0).random((960, 840, 3))
    figure.add_axes((0, 0, 1, 1)).imshow(noise, interpolation="nearest", aspect="auto")
    png = encode_png(figure)
    assert len(png) <= MAX_BYTES
