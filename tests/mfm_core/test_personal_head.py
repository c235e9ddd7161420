"""A site's own head: taken where the site's labels ask for it, and not for chance or scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from mfm_core.dataset import SPLITS, ImageSet
from mfm_core.head import Head
from mfm_core.inference import infer
from mfm_core.personal_head import FEWEST_PATIENTS, personal_head
from tests.mfm_core.view_world import view_world

SWAP = np.array([1, 0, 2])


def with_val(images: ImageSet) -> ImageSet:
    """Return the world's images with half of the test patients for validation."""
    splits = images.splits.copy()
    splits[images.select("test")[::2]] = SPLITS.index("val")
    return replace(images, splits=splits)


def swapped(images: ImageSet) -> ImageSet:
    """The same images at a hospital that calls the first two classes by each other's name."""
    return replace(images, labels=SWAP[images.labels])


def share_right(head: Head, images: ImageSet) -> float:
    test = images.select("test")
    mu = infer(view_world().model, images, test).mu
    return float((head.logits(mu).argmax(axis=1) == images.labels[test]).mean())


def test_a_site_that_differs_takes_its_own_head_and_reads_its_patients_better() -> None:
    world = view_world()
    images = swapped(with_val(world.images))
    common = Head(world.model.head.weight.detach().numpy(), world.model.head.bias.detach().numpy())
    chosen = personal_head(world.model, images, world.ontology)
    assert chosen.own and chosen.share > 0 and chosen.gain > (chosen.error or 0)
    assert share_right(chosen.head, images) > share_right(common, images) + 0.2


def test_a_head_learned_from_chance_is_not_taken() -> None:
    world = view_world()
    images = with_val(world.images)
    labels = images.labels.copy()
    train = images.select("train")
    labels[train] = np.random.default_rng(0).permutation(labels[train])
    chosen = personal_head(world.model, replace(images, labels=labels), world.ontology)
    common = world.model.head.weight.detach().numpy()
    assert not chosen.own and chosen.share == 0
    assert np.array_equal(chosen.head.weight, common)


def test_the_common_head_is_not_left_for_its_scale() -> None:
    """Eight times too sure of itself, it ranks as before; only a better ranking may win."""
    found = []
    for scale in (8.0, 64.0):
        world = view_world.__wrapped__()
        with torch.no_grad():
            world.model.head.weight.mul_(scale)
            world.model.head.bias.mul_(scale)
        found.append(personal_head(world.model, with_val(world.images), world.ontology))
    assert (found[0].own, found[0].share) == (found[1].own, found[1].share)
    assert abs(found[0].gain - found[1].gain) < 1e-4


def test_few_validation_patients_or_one_class_leave_the_common_head() -> None:
    world = view_world()
    images = with_val(world.images)
    few = images.splits.copy()
    val = images.select("val")
    kept = np.unique(images.patients[val])[: FEWEST_PATIENTS - 1]
    few[np.setdiff1d(val, np.flatnonzero(np.isin(images.patients, kept)))] = SPLITS.index("test")
    chosen = personal_head(world.model, replace(images, splits=few), world.ontology)
    assert not chosen.own and chosen.error is None and "fewer than" in chosen.reason
    assert chosen.patients == FEWEST_PATIENTS - 1
    nobody = np.where(images.splits == SPLITS.index("train"), -1, images.labels)
    chosen = personal_head(world.model, replace(images, labels=nobody), world.ontology)
    assert not chosen.own and "no head can be fitted" in chosen.reason


def test_the_report_of_a_decision_holds_no_head_and_the_model_is_not_changed() -> None:
    world = view_world()
    images = swapped(with_val(world.images))
    before = world.model.head.weight.detach().clone()
    content = personal_head(world.model, images, world.ontology).to_dict()
    assert "head" not in content and content["own"] is True
    assert bool((world.model.head.weight == before).all())
