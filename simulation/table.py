"""A table file: one study written once, and run for every variant, split, fold and model.

A table file has the one key `table`. Its `shared` is a study as in any study file; each entry of
`splits` and of `variants` is laid over it, and `$fold` in a split stands for 0, 1, ... A cell is
one study: a variant under one fold of a split. All models of a cell learn from the same training
images and are judged on the same test images; the scores of a split's folds are pooled.
What crosses a hospital's boundary: nothing; the studies that it makes say what they send.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from mfm_core.config import Part, read_yaml
from mfm_core.errors import ConfigError
from simulation.config import NAME, StudyConfig, expected_sites, read_study
from simulation.grid import SET_BY_GRID, filled, merged
from simulation.one_key import read_one_key

ENTRY = r"^[a-z0-9][a-z0-9_]{0,19}$"
EntryName = Annotated[str, Field(pattern=ENTRY)]
FOLD = "$fold"

ModelKind = Literal[
    "nearest_neighbour",
    "pca_logistic",
    "supervised",
    "shufflenet",
    "pooled",
    "federated",
    "local",
]


class SplitEntry(Part):
    """One way to divide images into training and test."""

    folds: int = Field(1, ge=1, le=20, description="Cells that it makes; 0 to folds - 1 in $fold.")
    leaky: str = Field(
        "", description="Why its figures say too much; stands wherever one of them does."
    )
    study: dict[str, Any] = Field(description="Part of a study, with $fold where it has folds.")


class TableConfig(Part):
    """What is run and what stands in the table."""

    name: str = Field(pattern=NAME, description="Name of the table and of its folder of runs.")
    models: tuple[ModelKind, ...] = Field(
        get_args(ModelKind), min_length=1, description="Rows of the table, in the order run."
    )
    paper: bool = Field(False, description="Set the figures of the paper's Table 1 beside ours.")
    head: ModelKind = Field("federated", description="The model whose classes are listed.")
    replicates: int = Field(
        1000, ge=20, le=10_000, description="Bootstrap replicates by patient of every figure."
    )
    shared: dict[str, Any] = Field(description="Part of a study that every cell starts from.")
    splits: dict[EntryName, SplitEntry] = Field(
        min_length=1, description="Ways to divide the patients; each is run for each variant."
    )
    variants: dict[EntryName, dict[str, Any]] = Field(
        {"plain": {}},
        min_length=1,
        description="Parts of a study to compare, e.g. other weights of the loss.",
    )


@dataclass(frozen=True)
class TableCell:
    """One study of a table.

    Attributes:
        variant: name of the variant.
        split: name of the split.
        fold: number of the fold, 0 where there is one.
        study: what to run; run.name is the cell's full name.
    """

    variant: str
    split: str
    fold: int
    study: StudyConfig

    @property
    def name(self) -> str:
        """The name of the cell's folder, e.g. plain-grouped-fold0."""
        return self.study.run.name


@dataclass(frozen=True)
class TablePlan:
    """A table file that was read without a problem: its settings and its cells in order."""

    config: TableConfig
    cells: tuple[TableCell, ...]

    def part(self, variant: str, split: str) -> list[TableCell]:
        """Return the cells of a variant and split, by fold."""
        return [c for c in self.cells if (c.variant, c.split) == (variant, split)]


def is_table(path: Path) -> bool:
    """Tell whether a file holds a table; raises ConfigError where it cannot be read."""
    return "table" in read_yaml(path)


def load_table(path: Path, settings: Mapping[str, str] | None = None) -> TablePlan:
    """Read a table file, with `--set` values in place, and check every study that it makes.

    Raises:
        ConfigError: every problem of the file, by dotted path.
    """
    config, problems = read_one_key(path, "table", TableConfig, settings)
    if config.head not in config.models:
        problems.append(f"table.head: {config.head} is not among table.models")
    if len(set(config.models)) < len(config.models):
        problems.append("table.models: one stands twice; name every model once")
    cells: list[TableCell] = []
    for variant, above in config.variants.items():
        for split, entry in config.splits.items():
            found, wrong = _cells_of(variant, split, entry, merged(config.shared, above))
            cells += found
            where = f"table.splits.{split}, variant {variant}"
            problems += [f"{where}: {line}" for line in dict.fromkeys(wrong)]
    if problems:
        raise ConfigError(str(path), problems)
    return TablePlan(config, tuple(sorted(cells, key=lambda cell: cell.fold)))


def _cells_of(
    variant: str, split: str, entry: SplitEntry, below: dict[str, Any]
) -> tuple[list[TableCell], list[str]]:
    """Return the cells that one variant and split make, and what is wrong with them."""
    content = merged(below, entry.study)
    if isinstance(run := content.get("run"), Mapping) and "name" in run:
        return [], [f"{SET_BY_GRID}: is set by the table; remove it"]
    marked = FOLD in _texts(entry.study)
    if marked != (entry.folds > 1):
        what = "stands nowhere, so all folds would be one" if entry.folds > 1 else "needs folds > 1"
        return [], [f"{FOLD} {what}"]
    cells: list[TableCell] = []
    problems: list[str] = []
    for fold in range(entry.folds):
        name = "-".join([variant, split, f"fold{fold}"]).replace("_", "-")
        named = merged(filled(content, {FOLD: fold}), {"run": {"name": name}})
        study, wrong = read_study(named)
        problems += wrong
        if study is not None and expected_sites(study) is None:
            problems.append("hospitals: a table needs a rule that says how many there are")
        if study is not None:
            cells.append(TableCell(variant, split, fold, study))
    return cells, problems


def _texts(value: Any) -> set[str]:
    if isinstance(value, Mapping):
        return set().union(*(_texts(part) for part in value.values()))
    return {value} if isinstance(value, str) else set()
