"""Labels are hidden as promised, every method ends in figures, nothing is trained twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mfm_core.errors import ConfigError, DataError
from simulation.few_labels import (
    Result,
    as_json_values,
    part_right,
    plan_of_cells,
    read_results,
    run_few_labels,
    run_of,
    sites_of,
    sums_of,
)
from simulation.few_labels_config import CURVE, FewLabelsConfig
from simulation.few_labels_world import World, open_world, shown_labels
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


def test_who_takes_part_follows_from_the_method(world: World) -> None:
    for method in CURVE:
        (rows,) = sites_of(world, method)
        assert (world.hospital[rows] == world.unlabelled).any() == (method == "semi")
    assert len(sites_of(world, "federated")) == 1
    assert len(sites_of(world, "federated_semi")) == 2
    assert run_of(CONFIG, world, "head").learning.trainable == "head"
    assert run_of(CONFIG, world, "semi").learning.pseudo_labels.from_round == 2
    assert run_of(CONFIG, world, "lora").learning.pseudo_labels.from_round == 0


def test_class_sums_of_a_hospital_keep_to_its_smallest_cell(world: World) -> None:
    shown, train = shown_labels(world, 1.0, 0), world.everything.select("train")
    images = world.everything
    one = sums_of(replace(world, smallest=1), world.model, shown, train)["class.count"]
    known = train[shown[train] >= 0]
    people = [len(np.unique(images.patients[known[shown[known] == k]])) for k in range(len(one))]
    assert one.tolist() == people  # south shows no label, so all are of one hospital
    smallest = max(people)
    some = sums_of(replace(world, smallest=smallest), world.model, shown, train)["class.count"]
    assert some.tolist() == [count if count >= smallest else 0 for count in people]
    none = sums_of(replace(world, smallest=smallest + 1), world.model, shown, train)
    assert not none["class.sum"].any() and not none["second_moment"].any()


def test_every_method_gives_figures_at_every_share(results: list[Result]) -> None:
    assert len(results) == len(plan_of_cells(CONFIG)) + 2  # own heads come with the federated_lora
    curve = {(r.share, r.method) for r in results if r.method in CURVE}
    assert curve == {(share, method) for share in CONFIG.shares for method in CURVE}
    assert all(0 <= r.auc <= 1 for r in results if r.method not in ("local", "both"))
    assert all(0 <= r.hospital_auc <= 1 for r in results)
    assert all(0 < r.patients <= r.labelled and r.hospital_tested < r.tested for r in results)
    numbers = {r.method: r.numbers for r in results}
    assert numbers["head"] < numbers["lora"] < numbers["all"]
    assert {r.method for r in results if r.pseudo >= 0} == {
        "semi",
        "federated_semi",
        "local",
        "both",
    }


def test_what_nobody_knows_is_no_number() -> None:
    given, true = np.array([0, 1, 1]), np.array([0, 0, -1])
    assert part_right(given, true) == 0.5
    assert part_right(given[2:], true[2:]) is None
    found = Result("films", 1, "local", 0.1, 10, float("nan"), 0.5)
    assert as_json_values(found)["auc"] is None and as_json_values(found)["hospital_auc"] == 0.5


def test_what_is_there_is_not_trained_again(
    folder: Path, results: list[Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulation.few_labels.measure", None)
    with quiet() as display:
        assert len(run_few_labels(CONFIG, Path("."), folder, display)) == len(results)
    assert len(read_results(folder / "results.jsonl")) == len(results)


def test_a_second_data_set_that_is_missing_ends_the_study_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulation.few_labels.measure", None)
    study = CONFIG.cells["films"].study | {"source": {"kind": "folder", "data": {"root": "gone"}}}
    cells = {**CONFIG.cells, "more": CONFIG.cells["films"].model_copy(update={"study": study})}
    two = CONFIG.model_copy(update={"cells": cells})
    with quiet() as display, pytest.raises(DataError, match="more: "):
        run_few_labels(two, tmp_path, tmp_path, display)
    assert not list(tmp_path.rglob("pretrained*"))


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
