import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax

from mfm_core.checkpoint import encoder_hash
from mfm_core.errors import CheckpointError
from mfm_core.gallery import RECONSTRUCTIONS, released_pictures, take_pictures
from mfm_core.inference import infer
from tests.mfm_core.blob_world import CLASSES, blob_world


@pytest.fixture(scope="module")
def pictures():
    world = blob_world()
    return take_pictures(world.model, world.atlas, world.images, world.images.select("test"))


def test_there_is_one_sweep_per_class_and_a_grid(pictures):
    assert tuple(sweep.target for sweep in pictures.sweeps) == CLASSES
    assert len(pictures.reconstructions) == RECONSTRUCTIONS
    assert pictures.class_means is not None and len(pictures.class_means) == len(CLASSES)


def test_the_shown_image_is_the_median_of_its_class(pictures):
    world = blob_world()
    rows = world.images.select("test")
    rows = rows[world.images.labels[rows] == 1]
    scores = softmax(infer(world.model, world.images, rows).logits.astype(float), axis=1)[:, 1]
    chosen = rows[np.argsort(scores, kind="stable")[(len(rows) - 1) // 2]]
    assert np.allclose(pictures.sweeps[1].original, world.image(chosen))


def test_inputs_are_damaged_and_originals_are_not(pictures):
    row = pictures.reconstructions[0]
    assert np.abs(row.input - row.original).mean() > 0.01
    test = blob_world().images.images[blob_world().images.select("test")] / 255.0
    assert np.isclose(test, row.original, atol=1e-6).all(axis=(1, 2, 3)).any()


def test_the_same_seed_gives_the_same_pictures(pictures):
    world = blob_world()
    again = take_pictures(world.model, world.atlas, world.images, world.images.select("test"))
    assert np.array_equal(again.reconstructions[0].input, pictures.reconstructions[0].input)


def test_without_images_only_class_means_are_drawn():
    world = blob_world(empty_class=True)
    none = np.zeros(0, dtype=np.int64)
    empty = take_pictures(world.model, world.atlas, world.images, none)
    assert not empty.sweeps and not empty.reconstructions and empty.class_means is not None


def test_a_learnt_attention_map_is_shown_and_no_other(pictures):
    assert pictures.attention is None
    world = blob_world(empty_class=True)
    model, none = copy.deepcopy(world.model), np.zeros(0, dtype=np.int64)
    with torch.no_grad():
        model.attention_logits[..., 12:20, 12:20] = 1.5
    atlas = replace(world.atlas, encoder_hash=encoder_hash(model))
    shown = take_pictures(model, atlas, world.images, none), released_pictures(model, atlas)
    for found in shown:
        assert found.attention is not None and found.attention.shape == (2, 32, 32)
        assert found.attention[1, 15, 15] < 0.7 and found.attention[1, 8, 8] > 1
        assert found.attention[0, 15, 15] > 1.5


def test_a_class_without_patients_has_no_sweep():
    world = blob_world(empty_class=True)
    found = take_pictures(world.model, world.atlas, world.images, world.images.select("test"))
    assert tuple(sweep.target for sweep in found.sweeps) == CLASSES


def test_an_atlas_of_another_encoder_is_refused():
    world, other = blob_world(), blob_world(empty_class=True)
    with pytest.raises(CheckpointError):
        take_pictures(world.model, other.atlas, world.images, np.arange(3))
