import io

import numpy as np
import pytest
from PIL import Image

from mfm_core.charts import Curve, Interval, draw_intervals, draw_rounds
from mfm_core.drawing import MAX_BYTES


def size_of(png: bytes) -> tuple[int, int]:
    assert len(png) <= MAX_BYTES
    image = Image.open(io.BytesIO(png))
    return image.size


@pytest.mark.parametrize("count", [1, 12])
def test_every_interval_adds_a_row(count):
    rows = [Interval(f"site {n}", "site", 0.8, 0.7, 0.9) for n in range(count)]
    width, height = size_of(draw_intervals(rows, "Macro AUC"))
    assert width <= 700 and height >= 100 + 35 * count


def test_a_value_without_interval_and_a_long_name_are_drawn():
    rows = [
        Interval("x" * 34, "federated", 0.9, None, None),
        Interval("$b$", "baseline", 0.5, 0.4, 0.6),
    ]
    size_of(draw_intervals(rows, "Macro AUC"))


def test_a_group_without_a_look_is_our_mistake():
    with pytest.raises(KeyError):
        draw_intervals([Interval("a", "other", 0.5, None, None)], "x")


def test_each_curve_gets_its_own_chart():
    curve = Curve("loss", [1, 2, 3], [3.0, 2.0, 1.0])
    one, three = size_of(draw_rounds([curve], "x")), size_of(draw_rounds([curve] * 3, "x"))
    assert one[0] == three[0] and three[1] > 2 * one[1]


def test_the_wider_interval_is_longer():
    def ink(low: float, high: float) -> int:
        rows = [
            Interval("axis", "site", 0.5, 0.0, 1.0),
            Interval("a", "federated", 0.5, low, high),
        ]
        image = Image.open(io.BytesIO(draw_intervals(rows, "x"))).convert("RGB")
        pixels = np.asarray(image).astype(int)
        return int(((pixels[..., 2] - pixels[..., 0]) > 100).sum())

    assert ink(0.2, 0.8) > ink(0.45, 0.55)
