"""Under the weights class and attribute are independent, whichever site an image lies at."""

from dataclasses import replace

import numpy as np
import pytest

from mfm_core.errors import ConfigError
from mfm_core.reweighting import LARGEST_WEIGHT, group_weights, image_weights
from tests.mfm_core.bias_world import draw_world, world_atlas

DATA = draw_world(1, 1000, 0.6, 4)
ATLAS = world_atlas(DATA)


def test_weighted_images_make_class_and_attribute_independent() -> None:
    weights = image_weights(group_weights(ATLAS, "view"), DATA.labels, DATA.attributes[:, 0])
    cells = np.zeros((2, 2))
    np.add.at(cells, (DATA.labels, DATA.attributes[:, 0]), weights)
    before = ATLAS.attribute_counts["view"]
    assert abs(np.corrcoef(DATA.labels, DATA.attributes[:, 0])[0, 1]) > 0.5
    np.testing.assert_allclose(cells, np.outer(before.sum(axis=1), before.sum(axis=0)) / 1000)
    np.testing.assert_allclose(cells.sum(axis=1), before.sum(axis=1))
    np.testing.assert_allclose(cells.sum(axis=0), before.sum(axis=0))


def test_unknown_values_and_labels_weigh_one() -> None:
    weights = group_weights(ATLAS, "view")
    found = image_weights(weights, np.array([-1, 0, 1, 0]), np.array([0, -1, 1, 0]))
    np.testing.assert_array_equal(found, [1.0, 1.0, weights[1, 1], weights[0, 0]])


def test_rare_and_empty_cells_stay_bounded() -> None:
    counts = np.array([[500.0, 1.0], [0.0, 500.0]])
    weights = group_weights(replace(ATLAS, attribute_counts={"view": counts}), "view")
    assert weights[0, 1] == LARGEST_WEIGHT
    assert weights[1, 0] == 0.0
    assert 0 < weights[0, 0] < 1
    nobody = replace(ATLAS, attribute_counts={"view": np.zeros((2, 2))})
    assert not group_weights(nobody, "view").any()


def test_unknown_attribute_is_refused() -> None:
    with pytest.raises(ConfigError, match="'age' is not in the atlas; it has view"):
        group_weights(ATLAS, "age")
