import io

import numpy as np
import pytest
from PIL import Image

from client.audit_picture import BANNER, SIDE, draw_centres
from mfm_core.slices import Slice


def group(name: str) -> Slice:
    return Slice(name, 1, "cluster", 9, 4, 20, 1, 0.01, 0.03, np.zeros(3))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("number", [1, 6])
def test_centres_stand_in_a_row_under_the_banner(channels, number):
    drawn = np.full((number, channels, 32, 32), 0.5, dtype=np.float32)
    content = draw_centres(drawn, [group("effusion")] * number)
    sheet = Image.open(io.BytesIO(content))
    assert sheet.width >= number * SIDE and sheet.height > SIDE
    pixels = np.asarray(sheet.convert("RGB")).astype(int)
    assert (pixels[:16, :, 0] - pixels[:16, :, 2] > 60).any(), "the banner is red"
    assert (pixels == 128).all(axis=2).sum() >= number * SIDE * SIDE * 0.9
    assert "stays at this hospital" in BANNER and not sheet.info


def test_values_outside_the_range_and_long_names_are_drawn():
    drawn = np.array([np.linspace(-1, 2, 32 * 32).reshape(1, 32, 32)], dtype=np.float32)
    assert draw_centres(drawn, [group("a" * 64)]).startswith(b"\x89PNG")
