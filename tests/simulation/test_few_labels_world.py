"""The world of a cell: labels are hidden as promised, the model that saw none is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mfm_core.checkpoint import flat_weights
from simulation.few_labels_config import FewLabelsConfig
from simulation.few_labels_world import World, open_world, pretrain, shown_labels
from tests.simulation.test_few_labels_config import few_labels_content

CONFIG = FewLabelsConfig.model_validate(few_labels_content()["few_labels"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="module")
def world(folder: Path) -> World:
    return open_world(CONFIG, "films", Path("."), folder)


def test_only_a_share_of_patients_shows_labels_and_one_hospital_none(world: World) -> None:
    images = world.everything
    few, many = shown_labels(world, 0.2, 0), shown_labels(world, 1.0, 0)
    assert not (few[world.hospital == world.unlabelled] >= 0).any()
    assert (few[images.select("test")] == -1).all()
    train = images.select("train")
    known = train[few[train] >= 0]
    assert (few[known] == images.labels[known]).all()
    assert set(np.flatnonzero(few >= 0)) <= set(np.flatnonzero(many >= 0))
    labelled = train[world.hospital[train] != world.unlabelled]
    assert (many[labelled] == images.labels[labelled]).all()
    assert set(few[known]) == set(images.labels[labelled])  # each class at least once
    share = len(np.unique(images.patients[known])) / len(np.unique(images.patients[labelled]))
    assert 0.15 < share < 0.4
    for patient in np.unique(images.patients[known]):
        mine = labelled[images.patients[labelled] == patient]
        same = mine[np.isin(images.labels[mine], few[known[images.patients[known] == patient]])]
        assert (few[same] >= 0).all()  # a patient shows all labels of a class, or none


def test_the_pretrained_model_is_kept_and_no_label_is_read(folder: Path, world: World) -> None:
    assert (folder / f"pretrained{CONFIG.pretrain_steps}.safetensors").is_file()
    again = open_world(CONFIG, "films", Path("."), folder)
    assert (flat_weights(again.model) == flat_weights(world.model)).all()
    images = world.everything
    bare = images.labels[::-1].copy()
    other = pretrain(world.run, type(images)(**{**vars(images), "labels": bare}), 2)
    assert (flat_weights(other) == flat_weights(world.model)).all()
