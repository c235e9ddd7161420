"""A table file: every cell is a study, and what is wrong is said by its place in the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from mfm_core.config import read_yaml
from mfm_core.errors import ConfigError
from simulation.config import FoldSplit
from simulation.table import is_table, load_table
from tests.simulation.tables import write_table_file

STUDIES = Path(__file__).parents[2] / "simulation" / "studies"


def test_folds_become_cells_first_folds_first(tmp_path: Path) -> None:
    plan = load_table(write_table_file(tmp_path, variants={"plain": {}, "two_more": {}}))
    names = [cell.name for cell in plan.cells]
    assert names[:2] == ["plain-grouped-fold0", "plain-random-fold0"]
    assert names[-1] == "two-more-grouped-fold1" and len(set(names)) == 6
    folds = [cell.study.split for cell in plan.part("plain", "grouped")]
    assert [split.test_fold for split in folds if isinstance(split, FoldSplit)] == [0, 1]


def test_a_variant_is_laid_over_all_and_a_split_over_the_variant(tmp_path: Path) -> None:
    more = {"run": {"learning": {"objective": {"beta": 0.5}}}}
    plan = load_table(write_table_file(tmp_path, variants={"plain": {}, "kl": more}))
    for cell in plan.cells:
        expected = 0.5 if cell.variant == "kl" else 0.03
        assert cell.study.run.learning.objective.beta == expected
    (random,) = plan.part("kl", "random")
    assert random.study.split.kind == "fractions"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head": "federated", "models": ["pooled"]}, "table.head: federated is not among"),
        ({"models": ["pooled", "pooled"], "head": "pooled"}, "one stands twice"),
        ({"splits": {"a": {"folds": 2, "study": {}}}}, r"\$fold stands nowhere"),
        (
            {"splits": {"a": {"study": {"split": {"kind": "folds", "test_fold": "$fold"}}}}},
            "needs folds > 1",
        ),
        ({"variants": {"a": {"run": {"name": "b"}}}}, "run.name: is set by the table"),
        ({"variants": {"a": {"run": {"rounds": 0}}}}, "run.rounds"),
        ({"models": ["perceptron"]}, "table.models"),
        (
            {"variants": {"a": {"hospitals": {"kind": "column", "column": "scanner"}}}},
            "Extra|unknown key|says how many",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_table(write_table_file(tmp_path, **change))


@pytest.mark.parametrize(("name", "cells"), [("table1", 5), ("reconstruction", 7)])
def test_the_shipped_tables_can_be_read(name: str, cells: int) -> None:
    path = STUDIES / f"{name}.yaml"
    assert is_table(path) and len(load_table(path).cells) == cells
    assert load_table(path, {"table.shared.run.rounds": "1"}).cells[0].study.run.rounds == 1


def test_the_random_split_is_flagged_where_images_are_the_patients() -> None:
    splits = read_yaml(STUDIES / "table1.yaml")["table"]["splits"]
    for entry in splits.values():
        by_image = "source" in entry["study"]
        assert bool(entry.get("leaky")) == by_image
