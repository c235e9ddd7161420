"""Grids: finished cells are not run again, damaged ones are; from a grid file to its tables."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mfm_core.atlas import atlas_from, save_atlas
from mfm_core.autoencoder import build_autoencoder
from mfm_core.checkpoint import encoder_hash, save_model
from mfm_core.config import canonical_hash
from mfm_core.errors import ConfigError, DataError, RunFailed
from mfm_core.latent_sums import latent_sum
from simulation import bias_judge, bias_study
from simulation.__main__ import call
from simulation.bias_study import (
    CellDisplay,
    is_damaged,
    run_cell,
    run_grid,
)
from simulation.grid import Grid, load_grid
from simulation.hospitals import prepare
from simulation.many import check_many
from simulation.progress import SilentDisplay, Step
from simulation.study import Order, Place
from tests.simulation.grids import tiny_grid, write_grid

FILES = ("results.json", "final.safetensors", "atlas.safetensors")


def fake_run(order: Order, _display: object) -> dict[str, Any]:
    """Leave in the run folder what a finished study leaves, from an untrained model."""
    if order.fresh and order.folder.exists():
        shutil.rmtree(order.folder)
    prepare(order.study, order.data, order.folder)
    run = order.study.run
    model = build_autoencoder(run.model, run.image, len(run.ontology.classes), run.seed)
    save_model(order.folder / "final.safetensors", model, canonical_hash(run), run.ontology)
    rng = np.random.default_rng(0)
    labels, views = rng.integers(0, 2, (2, 200))
    mu = rng.standard_normal((200, model.latent_size)).astype(np.float32)
    total = latent_sum(mu, labels, views[:, None], np.arange(200), run.ontology)
    save_atlas(
        order.folder / "atlas.safetensors", atlas_from(total, run.ontology, encoder_hash(model))
    )
    figure = {"value": 0.5, "low": None, "high": None, "n": 1}
    pooled = dict.fromkeys(("macro_auc", "macro_ap", "macro_f1", "ssim"), figure)
    results = {"study": run.name, "pooled": pooled, "baselines": []}
    (order.folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return results


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Names of the cells whose federation was started, and whether anew.

    One process and few probes, so that seconds are enough; the slow test uses everything.
    """
    calls: list[tuple[str, bool]] = []

    def run_study(order: Order, display: object) -> dict[str, Any]:
        calls.append((order.study.run.name, order.fresh))
        return fake_run(order, display)

    monkeypatch.setattr(bias_study, "run_study", run_study)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(bias_judge, "SEEN_PROBES", (("linear", "across"),))
    monkeypatch.setattr(bias_judge, "SAID_PROBES", ())
    return calls


def small_grid(tmp_path: Path, **more: Any) -> tuple[Grid, Place]:
    settings = {"seeds": [0], "couplings": [0.6], **more}
    grid = load_grid(write_grid(tmp_path, **settings))
    return grid, Place(tmp_path, tmp_path / "runs").below(grid.config.name)


def test_a_finished_cell_is_not_run_again(tmp_path: Path, ran: list[tuple[str, bool]]) -> None:
    grid, place = small_grid(tmp_path)
    (cell,) = grid.cells
    assert run_cell(cell, place, SilentDisplay())
    assert not run_cell(cell, place, SilentDisplay())
    assert ran == [("phantoms-phi60-seed0", False)]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [cut, os.remove])
def test_a_damaged_cell_is_run_again_from_its_start(
    tmp_path: Path, ran: list[tuple[str, bool]], name: str, damage: Callable[[Path], None]
) -> None:
    grid, place = small_grid(tmp_path)
    (cell,) = grid.cells
    run_cell(cell, place, SilentDisplay())
    damage(place.folder / cell.name / name)
    assert run_cell(cell, place, SilentDisplay())
    unfinished = name == "results.json" and damage is os.remove
    assert ran[1] == (cell.name, not unfinished)  # without results a study goes on, not anew
    assert not is_damaged(place.folder / cell.name)


def test_a_cell_that_was_changed_is_refused_and_not_thrown_away(
    tmp_path: Path, ran: list[tuple[str, bool]]
) -> None:
    grid, place = small_grid(tmp_path)
    run_cell(grid.cells[0], place, SilentDisplay())
    content = tiny_grid()["grid"]["shared"]
    content["run"]["rounds"] = 3
    other, there = small_grid(tmp_path, shared=content)
    with pytest.raises(ConfigError, match="holds another study"):
        run_cell(other.cells[0], there, SilentDisplay())
    assert len(ran) == 1


def test_a_grid_goes_on_with_what_is_missing(tmp_path: Path, ran: list[tuple[str, bool]]) -> None:
    """One seed more and one method more: one federation more, and only new evidence."""
    first = run_grid(*small_grid(tmp_path), SilentDisplay())
    folder = tmp_path / "runs" / "small"
    old = folder / "phantoms-phi60-seed0" / "evidence" / "leace.safetensors"
    time = old.stat().st_mtime_ns
    more = small_grid(tmp_path, seeds=[0, 1], methods=["erm", "leace", "lda"])
    second = run_grid(*more, SilentDisplay())
    assert ran == [("phantoms-phi60-seed0", False), ("phantoms-phi60-seed1", False)]
    assert old.stat().st_mtime_ns == time
    assert [row["method"] for row in first["rows"]] == ["released", "erm", "leace"]
    assert [row["method"] for row in second["rows"]] == ["released", "erm", "leace", "lda"]
    trained = [rows["rows"][0]["figures"]["as_trained"] for rows in (first, second)]
    assert [figure["seeds"] for figure in trained] == [1, 2]
    assert (folder / "table.md").is_file() and (folder / "as_trained_reversed.png").is_file()


def test_a_cell_that_cannot_be_judged_is_named(tmp_path: Path, ran: list[tuple[str, bool]]) -> None:
    grid, place = small_grid(tmp_path)
    (cell,) = grid.cells
    run_cell(cell, place, SilentDisplay())
    (place.folder / cell.name / "study.yaml").unlink()
    with pytest.raises(RunFailed, match=r"evidence of phantoms-phi60-seed0 failed: .*study.yaml"):
        run_grid(grid, place, SilentDisplay())


def test_checking_prepares_the_first_seed_of_every_cell_and_says_all_problems(
    tmp_path: Path,
) -> None:
    found = check_many(write_grid(tmp_path), tmp_path, {}).content["checked"]
    assert list(found) == ["phantoms-phi0-seed0", "phantoms-phi60-seed0"]
    assert [row["name"] for row in found["phantoms-phi0-seed0"]] == ["north", "south", "mirror"]
    content = tiny_grid()["grid"]["cells"]
    content["phantoms"]["held_out"] = ["elsewhere"]
    with pytest.raises(DataError) as caught:
        check_many(write_grid(tmp_path, cells=content), tmp_path, {})
    text = "\n".join(caught.value.problems)
    assert "phantoms-phi0-seed0: hospitals: held_out: no hospital elsewhere" in text
    assert "phantoms-phi60-seed0: hospitals: held_out" in text


def test_check_names_the_file_that_a_cell_cannot_read(tmp_path: Path) -> None:
    cells = tiny_grid()["grid"]["cells"]
    data = {"root": ".", "manifest": "gone.csv"}
    cells["phantoms"]["source"] = {"kind": "folder", "data": data}
    path = write_grid(tmp_path, cells=cells, couplings=[])
    with pytest.raises(DataError) as caught:
        check_many(path, tmp_path, {})
    assert str(tmp_path / "gone.csv") in caught.value.problems[0]


def test_check_tells_the_hospitals_of_a_grid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write_grid(tmp_path, seeds=[0], couplings=[0.6]))
    assert call(["check", path]) == 0
    text = capsys.readouterr().out
    assert "mirror" in text and "1 studies, ready to run" in text
    assert call(["check", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cells"] == 1


def test_a_wrong_grid_is_refused_before_anything_is_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ran: list[tuple[str, bool]]
) -> None:
    path = write_grid(tmp_path, replicates=1, seeds=[])
    assert call(["run", str(path), "--out", str(tmp_path / "runs")]) == 1
    error = capsys.readouterr().err
    assert "grid.replicates" in error and "grid.seeds" in error and "Traceback" not in error
    assert not ran and not (tmp_path / "runs").exists()


class Steps(SilentDisplay):
    def __init__(self) -> None:
        self.seen: list[Step] = []

    def show(self, step: Step) -> None:
        self.seen.append(step)


def test_a_cells_steps_move_the_grid_by_less_than_one_cell() -> None:
    outer = Steps()
    with CellDisplay(outer, 2, 5, "c") as display:
        for step in (
            Step("hospitals", 1, 1),
            Step("federated training", 5, 10),
            Step("federated training", 10, 10),
            Step("explanations", 0, 1),
        ):
            display.show(step)
    done = [step.done for step in outer.seen]
    assert done == sorted(done) and done[0] == 2 and 2.9 < done[-1] < 3
    assert all(step.total == 5 and step.message.startswith("c: ") for step in outer.seen)


@pytest.mark.slow
def test_a_grid_runs_from_its_file_to_its_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(write_grid(tmp_path)), "--out", str(tmp_path / "runs"), "--json"]
    assert call(arguments) == 0
    table = json.loads(capsys.readouterr().out)
    assert len(table["rows"]) == 6
    assert {(row["phi"], row["method"]) for row in table["rows"]} == {
        (phi, method) for phi in (0.0, 0.6) for method in ("released", "erm", "leace")
    }
    assert all(row["figures"]["as_trained"]["seeds"] == 2 for row in table["rows"])
    folder = tmp_path / "runs" / "small"
    finished = {p: p.stat().st_mtime_ns for p in folder.glob("*/server.json")}
    assert len(finished) == 4
    (folder / "phantoms-phi0-seed0" / "evidence" / "erm.safetensors").unlink()
    assert call(arguments) == 0
    assert json.loads(capsys.readouterr().out) == table
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*/server.json")} == finished
