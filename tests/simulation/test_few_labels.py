"""Labels are hidden as promised, every method ends in figures, nothing is trained twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mfm_core.errors import ConfigError
from simulation.few_labels import (
    Result,
    World,
    open_world,
    plan_of_cells,
    read_results,
    run_few_labels,
    run_of,
    shown_labels,
    sites_of,
)
from simulation.few_labels_config import CURVE, FewLabelsConfig
from simulation.progress import Display, choose_display
from tests.simulation.test_few_labels_config import few_labels_content

CONFIG = FewLabelsConfig.model_validate(few_labels_content()["few_labels"])


@contextmanager
def quiet() -> Iterator[Display]:
    with choose_display(quiet=True) as display:
        yield display


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("few")


@pytest.fixture(scope="module")
def results(folder: Path) -> list[Result]:
    with quiet() as display:
        return run_few_labels(CONFIG, Path("."), folder, display)


@pytest.fixture(scope="module")
def world(folder: Path, results: list[Result]) -> World:
    return open_world(CONFIG, "films", Path("."), folder / "films")


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


def test_who_takes_part_follows_from_the_method(world: World) -> None:
    for method in CURVE:
        (rows,) = sites_of(world, method)
        assert (world.hospital[rows] == world.unlabelled).any() == (method == "semi")
    assert len(sites_of(world, "federated_lora")) == 1
    assert len(sites_of(world, "federated_semi")) == 2
    assert run_of(CONFIG, world, "head").learning.trainable == "head"
    assert run_of(CONFIG, world, "semi").learning.pseudo_labels.from_round == 2
    assert run_of(CONFIG, world, "lora").learning.pseudo_labels.from_round == 0


def test_every_method_gives_figures_at_every_share(results: list[Result]) -> None:
    assert len(results) == len(plan_of_cells(CONFIG)) + 1  # local comes with federated_lora
    curve = {(r.share, r.method) for r in results if r.method in CURVE}
    assert curve == {(share, method) for share in CONFIG.shares for method in CURVE}
    assert all(0 <= r.auc <= 1 for r in results if r.method != "local")
    assert all(0 <= r.hospital_auc <= 1 for r in results)
    numbers = {r.method: r.numbers for r in results}
    assert numbers["head"] < numbers["lora"] < numbers["all"]
    assert {r.method for r in results if r.pseudo >= 0} == {"semi", "federated_semi", "local"}


def test_what_is_there_is_not_trained_again(
    folder: Path, results: list[Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulation.few_labels.measure", None)
    with quiet() as display:
        assert len(run_few_labels(CONFIG, Path("."), folder, display)) == len(results)
    assert len(read_results(folder / "results.jsonl")) == len(results)


def test_a_folder_of_other_settings_and_an_unknown_hospital_are_refused(
    folder: Path, results: list[Result]
) -> None:
    other = CONFIG.model_copy(update={"rounds": 3})
    with quiet() as display, pytest.raises(ConfigError, match="other settings"):
        run_few_labels(other, Path("."), folder, display)
    cells = {"films": CONFIG.cells["films"].model_copy(update={"unlabelled": "west"})}
    wrong = CONFIG.model_copy(update={"cells": cells})
    with pytest.raises(ConfigError, match="'west' is none of north, south"):
        open_world(wrong, "films", Path("."), folder / "films")
