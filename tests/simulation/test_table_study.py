"""Running a table: cheap models of all cells first, nothing twice, pages after each model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mfm_core.errors import ConfigError
from simulation import table_study
from simulation.many import check_many
from simulation.progress import SilentDisplay
from simulation.study import Place
from simulation.table import load_table
from simulation.table_models import ScoreJob
from simulation.table_study import run_table
from tests.simulation.tables import small_table, write_table_file


def test_a_table_is_run_once_written_and_goes_on_with_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def here(jobs: list[ScoreJob], workers: int, display: object) -> None:
        for job in jobs:
            job.result.parent.mkdir(exist_ok=True)
            job.compute()
            ran.append(f"{job.kind} {job.folder.name}")

    monkeypatch.setattr(table_study, "run_jobs", here)
    cheap = {"models": ["nearest_neighbour"], "head": "nearest_neighbour", "paper": True}
    plan = small_table(tmp_path, **cheap)
    place = Place(tmp_path / "data", tmp_path / "runs")
    content = run_table(plan, place, SilentDisplay())
    assert ran == [f"nearest_neighbour {cell.name}" for cell in plan.cells]
    assert content == json.loads((place.folder / "table.json").read_text(encoding="utf-8"))
    page = (place.folder / "table.md").read_text(encoding="utf-8")
    assert "Split random (LEAKY)" in page and "**Leaky: images are divided.**" in page
    assert (place.folder / "table.png").stat().st_size > 5000
    ran.clear()
    run_table(plan, place, SilentDisplay())
    assert ran == []
    more = load_table(
        write_table_file(tmp_path, **{**cheap, "models": ["nearest_neighbour", "pca_logistic"]})
    )
    run_table(more, place, SilentDisplay())
    assert ran == [f"pca_logistic {cell.name}" for cell in plan.cells]
    other = load_table(write_table_file(tmp_path, **cheap), {"table.shared.run.seed": "5"})
    with pytest.raises(ConfigError, match="holds another study"):
        run_table(other, place, SilentDisplay())


def test_a_table_federates_in_this_process_where_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        table_study, "run_jobs", lambda jobs, _workers, _display: [job.compute() for job in jobs]
    )
    plan = small_table(tmp_path, models=["federated"], head="federated")
    where = Place(tmp_path / "data", tmp_path / "runs", one_process=True)
    content = run_table(plan, where, SilentDisplay())
    for cell in plan.cells:
        place = where.folder / cell.name
        assert (place / "final.safetensors").is_file() and not (place / "engine.json").exists()
    assert content["missing"] == []


def test_the_check_shows_the_hospitals_of_every_split(tmp_path: Path) -> None:
    small_table(tmp_path)
    found = check_many(tmp_path / "table.yaml", tmp_path / "data", {}).content["checked"]
    assert set(found) == {"plain-grouped-fold0", "plain-random-fold0"}
    assert all(len(hospitals) == 2 for hospitals in found.values())
