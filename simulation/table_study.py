"""Runs the cells of a table, model by model; what is finished is not run again.

Cheap models of all cells come first, in the order of the file, so that a table that was cut off
holds as much as it can. Every cell is an ordinary run folder below OUT/<table>; its federation
runs on Flower's engine with the real server and client apps and goes on from its last round.
What crosses a hospital's boundary: in the federations what a study sends.
"""

from __future__ import annotations

from typing import Any

from simulation.config import expected_sites
from simulation.hospitals import prepare
from simulation.jobs import run_jobs
from simulation.progress import Display, Step
from simulation.runner import RunFolder, hold
from simulation.study import Place, count_workers, empty, federate
from simulation.table import ModelKind, TableCell, TablePlan
from simulation.table_models import jobs_of
from simulation.table_page import write_table


def run_table(plan: TablePlan, place: Place, display: Display) -> dict[str, Any]:
    """Run what is not finished and return the content of table.json.

    The table is written anew each time all cells have a model, from what is finished then.

    Raises:
        ConfigError: a run folder belongs to another study. DataError: images cannot be used.
        RunFailed: a federation or a model ended without a result.
    """
    cells, config = plan.cells, plan.config
    for index, cell in enumerate(cells):
        display.show(Step("cells", index, len(cells), cell.name))
        _prepare(cell, place)
    display.show(Step("cells", len(cells), len(cells)))
    content: dict[str, Any] = {}
    for kind in config.models:
        for cell in cells:
            _run_model(cell, place, kind, display)
        content = write_table(place.folder, plan)
    return content


def _prepare(cell: TableCell, place: Place) -> None:
    folder = place.folder / cell.name
    with hold(folder):
        if place.fresh:
            empty(folder)
        prepare(cell.study, place.data, folder)


def _run_model(cell: TableCell, place: Place, kind: ModelKind, display: Display) -> None:
    folder, sites = place.folder / cell.name, expected_sites(cell.study) or 1
    jobs = jobs_of(cell, folder, kind, sites)
    if all(job.result.is_file() for job in jobs):
        return
    with hold(folder):
        run = RunFolder(folder)
        if kind == "federated" and not run.finished:
            federate(cell.study, run, sites, display, one_process=place.one_process)
        run_jobs(jobs, count_workers(cell.study, len(jobs)), display)
