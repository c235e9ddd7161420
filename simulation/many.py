"""Files that hold many studies: which of them a file is, and how it is run and checked.

A file with the one key `grid` or `table` holds many; every other one is a single study.
What crosses a hospital's boundary: nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulation.config import StudyConfig
from simulation.grid import is_grid, load_grid
from simulation.table import is_table, load_table


@dataclass(frozen=True)
class Checked:
    """What the check of a file found: content for --json, and hospitals of its studies."""

    content: dict[str, Any]
    cells: list[tuple[StudyConfig, list[dict[str, Any]]]]


def is_many(path: Path) -> bool:
    """Tell whether a file holds many studies; raises ConfigError where it cannot be read."""
    return is_grid(path) or is_table(path)


def run_many(
    path: Path, changes: Mapping[str, str], place: tuple[Path, Path, bool, bool], *, quiet: bool
) -> tuple[dict[str, Any], str]:
    """Run a grid or table; return its content and what to print.

    Args:
        path: of the file.
        changes: values of --set.
        place: images, folder of run folders, whether to begin anew, and whether to federate in
            this process.
        quiet: show no progress.
    """
    from simulation.bias_study import GridOrder, run_grid
    from simulation.progress import choose_display
    from simulation.table_study import TableOrder, run_table

    with choose_display(quiet=quiet) as display:
        if is_grid(path):
            grid = GridOrder(load_grid(path, changes), *place)
            folder, content = grid.folder, run_grid(grid, display)
        else:
            table = TableOrder(load_table(path, changes), *place)
            folder, content = table.folder, run_table(table, display)
    words = (folder / "table.md").read_text(encoding="utf-8")
    return content, f"{words}\nTables and figure: {folder}"


def check_many(path: Path, data: Path, changes: Mapping[str, str]) -> Checked:
    """Check every study of a grid or table, and the images of one cell of each kind."""
    from simulation.bias_study import check_cells
    from simulation.table_study import check_table

    found: dict[str, list[dict[str, Any]]]
    if is_grid(path):
        grid = load_grid(path, changes)
        kind, name, cells = "grid", grid.config.name, {c.name: c.study for c in grid.cells}
        found = check_cells(grid, data)
    else:
        table = load_table(path, changes)
        kind, name, cells = "table", table.config.name, {c.name: c.study for c in table.cells}
        found = check_table(table, data)
    content = {kind: name, "cells": len(cells), "checked": found}
    return Checked(content, [(cells[key], hospitals) for key, hospitals in found.items()])
