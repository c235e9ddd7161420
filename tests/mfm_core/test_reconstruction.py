import numpy as np

from mfm_core.reconstruction import RECONSTRUCTIONS, reconstruct
from tests.mfm_core.blob_world import blob_world


def test_rows_are_spread_over_the_classes_and_repeatable():
    world = blob_world()
    rows = world.images.select("test")
    found = reconstruct(world.model, world.images, rows, seed=1)
    assert len(found) == RECONSTRUCTIONS
    again = reconstruct(world.model, world.images, rows, seed=1)
    other = reconstruct(world.model, world.images, rows, seed=2)
    assert np.array_equal(found[0].input, again[0].input)
    assert not np.array_equal(found[0].input, other[0].input)
    assert np.array_equal(found[0].original, other[0].original)


def test_without_images_there_is_no_row():
    world = blob_world()
    assert reconstruct(world.model, world.images, np.zeros(0, dtype=np.int64), seed=0) == ()
