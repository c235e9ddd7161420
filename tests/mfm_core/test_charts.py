import io

import numpy as np
import pytest
from matplotlib import rc_context
from PIL import Image

from mfm_core.charts import Curve, Interval, draw_intervals, draw_rounds, plot_intervals
from mfm_core.drawing import MAX_BYTES, STYLE


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
    width, height = size_of(draw_intervals(rows, "Macro AUC"))
    assert width <= 700 and height >= 100 + 35 * len(rows)


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


def test_no_text_of_the_intervals_is_cut_off():
    names = ["PCA + logistic regression on 32 px pixels", "all images in one place (10000 steps)"]
    rows = [Interval(name, "baseline", 0.97, 0.9, 1.0) for name in (*names, "x" * 34)]
    with rc_context(STYLE):
        figure = plot_intervals(rows, "Macro AUC on test images")
        figure.draw_without_rendering()
    page = figure.bbox
    texts = [*figure.texts, *(t for a in figure.axes for t in a.get_yticklabels())]
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= page.x0 and box.x1 <= page.x1, text.get_text()
