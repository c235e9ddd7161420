import base64

import numpy as np
import pytest

from mfm_core.gallery import NO_IMAGES, DrawnAxis, Pictures, released_pictures, take_pictures
from mfm_core.report_pictures import drawn, embed
from tests.mfm_core.blob_world import CLASSES, blob_world


@pytest.fixture(scope="module")
def taken():
    world = blob_world()
    return take_pictures(world.model, world.atlas, world.images, world.images.select("test"))


def test_without_pictures_there_is_a_reason():
    found = drawn(Pictures())
    assert found["no_pictures"] == NO_IMAGES
    assert found["reconstructions"] is None and found["class_means"] is None
    assert found["sweeps"] == [] and found["axes"] == [] and found["sweeps_left_out"] == 0


def test_every_picture_has_words_and_belongs_to_its_class(taken):
    found = drawn(taken)
    assert [sweep["name"] for sweep in found["sweeps"]] == list(CLASSES)
    for sweep in found["sweeps"]:
        assert sweep["methods"] and f"for {sweep['name']}" in sweep["methods_alt"]
        assert sweep["alt"] and "Grad-CAM" in sweep["methods_alt"]


def test_released_pictures_show_no_patient():
    world = blob_world()
    found = released_pictures(world.model, world.atlas)
    assert found.class_means is not None
    assert not found.reconstructions and not found.sweeps and not found.methods


def test_an_attention_map_is_drawn_with_and_without_class_means():
    weights = np.ones((2, 32, 32), dtype=np.float32)
    weights[1, 10:20, 10:20] = 0.4
    assert drawn(Pictures())["attention"] is None
    alone = drawn(Pictures(attention=weights))["attention"]
    means = np.full((len(CLASSES), 1, 32, 32), np.nan, dtype=np.float32)
    means[0] = 0.5
    beside = drawn(Pictures(classes=CLASSES, class_means=means, attention=weights))["attention"]
    assert alone.startswith("data:image/png;base64,") and beside.startswith("data:image/png")
    assert len(beside) > len(alone), "the mean image stands beside it"


def test_an_axis_is_named_by_its_two_sides():
    (axis,) = drawn(Pictures(axes=(DrawnAxis("view", "AP", "PA", b"png"),)))["axes"]
    assert axis["name"] == "view: AP against PA" and axis["picture"] == embed(b"png")
    assert "from PA to AP" in axis["alt"]


def test_a_picture_is_inside_the_page():
    assert base64.b64decode(embed(b"abc").partition(",")[2]) == b"abc"
