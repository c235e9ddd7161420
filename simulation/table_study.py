"""Runs the cells of a table, model by model; what is finished is not run again.

Cheap models of all cells come first, in the order of the file, so that a table that was cut off
holds as much as it can. Every cell is an ordinary run folder below OUT/<table>; its federation
runs on Flower's engine with the real server and client apps and goes on from its last round.
What crosses a hospital's boundary: in the federations what a study sends.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfm_core.errors import DataError
from simulation.config import expected_sites
from simulation.hospitals import describe_hospitals, prepare
from simulation.jobs import run_jobs
from simulation.progress import Display, Step
from simulation.runner import RunFolder, hold
from simulation.study import count_workers, empty, federate
from simulation.table import ModelKind, TableCell, TablePlan
from simulation.table_models import jobs_of
from simulation.table_page import write_table


@dataclass(frozen=True)
class TableOrder:
    """What the researcher asked for; `fresh` and `one_process` as in `simulation.study.Order`."""

    plan: TablePlan
    data: Path
    out: Path
    fresh: bool = False
    one_process: bool = False

    @property
    def folder(self) -> Path:
        """The folder of the table's run folders and figures."""
        return self.out / self.plan.config.name


def run_table(order: TableOrder, display: Display) -> dict[str, Any]:
    """Run what is not finished and return the content of table.json.

    The table is written anew each time all cells have a model, from what is finished then.

    Raises:
        ConfigError: a run folder belongs to another study. DataError: images cannot be used.
        RunFailed: a federation or a model ended without a result.
    """
    cells, config = order.plan.cells, order.plan.config
    for index, cell in enumerate(cells):
        display.show(Step("cells", index, len(cells), cell.name))
        _prepare(cell, order)
    display.show(Step("cells", len(cells), len(cells)))
    content: dict[str, Any] = {}
    for kind in config.models:
        for cell in cells:
            _run_model(cell, order, kind, display)
        content = write_table(order.folder, order.plan)
    return content


def check_table(plan: TablePlan, data: Path) -> dict[str, list[dict[str, object]]]:
    """Return the hospitals of every split's first cell; trains nothing.

    Raises:
        DataError: what is wrong with the images or hospitals of these cells, all at once.
    """
    found: dict[str, list[dict[str, object]]] = {}
    problems: list[str] = []
    first = next(iter(plan.config.variants))
    for cell in plan.cells:
        if cell.fold != 0 or cell.variant != first:
            continue
        with tempfile.TemporaryDirectory(prefix="mfm-check-") as folder:
            try:
                prepare(cell.study, data, Path(folder))
            except DataError as error:
                problems += [f"{cell.name}: {error.subject}: {line}" for line in error.problems]
                continue
            found[cell.name] = describe_hospitals(cell.study, Path(folder))
    if problems:
        raise DataError("table", problems)
    return found


def _prepare(cell: TableCell, order: TableOrder) -> None:
    place = order.folder / cell.name
    with hold(place):
        if order.fresh:
            empty(place)
        prepare(cell.study, order.data, place)


def _run_model(cell: TableCell, order: TableOrder, kind: ModelKind, display: Display) -> None:
    place, sites = order.folder / cell.name, expected_sites(cell.study) or 1
    jobs = jobs_of(cell, place, kind, sites)
    if all(job.result.is_file() for job in jobs):
        return
    with hold(place):
        run = RunFolder(place)
        if kind == "federated" and not run.finished:
            federate(cell.study, run, sites, display, one_process=order.one_process)
        run_jobs(jobs, count_workers(cell.study, len(jobs)), display)
