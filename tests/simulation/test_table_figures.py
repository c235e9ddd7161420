"""Figures of a table: folds pooled once each, sites against their own models, goals in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulation.table import TablePlan
from simulation.table_figures import PAPER, Finished, SiteRow, goals_of, missing
from simulation.table_models import ScoreJob
from tests.simulation.tables import prepare_cell, small_table

CHEAP = {"models": ["nearest_neighbour"], "head": "nearest_neighbour"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TablePlan]:
    """All three cells with the nearest neighbour."""
    folder = tmp_path_factory.mktemp("table")
    plan = small_table(folder, **CHEAP)
    for cell in plan.cells:
        ScoreJob(prepare_cell(cell, folder), "nearest_neighbour").compute()
    return folder / "runs" / "small", plan


def test_folds_are_pooled_so_that_every_image_counts_once(finished: tuple[Path, TablePlan]) -> None:
    folder, plan = finished
    (grouped,) = Finished(folder, plan).rows("plain", "grouped")
    (random,) = Finished(folder, plan).rows("plain", "random")
    assert (grouped.folds, grouped.of, random.folds) == (2, 2, 1)
    assert grouped.metrics.macro_auc.n == 120 and 20 <= random.metrics.macro_auc.n <= 28
    assert grouped.to_dict()["ssim"] is None and grouped.to_dict()["macro_auc"]["n"] == 120


def test_what_is_not_finished_is_left_out_and_named(finished: tuple[Path, TablePlan]) -> None:
    folder, plan = finished
    assert missing(folder, plan) == []
    result = folder / "plain-grouped-fold1" / "scores" / "nearest_neighbour.json"
    content = result.read_bytes()
    result.unlink()
    try:
        (grouped,) = Finished(folder, plan).rows("plain", "grouped")
        assert (grouped.folds, grouped.of) == (1, 2) and grouped.metrics.macro_auc.n < 120
        assert missing(folder, plan) == ["plain-grouped-fold1: nearest_neighbour"]
    finally:
        result.write_bytes(content)


def site(alone: float | None, kept: float | None) -> SiteRow:
    return SiteRow("cell", "north", 10, alone, kept, kept, True, "why")


def test_goals_are_judged_by_the_worst_hospital_and_only_where_measured(tmp_path: Path) -> None:
    plan = small_table(tmp_path, paper=True)
    worst = goals_of(plan.config, [], [site(0.9, 0.95), site(0.9, 0.85), site(None, 0.5)])
    assert worst[-1].startswith("missed") and "1 of 2 beyond" in worst[-1]
    assert goals_of(plan.config, [], [site(0.9, 0.895)])[-1].startswith("met")
    assert all(line.startswith("not measured") for line in goals_of(plan.config, [], []))
    assert goals_of(small_table(tmp_path).config, [], []) == []


def test_the_papers_rows_are_its_own() -> None:
    """Checked against the printed table: 15 classes, shares that add to one, their means."""
    values = np.array(list(PAPER.values()))
    assert values.shape == (15, 4)
    assert values[:, 3].sum() == pytest.approx(1.0, abs=2e-3)
    assert values[:, 0].mean() == pytest.approx(0.99977, abs=1e-5)
    assert np.isclose(values[:, 2].min(), 0.9412)
