import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from mfm_core.perturbation import PARTS, areas_of, moved_at_random
from tests.mfm_core.blob_world import CLASSES, SIDE, blob_world


def pictures_of(world, index, label):
    mean = torch.from_numpy(world.atlas.others_mean(CLASSES[label])).float()
    with torch.no_grad():
        return world.image(index), world.model.decode(mean[None])[0].numpy()


def maps_of(world, index):
    blurred_region = gaussian_filter(world.masks[index].astype(np.float32), 1)
    elsewhere = np.roll(blurred_region, SIDE // 2, axis=1)
    return np.stack([blurred_region, elsewhere, -blurred_region])


def test_the_region_of_the_finding_is_deleted_and_inserted_earlier_than_any_other():
    world = blob_world()
    for label in (1, 2):
        index = world.first(label)
        areas = areas_of(
            world.model,
            pictures_of(world, index, label),
            maps_of(world, index),
            label,
            np.random.default_rng(0),
        )
        assert areas.deletion[0] < areas.deletion[1] - 0.1
        assert areas.insertion[0] > areas.insertion[1] + 0.1
        assert areas.insertion[2] < areas.insertion[1]


def test_areas_are_those_of_a_plain_loop():
    world = blob_world()
    index = world.first(1)
    pictures = image, absent = pictures_of(world, index, 1)
    saliency = maps_of(world, index)[:1] + np.arange(SIDE) * 1e-4
    saliency = saliency + np.arange(SIDE)[:, None] * 1e-2  # no two pixels alike
    found = areas_of(world.model, pictures, saliency, 1, np.random.default_rng(0))
    order = np.argsort(-saliency[0].ravel())
    chances = []
    for part in PARTS:
        frame = image.copy().reshape(-1)
        gone = order[: round(part * SIDE * SIDE)]
        frame[gone] = absent.reshape(-1)[gone]
        with torch.no_grad():
            latent, _ = world.model.encode(torch.from_numpy(frame.reshape(1, 1, SIDE, SIDE)))
            chances.append(float(world.model.classify(latent).softmax(dim=1)[0, 1]))
    assert found.deletion[0] == pytest.approx(np.trapezoid(chances, PARTS), abs=1e-5)


def test_a_flat_map_is_no_better_than_chance_and_depends_on_the_generator_alone():
    world = blob_world()
    pictures = pictures_of(world, world.first(1), 1)
    flat = np.zeros((1, SIDE, SIDE), dtype=np.float32)
    one, same, other = (
        areas_of(world.model, pictures, flat, 1, np.random.default_rng(seed)).deletion[0]
        for seed in (0, 0, 1)
    )
    assert one == same != other


def test_a_map_at_a_random_place_keeps_its_values_and_leaves_its_place():
    saliency = np.zeros((16, 12), dtype=np.float32)
    saliency[3:5, 2:4] = [[1, 2], [3, 4]]
    for seed in range(20):
        moved = moved_at_random(saliency, np.random.default_rng(seed))
        assert np.array_equal(np.sort(moved, axis=None), np.sort(saliency, axis=None))
        assert not (moved[3:5, 2:4] > 0).any()
