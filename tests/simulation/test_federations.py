"""A comparison: the same hospitals for every method, and the hospitals' own view of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure

from mfm_core.config import read_yaml
from mfm_core.errors import ConfigError
from simulation import federations
from simulation.bias_table import spread_of
from simulation.commands_federations import DEFAULT
from simulation.federations import (
    LOCAL,
    POOLED,
    Row,
    _panel,
    baseline_figures,
    load_comparison,
    rows_of,
    run_comparison,
    sizes_of,
    write_tables,
)
from simulation.progress import SilentDisplay
from simulation.study import Order, Place
from tests.simulation.grids import tiny_grid


def metric(value: float | None) -> dict[str, Any]:
    return {"macro_auc": {"value": value, "n": 1200}, "ssim": {"value": 0.9}}


def results(pooled: float, own: dict[str, float | None], alone: dict[str, float]) -> dict[str, Any]:
    local = [
        {"kind": "local", **metric(0.6), "own": metric(value), "by_site": {}}
        for value in alone.values()
    ]
    everywhere = {name: metric(0.9) for name in alone}
    one = {"kind": "pooled", **metric(0.95), "own": None, "by_site": everywhere}
    sites = {name: metric(value) for name, value in own.items()}
    return {"pooled": metric(pooled), "per_site": sites, "baselines": [*local, one]}


def test_the_shipped_file_varies_the_method_and_nothing_else() -> None:
    config, members = load_comparison(DEFAULT)
    assert len(members) == len(config.cells) * len(config.methods) * len(config.seeds)
    assert len({member.study.run.name for member in members}) == len(members)
    for cell in config.cells:
        for seed in config.seeds:
            mine = [m for m in members if (m.cell, m.seed) == (cell, seed)]
            parts = [m.study.model_dump(exclude={"run", "baselines"}) for m in mine]
            runs = [m.study.run.model_dump(exclude={"name", "aggregation"}) for m in mine]
            assert all(part == parts[0] for part in parts) and all(run == runs[0] for run in runs)
            assert [bool(m.study.baselines.kinds) for m in mine] == [True] + [False] * (
                len(mine) - 1
            )


def test_every_problem_of_a_file_is_named(tmp_path: Path) -> None:
    content = read_yaml(DEFAULT)
    methods = content["comparison"]["methods"]
    methods["own_norms"] = {"aggregation": {"personal": ["norms", "norms"]}}
    methods["fedprox"] = {"aggregation": {"kind": "fedproxy"}}
    content["run"] = {}
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as caught:
        load_comparison(path)
    text = str(caught.value)
    assert "run: stands beside comparison" in text
    assert "brain, own_norms" in text and "chest, fedprox" in text
    path.write_text("comparison: 3\n")
    with pytest.raises(ConfigError, match="comparison"):
        load_comparison(path)


def test_rows_show_the_mean_and_the_worst_hospital(tmp_path: Path) -> None:
    config, members = load_comparison(
        DEFAULT, {"comparison.seeds": "[0, 1]", "comparison.methods": "{fedavg: {}}"}
    )
    own = {seed: {"a": 0.9, "b": 0.7 + seed / 10, "c": None} for seed in config.seeds}
    alone = {"a": 0.5, "b": 0.7}
    found = {(m.cell, m.method, m.seed): results(0.8, own[m.seed], alone) for m in members}
    rows = {row.method: row for row in rows_of(config, found) if row.cell == "brain"}
    assert list(rows) == ["fedavg", LOCAL, POOLED]
    assert rows["fedavg"].figures["mean"].values == pytest.approx((0.8, 0.85))
    assert rows["fedavg"].figures["worst"].values == pytest.approx((0.7, 0.8))
    assert rows[LOCAL].figures["worst"].mean == pytest.approx(0.5)
    assert rows[POOLED].figures["mean"].mean == pytest.approx(0.9)
    table = write_tables(config, tmp_path, rows_of(config, found), sizes_of(config, found))
    text = (tmp_path / "table.md").read_text()
    assert "## brain, macro AUC and SSIM, 2 seeds, 3 hospitals, 1,200 test images" in text
    assert table["sizes"]["chest"] == "3 hospitals, 1,200 test images"
    assert "| fedavg | 0.800 ± 0.000 | 0.825 ± 0.318 | 0.750 ± 0.635 | 0.900 ± 0.000 |" in text
    assert rows[POOLED].gains["mean"].values == pytest.approx((0.1, 0.05))
    assert "| all images in one place | +0.150 ± 0.000 | +0.075 ± 0.318 |" in text
    assert (tmp_path / "comparison.png").stat().st_size > 5000


def test_no_row_of_the_picture_is_cut_off_and_every_seed_is_drawn() -> None:
    spread = spread_of([np.array([0.6]), np.array([0.8])])
    assert spread is not None
    rows = [Row("a", name, {"worst": spread, "mean": spread}, {}) for name in (POOLED, "fedavg")]
    axes = Figure().subplots()
    _panel(axes, rows)
    low, high = axes.get_ylim()
    assert low < -0.3 and high > 1.3
    assert [text.get_text() for text in axes.get_yticklabels()] == [POOLED, "fedavg"]
    assert sum(len(line.get_xdata()) == 2 and line.get_marker() == "|" for line in axes.lines) == 4


def test_what_was_not_measured_is_not_a_number() -> None:
    assert all(np.isnan(value) for value in baseline_figures([], "local").values())


def small_comparison(folder: Path) -> Path:
    grid = tiny_grid()["grid"]
    cell = yaml.safe_load(yaml.safe_dump(grid["cells"]["phantoms"]).replace("$phi", "0.0"))
    for hospital in cell["source"]["phantoms"]["hospitals"]:
        hospital["couplings"] = []
    shared = {**grid["shared"], "baselines": {"kinds": ["local", "pooled"]}}
    content = {
        "name": "small",
        "seeds": [0],
        "methods": {"fedavg": {}, "own_norms": {"aggregation": {"personal": ["norms"]}}},
        "shared": shared,
        "cells": {"phantoms": cell},
    }
    path = folder / "comparison.yaml"
    path.write_text(yaml.safe_dump({"comparison": content}))
    return path


def test_a_comparison_goes_on_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, members = load_comparison(small_comparison(tmp_path))
    place = Place(tmp_path, tmp_path / "runs")
    runs: list[str] = []

    def finish(study: Order, display: object) -> dict[str, Any]:
        runs.append(study.study.run.name)
        return results(0.8, {"a": 0.9}, {"a": 0.5})

    finished = {"phantoms-fedavg-seed0": results(0.7, {"a": 0.9}, {"a": 0.5})}
    known = lambda study: finished.get(study.study.run.name)  # noqa: E731
    monkeypatch.setattr(federations, "finished_results", known)
    monkeypatch.setattr(federations, "run_study", finish)
    place.folder.mkdir()
    table = run_comparison(config, members, place, SilentDisplay())
    assert runs == ["phantoms-own_norms-seed0"]
    assert [row["method"] for row in table["rows"]] == ["fedavg", "own_norms", LOCAL, POOLED]


@pytest.mark.slow
def test_two_methods_really_run_on_the_same_hospitals(tmp_path: Path) -> None:
    config, members = load_comparison(small_comparison(tmp_path))
    place = Place(tmp_path, tmp_path / "runs")
    table = run_comparison(config, members, place, SilentDisplay())
    figures = {row["method"]: row["figures"]["mean"]["mean"] for row in table["rows"]}
    assert set(figures) == {"fedavg", "own_norms", LOCAL, POOLED}
    models = [
        (place.folder / f"phantoms-{name}-seed0" / "final.safetensors").read_bytes()
        for name in ("fedavg", "own_norms")
    ]
    assert models[0] != models[1], "two methods, two models; so few steps may rank images alike"
    assert all(0 <= value <= 1 for value in figures.values())
