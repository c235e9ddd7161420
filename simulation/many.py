"""Files that hold many studies: which of them a file is, and how it is run and checked.

A file with the one key `grid` or `table` holds many; every other one is a single study.
What crosses a hospital's boundary: nothing here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfm_core.errors import DataError
from simulation.config import StudyConfig
from simulation.grid import is_grid, load_grid
from simulation.table import is_table, load_table

if TYPE_CHECKING:  # it loads torch, which the check of a wrong file need not wait for
    from simulation.study import Place


@dataclass(frozen=True)
class Checked:
    """What the check of a file found: content for --json, and hospitals of its studies."""

    content: dict[str, Any]
    cells: list[tuple[StudyConfig, list[dict[str, Any]]]]


def is_many(path: Path) -> bool:
    """Tell whether a file holds many studies; raises ConfigError where it cannot be read."""
    return is_grid(path) or is_table(path)


def run_many(
    path: Path, changes: Mapping[str, str], place: Place, *, quiet: bool
) -> tuple[dict[str, Any], str]:
    """Run a grid or table; return its content and what to print.

    Args:
        path: of the file.
        changes: values of --set.
        place: images, folder of the file's own folder, and how its studies run.
        quiet: show no progress.
    """
    from simulation.bias_study import run_grid
    from simulation.progress import choose_display
    from simulation.table_study import run_table

    with choose_display(quiet=quiet) as display:
        if is_grid(path):
            grid = load_grid(path, changes)
            place = place.below(grid.config.name)
            content = run_grid(grid, place, display)
        else:
            plan = load_table(path, changes)
            place = place.below(plan.config.name)
            content = run_table(plan, place, display)
    words = (place.folder / "table.md").read_text(encoding="utf-8")
    return content, f"{words}\nTables and figure: {place.folder}"


def check_many(path: Path, data: Path, changes: Mapping[str, str]) -> Checked:
    """Check every study of a grid or table, and the images of one cell of each kind.

    Of a grid that is each cell's first seed, of a table each split's first cell.

    Raises:
        ConfigError: the file is wrong; all its problems.
        DataError: what is wrong with the images or hospitals of these cells, all at once.
    """
    if is_grid(path):
        grid = load_grid(path, changes)
        kind, name, cells = "grid", grid.config.name, {c.name: c.study for c in grid.cells}
        chosen = [cell.name for cell in grid.cells if cell.seed == grid.config.seeds[0]]
    else:
        plan = load_table(path, changes)
        kind, name, cells = "table", plan.config.name, {c.name: c.study for c in plan.cells}
        first = next(iter(plan.config.variants))
        chosen = [c.name for c in plan.cells if c.fold == 0 and c.variant == first]
    found = _describe({key: cells[key] for key in chosen}, data, kind)
    content = {kind: name, "cells": len(cells), "checked": found}
    return Checked(content, [(cells[key], hospitals) for key, hospitals in found.items()])


def _describe(
    studies: Mapping[str, StudyConfig], data: Path, subject: str
) -> dict[str, list[dict[str, object]]]:
    """Return the hospitals of each study, held-out ones too; trains nothing."""
    from simulation.hospitals import HELD_OUT, SITES, describe_hospitals, prepare

    found: dict[str, list[dict[str, object]]] = {}
    problems: list[str] = []
    for name, study in studies.items():
        with tempfile.TemporaryDirectory(prefix="mfm-check-") as folder:
            try:
                prepare(study, data, Path(folder))
            except DataError as error:
                problems += [f"{name}: {error.subject}: {line}" for line in error.problems]
                continue
            rows = [describe_hospitals(study, Path(folder), kind) for kind in (SITES, HELD_OUT)]
            found[name] = [*rows[0], *rows[1]]
    if problems:
        raise DataError(subject, problems)
    return found
