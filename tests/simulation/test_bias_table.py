"""The summary: means, both intervals, goals, costs against ERM, and files that can be read."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mfm_core.mitigation import METHODS
from simulation.bias_table import (
    GOALS,
    LABELS,
    LOOKS,
    Evidence,
    as_markdown,
    draw_trade,
    spread_of,
    summarise,
    with_costs,
    write_tables,
)
from simulation.grid import GridConfig

REPLICATES = 200


def row(value: float, spread: float = 0.01, seed: int = 0) -> np.ndarray:
    drawn = value + spread * np.random.default_rng(seed).standard_normal(REPLICATES)
    return np.r_[value, drawn]


def figures(trained: float, turned: float, probe: float = 0.5, gap: float = 0.0) -> dict:
    names = {"as_trained": trained, "reversed": turned, "difference": trained - turned}
    names |= {"matched_difference": trained - turned, "gap": gap, "seen.linear.across": probe}
    return {name: row(value) for name, value in names.items()}


def evidence(seed: int, phi: float | None = 0.9, group: str = "phantoms") -> Evidence:
    shift = 0.01 * seed
    heads = {
        "released": figures(0.9 + shift, 0.5 + shift, 0.97, 0.1),
        "erm": figures(0.9 + shift, 0.5 + shift, 0.97, 0.1),
        "leace": figures(0.8 + shift, 0.79 + shift, 0.53, -0.01),
    }
    return Evidence(group, phi, seed, ("AP", "PA"), heads)


def config(**more: object) -> GridConfig:
    content = {"name": "g", "seeds": [0, 1, 2], "methods": ["erm", "leace"], "attribute": "view"}
    return GridConfig.model_validate({**content, "cells": {"phantoms": {}}, **more})


def test_a_spread_has_students_interval_over_seeds_and_the_bootstraps() -> None:
    spread = spread_of([row(value, 0.02, seed) for seed, value in enumerate((0.7, 0.8, 0.9))])
    assert spread is not None
    assert (spread.mean, spread.seeds) == (pytest.approx(0.8), 3)
    half = 4.302653 * 0.1 / np.sqrt(3)
    assert spread.t_low == pytest.approx(0.8 - half, abs=1e-5)
    assert spread.t_high == pytest.approx(0.8 + half, abs=1e-5)
    assert spread.low is not None and spread.high is not None
    assert spread.high - spread.low == pytest.approx(2 * 1.96 * 0.02 / np.sqrt(3), rel=0.2)


def test_chance_is_the_distance_that_few_test_patients_give_by_themselves() -> None:
    """The mean of |N(0, 0.02)| is 0.016, wherever the figure lies."""
    spread = spread_of([row(value, 0.02, seed) for seed, value in enumerate((0.7, 0.8, 0.9))])
    assert spread is not None and spread.chance == pytest.approx(0.016, abs=0.002)
    assert spread_of([np.array([0.7])]).chance is None  # type: ignore[union-attr]  # one value


def test_a_gap_is_held_against_that_without_a_coupling() -> None:
    """Of the same seed and method; without a phi 0 cell there is nothing to hold it against."""
    plain = evidence(0, 0.0)
    plain.figures["erm"]["gap"] = row(0.04)  # type: ignore[index]  # built as a dict
    rows = summarise([plain, evidence(0, 0.9), evidence(1, 0.6)], ("erm", "leace"))
    found = {(each.phi, each.method): each.figures for each in rows}
    assert found[0.9, "erm"]["gap_beyond"].mean == pytest.approx(0.1 - 0.04)
    assert found[0.9, "leace"]["gap_beyond"].mean == pytest.approx(0.0)
    assert "gap_beyond" not in found[0.0, "erm"] and "gap_beyond" not in found[0.6, "erm"]


def test_one_seed_has_no_interval_over_seeds_and_no_value_no_spread() -> None:
    alone = spread_of([row(0.7)])
    assert alone is not None and alone.t_low is None and alone.low is not None
    unknown = np.full(REPLICATES + 1, np.nan)
    assert spread_of([unknown]) is None
    both = spread_of([unknown, row(0.7)])
    assert both is not None and (both.mean, both.seeds) == (0.7, 1)


def test_costs_and_gains_are_paired_with_erm_of_the_same_cell() -> None:
    complete = with_costs(evidence(0))
    assert complete["leace"]["cost"][0] == pytest.approx(0.1)
    assert complete["leace"]["gain"][0] == pytest.approx(0.29)
    assert not complete["erm"]["cost"].any()
    assert np.ptp(complete["leace"]["cost"][1:]) < 1e-9  # the same draws in both
    bare = Evidence("g", None, 0, ("AP", "PA"), {"leace": figures(0.8, 0.8)})
    assert "cost" not in with_costs(bare)["leace"]


def test_settings_are_not_mixed_and_goals_are_judged_by_the_mean() -> None:
    told = [evidence(seed) for seed in range(3)] + [evidence(0, None, "real")]
    rows = summarise(told, ("erm", "leace"))
    settings = [("phantoms", 0.9), ("phantoms", 0.9), ("real", None), ("real", None)]
    assert [(one.group, one.phi) for one in rows] == settings
    assert rows[0].figures["as_trained"].mean == pytest.approx(0.91)
    assert rows[2].figures["as_trained"].seeds == 1
    assert set(rows[1].goals.values()) == {True}
    assert set(rows[0].goals.values()) == {False}


@pytest.mark.parametrize(
    ("figure", "inside", "outside"),
    [
        ("difference", (-0.03, 0.03), (-0.031, 0.031)),
        ("matched_difference", (-0.03, 0.03), (-0.031, 0.031)),
        ("seen.linear.across", (0.45, 0.55), (0.44, 0.56)),
        ("gap", (-0.02, 0.02), (-0.021, 0.021)),
    ],
)
def test_goals_have_the_limits_of_the_design_on_both_sides(
    figure: str, inside: tuple[float, ...], outside: tuple[float, ...]
) -> None:
    (goal,) = [goal for goal in GOALS if goal.figure == figure]
    assert all(goal.met([value]) for value in inside)
    assert not any(goal.met([value]) for value in outside)


def test_seeds_that_miss_on_both_sides_do_not_make_up_for_each_other() -> None:
    """The signed mean of +0.1 and -0.1 is 0; the goal is missed by 0.1 in each seed."""
    told = []
    for seed, shift in enumerate((0.1, -0.1)):
        found = {**figures(0.9, 0.9 - shift), "difference": row(shift)}
        told.append(Evidence("g", 0.9, seed, ("AP", "PA"), {"erm": found}))
    (only,) = summarise(told, ("erm",))
    assert only.figures["difference"].mean == pytest.approx(0.0)
    assert not only.goals["AUC as trained - reversed"]
    assert r"\|0.100\|" in as_markdown([only], config())


def test_a_figure_that_is_not_defined_meets_no_goal() -> None:
    told = Evidence("g", None, 0, ("AP", "PA"), {"erm": {"as_trained": row(0.9)}})
    (only,) = summarise([told], ("erm",))
    assert not any(only.goals.values())
    assert "| - |" in as_markdown([only], config())


def test_every_method_has_a_look_and_a_label_of_its_own() -> None:
    assert set(LOOKS) == set(LABELS) == {"released", *METHODS}
    assert len(set(LOOKS.values())) == len(LOOKS)


def test_the_files_hold_the_same_figures(tmp_path: Path) -> None:
    content = write_tables(tmp_path, config(), [evidence(seed) for seed in range(3)])
    assert json.loads((tmp_path / "table.json").read_text(encoding="utf-8")) == content
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "## phantoms, phi 0.90" in text
    assert text.count("| leace | 0.810 ±") == 1
    assert "yes yes yes yes" in text and "no no no no" in text
    assert content["rows"][2]["figures"]["cost"]["mean"] == pytest.approx(0.1)
    assert {path.name for path in tmp_path.iterdir()} == {
        "table.md",
        "table.json",
        "as_trained_reversed.png",
    }


def test_the_picture_shows_every_setting_and_every_methods_colour() -> None:
    told = [evidence(0, phi) for phi in (0.0, 0.3, 0.9)]
    small = Image.open(io.BytesIO(draw_trade(summarise(told[:1], ("erm", "leace")))))
    large = Image.open(io.BytesIO(draw_trade(summarise(told, ("erm", "leace")))))
    assert large.height > 1.5 * small.height
    pixels = np.asarray(large.convert("RGB")).reshape(-1, 3).astype(int)
    for method in ("erm", "leace"):
        colour = [int(LOOKS[method][0][i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(pixels - colour).max(axis=1) < 24).sum() > 100
