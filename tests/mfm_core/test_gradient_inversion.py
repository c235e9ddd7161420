"""Gradient inversion: a gradient of one image shows it, a noisy one does not."""

from __future__ import annotations

import copy

import numpy as np
import torch

from mfm_core.config import ObjectiveConfig
from mfm_core.gradient_inversion import (
    _cosine,
    _plain_ssim,
    compare,
    draw_back,
    gradient_of,
    latent_from,
    shielded,
    update_gradient,
)
from mfm_core.ssim import ssim
from tests.mfm_core.blob_world import blob_world

OBJECTIVE = ObjectiveConfig()


def seen_of(row: int):
    world = blob_world()
    image = world.images.batch(np.array([row]))
    return world, gradient_of(world.model, image, int(world.images.labels[row]), OBJECTIVE)


def test_the_head_gives_the_latent_and_the_label_away():
    world, seen = seen_of(1)
    latent, label = latent_from(seen)
    with torch.no_grad():
        expected, _ = world.model.encode(world.images.batch(np.array([1])))
    assert torch.allclose(latent, expected, atol=1e-3)
    assert label == world.images.labels[1]


def test_the_image_is_found_from_its_gradient_and_not_from_a_private_one():
    world, seen = seen_of(2)
    among = world.images.select("train")
    mean = world.images.batch(among).mean(dim=0, keepdim=True)
    true = np.array([among[2]])
    world, seen = seen_of(int(true[0]))
    open_one = compare(draw_back(world.model, seen, mean, OBJECTIVE, 0), world.images, true, among)
    assert open_one.rank == 1 and open_one.ssim > 0.9 > open_one.blind_ssim
    assert open_one.psnr_db > 30 and open_one.chance_rank == (len(among) + 1) / 2
    noisy = shielded(seen, 1.0, 1.0, seed=0)
    hidden = compare(draw_back(world.model, noisy, mean, OBJECTIVE, 0), world.images, true, among)
    assert hidden.ssim < open_one.blind_ssim


def test_matching_turns_the_gradient_towards_the_seen_one():
    world, seen = seen_of(4)
    among = world.images.select("train")
    mean = world.images.batch(among).mean(dim=0, keepdim=True)
    blind = {name: part for name, part in seen.items() if not name.startswith("head.")}
    (drawn,) = draw_back(world.model, blind, mean, OBJECTIVE, 12)
    near, far = (
        _cosine(gradient_of(world.model, image, -1, OBJECTIVE), blind) for image in (drawn, mean)
    )
    assert float(near) > float(far)
    assert float(drawn.min()) >= 0 and float(drawn.max()) <= 1


def test_the_plain_ssim_is_near_that_of_training():
    world = blob_world()
    one, other = world.images.batch(np.array([0])), world.images.batch(np.array([1]))
    assert abs(float(_plain_ssim(one, other)) - float(ssim(one, other)[0])) < 0.05
    assert float(_plain_ssim(one, one)) == 1.0


def test_an_update_is_read_as_minus_its_change():
    before = blob_world().model
    after = copy.deepcopy(before)
    with torch.no_grad():
        after.head.bias += 2.0
    found = update_gradient(before, after)
    assert torch.allclose(found["head.bias"], torch.full_like(found["head.bias"], -2.0))
    assert not found["head.weight"].any() and "attention_logits" not in found


def test_of_several_true_images_the_nearest_counts():
    world = blob_world()
    among = world.images.select("train")
    image = world.images.batch(among[5:6])
    found = compare([image], world.images, among[4:8], among)
    assert found.rank == 1 and found.ssim > 0.999
    assert found.chance_rank == (len(among) + 1) / 5


def test_noise_and_clip_are_those_of_a_private_step():
    seen = {"a": torch.full((10_000,), 1.0)}
    clean = shielded(seen, 2.0, 0.0, seed=0)["a"]
    assert torch.allclose(clean.norm(), torch.tensor(2.0))
    noisy = shielded(seen, 2.0, 1.5, seed=0)["a"] - clean
    assert abs(float(noisy.std()) - 3.0) < 0.1
