import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mfm_core.animation import ACCENT, MAX_GIF_BYTES, draw_sweep_gif
from mfm_core.explanation import class_shift
from tests.mfm_core.blob_world import blob_world


@pytest.fixture(scope="module")
def sweep():
    world = blob_world()
    return class_shift(world.model, world.atlas, world.image(world.first(0)), "left blob")


def frames_of(gif: bytes) -> list[np.ndarray]:
    image = Image.open(io.BytesIO(gif))
    frames = []
    for position in range(image.n_frames):
        image.seek(position)
        frames.append(np.asarray(image.convert("RGB")).astype(int))
    return frames


def accent_column(frame: np.ndarray) -> float:
    bottom = frame[-28:]
    marked = (np.abs(bottom - ACCENT).sum(axis=2) < 30).nonzero()[1]
    assert marked.size > 20
    return float(marked.mean())


def test_it_runs_forth_and_back_for_ever(sweep):
    image = Image.open(io.BytesIO(draw_sweep_gif(sweep)))
    frames = frames_of(draw_sweep_gif(sweep))
    assert image.format == "GIF" and image.info["loop"] == 0
    assert len(frames) == 20
    columns = [accent_column(frame) for frame in frames]
    assert np.all(np.diff(columns[:11]) > 10) and np.all(np.diff(columns[10:]) < -10)
    assert all(np.array_equal(frames[k], frames[20 - k]) for k in range(1, 10))


def test_it_rests_at_the_ends_and_at_the_unchanged_image(sweep):
    image = Image.open(io.BytesIO(draw_sweep_gif(sweep)))
    times = []
    for position in range(image.n_frames):
        image.seek(position)
        times.append(image.info["duration"])
    longer = [position for position, time in enumerate(times) if time > 2 * min(times)]
    assert longer == [0, 5, 10, 15]


def test_the_pictures_are_the_frames_of_the_sweep(sweep):
    frames = frames_of(draw_sweep_gif(sweep))
    for position in (0, 5, 10):
        middle = frames[position][22 : 22 + 336, :, 0] / 255
        small = np.asarray(Image.fromarray(middle).resize((32, 32), Image.Resampling.BOX))
        assert np.abs(small - sweep.images[position, 0]).mean() < 0.02


def test_frames_outside_the_training_say_so(sweep):
    flags = np.ones(11, dtype=bool)
    flags[10] = False
    frames = frames_of(draw_sweep_gif(replace(sweep, supported=flags)))
    words = [frame[-45:-28] for frame in frames]
    marked = [(np.abs(line - ACCENT).sum(axis=2) < 60).sum() > 20 for line in words]
    assert marked == [position == 10 for position in range(20)]


def test_noise_of_full_size_stays_below_the_limit(sweep):
    rng = np.random.default_rng(0)
    noise = rng.random((11, 1, 256, 256), dtype=np.float32)
    gif = draw_sweep_gif(replace(sweep, images=noise, original=noise[5]))
    assert len(gif) <= MAX_GIF_BYTES
    assert np.ptp(frames_of(gif)[0][30:100, 150:200, 0]) > 100


def test_colours_stay_colours(sweep):
    red = sweep.images * np.array([1.0, 0.2, 0.2], dtype=np.float32)[:, None, None]
    middle = frames_of(draw_sweep_gif(replace(sweep, images=red)))[0][100:300]
    bright = middle[..., 0] > 60
    assert bright.mean() > 0.5 and (middle[..., 1] < middle[..., 0] / 2)[bright].mean() > 0.9


def test_the_same_sweep_gives_the_same_bytes_without_comments(sweep):
    gif = draw_sweep_gif(sweep)
    assert gif == draw_sweep_gif(sweep)
    assert "comment" not in Image.open(io.BytesIO(gif)).info


def test_long_names_are_cut_and_one_direction_is_enough(sweep):
    world = blob_world()
    one = class_shift(world.model, world.atlas, sweep.original, "left blob", alphas=(1.0,))
    names = ("clear", "a very long name of a finding " * 4, "right blob")
    frames = frames_of(draw_sweep_gif(replace(one, classes=names, target=names[1])))
    assert len(frames) == 2 and frames[0].shape == (428, 336, 3)
