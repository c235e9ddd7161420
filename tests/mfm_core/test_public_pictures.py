"""Public pictures are those that the run names, or they are refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from mfm_core.config import ImageConfig, ModelConfig
from mfm_core.errors import ConfigError, DataError
from mfm_core.public_basis import smooth_pictures
from mfm_core.public_pictures import (
    FEWEST,
    PUBLIC_FILE,
    Pixels,
    public_moments,
    read_pictures,
    read_public,
    write_public,
)

SIDE = ImageConfig(size_px=32)


def pixels(count: int = FEWEST, side: int = 32) -> Pixels:
    return (255 * smooth_pictures((1, side), count, 0)).astype(np.uint8)


def test_what_was_written_is_read_and_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    wanted = write_public(tmp_path, pixels())
    assert wanted == hashlib.sha256((tmp_path / PUBLIC_FILE).read_bytes()).hexdigest()
    found = read_public(tmp_path, wanted, SIDE)
    assert found is not None
    np.testing.assert_array_equal(found, pixels())
    assert read_public(tmp_path / "nowhere", None, SIDE) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing"),
        ({"pictures": pixels(FEWEST, 64)}, "expected uint8"),
        ({"pictures": pixels().astype(np.float32)}, "expected uint8"),
        ({"pictures": pixels()[: FEWEST - 1]}, "expected uint8"),
        ({"others": pixels()}, "no array"),
        (b"no safetensors", "no array"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: object, said: str) -> None:
    raw = save(content) if isinstance(content, dict) else content
    if isinstance(raw, bytes):
        (tmp_path / PUBLIC_FILE).write_bytes(raw)
    wanted = hashlib.sha256(raw if isinstance(raw, bytes) else b"").hexdigest()
    with pytest.raises(ConfigError, match=said):
        read_public(tmp_path, wanted, SIDE)


def test_one_changed_byte_is_another_file(tmp_path: Path) -> None:
    wanted = write_public(tmp_path, pixels())
    raw = bytearray((tmp_path / PUBLIC_FILE).read_bytes())
    raw[-1] ^= 1
    (tmp_path / PUBLIC_FILE).write_bytes(raw)
    with pytest.raises(ConfigError, match="has hash"):
        read_public(tmp_path, wanted, SIDE)


def test_too_few_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected 64"):
        write_public(tmp_path, pixels()[:5])
    assert not (tmp_path / PUBLIC_FILE).exists()


def test_files_become_pictures_of_the_runs_size_and_every_bad_one_is_named(tmp_path: Path) -> None:
    Image.fromarray(pixels(1, 64)[0, 0]).save(tmp_path / "good.png")
    assert read_pictures([tmp_path / "good.png"], SIDE).shape == (1, 1, 32, 32)
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes(b"?")
    with pytest.raises(DataError) as caught:
        read_pictures(sorted(tmp_path.iterdir()), SIDE)
    assert len(caught.value.problems) == 2
    with pytest.raises(DataError, match="no image file"):
        read_pictures([], SIDE)


def test_their_moments_count_them_and_hold_their_mean() -> None:
    shape = ModelConfig(widths=(16, 32), depths=(1, 1), norm_channels=8, latent_channels=4)
    found = public_moments(pixels(), shape)
    assert found["patch.count"][0] == FEWEST
    mean = pixels().astype(np.float64).mean(axis=0) / 255 - 0.5
    np.testing.assert_allclose(found["patch.image"] / FEWEST, mean, atol=1e-6)
