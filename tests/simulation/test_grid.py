"""Grid files: every study they make, every problem at once, marks and merging."""

import copy
from pathlib import Path

import pytest
import yaml

from mfm_core.errors import ConfigError
from simulation.config import PhantomSource
from simulation.grid import filled, is_grid, load_grid, merged
from simulation.hospitals import study_hash
from tests.simulation.grids import tiny_grid, write_grid
from tests.simulation.samples import write_study

STUDIES = Path(__file__).parents[2] / "simulation" / "studies"


def refused(folder: Path, content: dict) -> str:
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_grid(path)
    return "\n".join(caught.value.problems)


def test_every_coupling_and_seed_becomes_a_study_of_its_own(tmp_path: Path) -> None:
    grid = load_grid(write_grid(tmp_path))
    names = ["phi0-seed0", "phi0-seed1", "phi60-seed0", "phi60-seed1"]
    assert [cell.name for cell in grid.cells] == [f"phantoms-{name}" for name in names]
    assert len({study_hash(cell.study) for cell in grid.cells}) == 4
    for cell in grid.cells:
        source = cell.study.source
        assert isinstance(source, PhantomSource)
        assert (source.phantoms.seed, cell.study.run.seed) == (cell.seed, cell.seed)
        planted = [hospital.couplings[0].phi for hospital in source.phantoms.hospitals]
        assert planted == [cell.phi, cell.phi, -(cell.phi or 0.0)]


def test_a_cell_without_phi_is_run_once_a_seed(tmp_path: Path) -> None:
    content = tiny_grid()
    plain = copy.deepcopy(content["grid"]["cells"]["phantoms"])
    for hospital in plain["source"]["phantoms"]["hospitals"]:
        hospital["couplings"] = []
    content["grid"]["cells"]["plain"] = plain
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    cells = [cell for cell in load_grid(tmp_path / "g.yaml").cells if cell.group == "plain"]
    assert [(cell.name, cell.phi) for cell in cells] == [
        ("plain-seed0", None),
        ("plain-seed1", None),
    ]


def test_a_cell_added_later_changes_no_other_cell(tmp_path: Path) -> None:
    before = {c.name: study_hash(c.study) for c in load_grid(write_grid(tmp_path)).cells}
    path = write_grid(tmp_path, seeds=[0, 1, 2], couplings=[0, 0.3, 0.6], methods=["erm", "lda"])
    after = {cell.name: study_hash(cell.study) for cell in load_grid(path).cells}
    assert len(after) == 9
    assert before.items() <= after.items()


def test_every_problem_of_a_grid_is_told_at_once_by_its_path(tmp_path: Path) -> None:
    content = tiny_grid(seeds=[1, 1])
    content["other"] = 1
    cells = content["grid"]["cells"]
    cells["second"] = copy.deepcopy(cells["phantoms"])
    cells["third"] = copy.deepcopy(cells["phantoms"])
    cells["phantoms"]["run"] = {"rounds": 0, "name": "mine"}
    cells["second"]["run"] = {"rounds": -1}
    cells["second"]["held_out"] = []
    cells["third"]["min_images"] = "$seeed"
    found = refused(tmp_path, content)
    for part in (
        "other: stands beside grid",
        "grid.seeds: a value stands twice",
        "grid.cells.phantoms: run.name: is set by the grid",
        "grid.cells.second: run.rounds",
        "grid.cells.third: $seeed is unknown",
    ):
        assert part in found, found
    assert found.count("grid.cells.second: run.rounds") == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"attribute": "sex"}, "has no 'sex'"),
        ({"methods": ["erm", "magic"]}, "grid.methods.1"),
        ({"couplings": []}, "grid.couplings is empty"),
        ({"couplings": [0.3, 0.301]}, "grid.couplings: a value stands twice"),
        ({"couplings": [1.2]}, "grid.couplings.0"),
        ({"cells": {"Bad Name": {}}}, "grid.cells"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, change: dict, told: str) -> None:
    assert told in refused(tmp_path, tiny_grid(**change))


@pytest.mark.parametrize("run", [None, "hello", [1]])
def test_a_run_that_holds_no_keys_is_refused(tmp_path: Path, run: object) -> None:
    content = tiny_grid()
    content["grid"]["cells"]["phantoms"]["run"] = run
    expected = f"grid.cells.phantoms: run: expected keys and values, found {run!r}"
    assert expected in refused(tmp_path, content)


def test_a_grid_needs_a_seed_a_hospital_to_test_on_and_two_values(tmp_path: Path) -> None:
    content = tiny_grid()
    content["grid"]["shared"]["run"]["ontology"]["attributes"]["view"] = ["AP", "PA", "lateral"]
    content["grid"]["cells"]["phantoms"]["held_out"] = []
    found = refused(tmp_path, content)
    assert "has 3 values" in found and "held_out: is empty" in found
    plain = tiny_grid()
    plain["grid"]["shared"]["run"]["seed"] = 1
    plain["grid"]["cells"]["phantoms"]["source"]["phantoms"]["seed"] = 1
    assert "$seed stands nowhere" in refused(tmp_path, plain)


def test_settings_from_the_command_line_reach_every_cell(tmp_path: Path) -> None:
    settings = {"grid.seeds": "[7]", "grid.shared.run.rounds": "3"}
    cells = load_grid(write_grid(tmp_path), settings).cells
    assert {(cell.seed, cell.study.run.rounds) for cell in cells} == {(7, 3)}


def test_a_grid_is_told_from_a_study(tmp_path: Path) -> None:
    assert is_grid(write_grid(tmp_path))
    assert not is_grid(write_study(tmp_path))
    with pytest.raises(ConfigError, match="cannot be read"):
        is_grid(tmp_path / "absent.yaml")


def test_merging_goes_into_mappings_and_replaces_the_rest() -> None:
    below = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert merged(below, {"a": {"y": [3]}, "c": 2}) == {"a": {"x": 1, "y": [3]}, "b": 1, "c": 2}
    assert merged(below, {"a": 5}) == {"a": 5, "b": 1}
    assert below == {"a": {"x": 1, "y": [1, 2]}, "b": 1}


def test_marks_are_whole_texts_only() -> None:
    content = {"a": ["$seed", "x$seed"], "b": "-$phi", "c": 3}
    assert filled(content, {"$seed": 4, "-$phi": -0.5}) == {"a": [4, "x$seed"], "b": -0.5, "c": 3}


def test_the_shipped_grid_is_what_the_design_asks_for() -> None:
    grid = load_grid(STUDIES / "bias.yaml")
    assert grid.config.seeds == (0, 1, 2, 3, 4)
    assert grid.config.replicates == 1000
    asked = {"erm", "random_alpha_marginal", "random_alpha", "leace", "reweighting"}
    assert asked <= set(grid.config.methods)
    assert {cell.phi for cell in grid.cells if cell.group == "phantoms"} == {0, 0.3, 0.6, 0.9}
    tested = {cell.group: cell.study.held_out for cell in grid.cells if cell.phi is None}
    assert tested == {"lowres_to_nih": ("nih",), "nih_to_lowres": ("lowres",)}
