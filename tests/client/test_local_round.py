"""Pseudo-labels at a site: from class sums alone, for one round, for its unlabelled images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.local_round import class_sums, lesson_of, weight_in, with_pseudo_labels
from client.site import Site, open_site
from mfm_core.finetuning import head_of
from mfm_core.head import fit_heads
from mfm_core.pseudo_labels import class_atlas, pseudo_labels, without_small
from mfm_core.sums import Sum
from strategies.answers import answer_of, request_schema
from strategies.config import RunConfig
from tests.server.hospitals import RUN, lay_out

AGREED = {"from_round": 2, "gate": 0.999999}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    content = RUN.model_dump(mode="json")
    content["learning"]["pseudo_labels"] = AGREED
    run = RunConfig.model_validate(content)
    return open_site(lay_out(tmp_path, ("north",), run) / "sites" / "0.yaml")


def without_labels(site: Site) -> Site:
    """The same site, whose labels nobody knows."""
    bare = replace(site)
    images = replace(site.images, labels=np.full_like(site.images.labels, -1))
    bare.__dict__["images"], bare.__dict__["model"] = images, site.model
    return bare


def sums_of_many(site: Site) -> Sum:
    """The class sums of a hundred such sites, whose latents vary in every direction."""
    arrays = {name: 100.0 * array for name, array in class_sums(site).arrays.items()}
    patients, size = arrays["class.count"].sum(), len(arrays["second_moment"])
    arrays["second_moment"] = arrays["second_moment"] + 0.01 * patients * np.eye(size)
    return Sum(arrays)


def test_class_sums_have_the_agreed_schema_and_small_cells_are_zeros(site: Site) -> None:
    found = class_sums(site)
    assert found.schema == answer_of(site.run, "class_sums").total
    assert found.schema == request_schema(site.run, "train", 2)
    assert request_schema(site.run, "train", 1) is None
    assert not class_sums(with_smallest(site, 1000))["class.sum"].any() and found["class.sum"].any()


def test_a_site_without_labels_gives_zeros(site: Site) -> None:
    found = class_sums(without_labels(site))
    assert not any(array.any() for array in found.arrays.values())


def test_unlabelled_images_get_labels_in_rounds_that_say_so_only(site: Site) -> None:
    bare, sums = without_labels(site), sums_of_many(site)
    assert with_pseudo_labels(bare, 1, sums) is bare.images
    assert with_pseudo_labels(bare, 2, None) is bare.images
    found = with_pseudo_labels(bare, 2, sums)
    train = bare.images.select("train")
    assert (found.labels[train] >= 0).any() and (bare.images.labels == -1).all()
    others = np.setdiff1d(np.arange(len(found)), train)
    assert (found.labels[others] == -1).all()


def test_the_directions_of_the_trained_head_decide(site: Site) -> None:
    bare, sums, train = without_labels(site), sums_of_many(site), site.images.select("train")
    atlas = class_atlas(sums, site.run.ontology.classes)
    assert atlas is not None
    with torch.no_grad():
        site.model.head.weight.copy_(torch.from_numpy(fit_heads(atlas, (0.3,))[0].weight))
    found = with_pseudo_labels(bare, 2, sums).labels[train]
    agreed, mu = site.run.learning.pseudo_labels, bare.latents("train")
    wanted = pseudo_labels(mu, atlas, agreed, head_of(site.model)).labels
    smallest = site.config.limits.min_cell_count
    wanted = without_small(wanted, site.images.patients[train], smallest)
    assert (found == wanted).all() and (found >= 0).any()


def test_known_labels_stay(site: Site) -> None:
    assert with_pseudo_labels(site, 2, sums_of_many(site)) is site.images


def test_class_sums_of_too_few_patients_label_nothing(site: Site) -> None:
    nothing = class_sums(without_labels(site))
    bare = without_labels(site)
    assert with_pseudo_labels(bare, 2, nothing) is bare.images


def test_a_lesson_follows_from_run_site_and_round(site: Site) -> None:
    one, two = lesson_of(site, 1), lesson_of(site, 2)
    assert one.seed != two.seed and one.shared_seed == two.shared_seed
    assert two.schedule.first_step == site.run.learning.training.steps_per_round


def with_smallest(site: Site, smallest: int) -> Site:
    """The same site, which lets no cell of fewer patients out."""
    limits = site.config.limits.model_copy(update={"min_cell_count": smallest})
    strict = replace(site, config=site.config.model_copy(update={"limits": limits}))
    strict.__dict__["images"], strict.__dict__["model"] = site.images, site.model
    return strict


def aimed_sums(site: Site, place: int) -> Sum:
    """What a server makes up to have one training image labelled and no other."""
    target = site.latents("train")[place].astype(float)
    means = np.stack([target, target + 1000.0])
    counts = np.array([1e6, 1e6])
    spread = 1e-6 * counts.sum() * np.eye(len(target))
    sums = counts[:, None] * means
    arrays = {name: np.zeros(shape) for name, shape in class_sums(site).schema}
    return Sum({**arrays, "class.count": counts, "class.sum": sums,
                "second_moment": means.T @ sums + spread})  # fmt: skip


def test_made_up_sums_cannot_pick_the_images_of_one_patient(site: Site) -> None:
    bare = without_labels(site)
    sums, train = aimed_sums(bare, 3), bare.images.select("train")
    picked = with_pseudo_labels(bare, 2, sums)
    people = np.unique(picked.patients[train][picked.labels[train] >= 0])
    assert len(people) == 1, "the attack works where a single patient is enough"
    strict = with_smallest(bare, 2)
    assert (with_pseudo_labels(strict, 2, sums).labels == -1).all()
    many = with_pseudo_labels(strict, 2, sums_of_many(site))
    assert (many.labels[train] >= 0).any()


def test_the_weight_does_not_tell_how_many_got_a_label(site: Site) -> None:
    def weigh(trainable: str, number: int, labels: list[int]) -> int:
        learning = site.run.learning.model_copy(update={"trainable": trainable})
        run = site.run.model_copy(update={"learning": learning})
        return weight_in(replace(site, run=run), number, np.array(labels))

    assert weigh("head", 2, [0, -1, -1]) == weigh("head", 2, [0, 1, -1]) == 3
    assert weigh("head", 2, [-1, -1, -1]) == 1
    assert weigh("head", 1, [0, -1, -1]) == 1 and weigh("head", 1, [0, 1, -1]) == 2
    assert weigh("lora", 2, [0, -1, -1]) == 3
