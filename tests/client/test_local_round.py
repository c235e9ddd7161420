"""Pseudo-labels at a site: from class sums alone, for one round, for its unlabelled images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.local_round import class_sums, lesson_of, with_pseudo_labels
from client.site import Site, open_site
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
    limits = site.config.limits.model_copy(update={"min_cell_count": 1000})
    strict = replace(site, config=site.config.model_copy(update={"limits": limits}))
    strict.__dict__["images"], strict.__dict__["model"] = site.images, site.model
    assert not class_sums(strict)["class.sum"].any() and found["class.sum"].any()


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
