import io

import numpy as np
import pytest
from PIL import Image

from client.banner import RED, with_banner


def png(width: int, height: int) -> bytes:
    packed = io.BytesIO()
    Image.new("RGB", (width, height), (10, 200, 30)).save(packed, "PNG")
    return packed.getvalue()


@pytest.mark.parametrize("width", [300, 860, 2400])
def test_the_banner_stands_over_the_whole_panel(width):
    page = with_banner(png(width, 50), ["AI-generated. class_shift", "Model 0123"])
    assert page.dtype == np.uint8 and page.shape[1:] == (width, 3)
    assert (page[-50:] == (10, 200, 30)).all(), "the panel itself is left as it was"
    banner = page[: page.shape[0] - 50]
    red = (banner == RED).all(axis=-1)
    assert red[0].all() and red[:, 0].sum() > width / 32
    lettered = ~red[red[:, 0]]
    assert lettered.any(axis=0).sum() > width / 4, "there are letters across the red bar"


def test_a_long_line_is_shortened_and_never_cut_at_the_edge():
    page = with_banner(png(300, 10), ["W" * 400])
    line = page[round(300 / 32 * 1.7) + 1 : -10]
    assert (line[:, :2] == 255).all() and (line[:, -2:] == 255).all()
    assert (line < 100).any()
