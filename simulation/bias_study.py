"""Runs a grid of studies and judges every mitigation on hospitals that took no part.

Each cell is an ordinary study with its own run folder below OUT/<grid>: the federation runs on
Flower's engine with the real server and client apps. When all are finished, `bias_judge` measures
them, one process per core. Finished cells and finished methods are not computed again.

What crosses a hospital's boundary: in the federations what a study sends; the judging needs all
images in one place, which only a researcher has.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from mfm_core.atlas import load_atlas
from mfm_core.checkpoint import encoder_hash, load_model
from mfm_core.errors import CheckpointError, MfmError, RunFailed
from simulation.bias_evidence import RELEASED, Figures
from simulation.bias_judge import evidence_key, judge_cell, lacking, read_evidence
from simulation.bias_table import Evidence, write_tables
from simulation.grid import Cell, Grid, GridConfig
from simulation.jobs import start_worker
from simulation.progress import Display, Step
from simulation.study import Order, Place, finished_results, run_study


@dataclass
class CellDisplay:
    """Shows the steps of one cell as part of the whole grid, whose units are cells."""

    display: Display
    index: int
    total: int
    name: str
    _share: float = field(default=0.0)

    def show(self, step: Step) -> None:
        """Show the grid's progress; only the federated training moves it within a cell."""
        if step.phase == "federated training" and step.total > 0:
            self._share = 0.98 * min(step.done / step.total, 1.0)
        text = f"{self.name}: {step.phase} {step.message}".strip()
        self.display.show(Step("cells", self.index + self._share, self.total, text))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the grid's display open."""


def run_grid(grid: Grid, place: Place, display: Display) -> dict[str, Any]:
    """Run what is not finished, judge it, and return the content of table.json.

    Raises:
        ConfigError: a run folder belongs to another study. DataError: images cannot be used.
        RunFailed: a federation or the judging of a cell ended without a result.
    """
    cells, folder = grid.cells, place.folder
    for index, cell in enumerate(cells):
        display.show(Step("cells", index, len(cells), cell.name))
        run_cell(cell, place, CellDisplay(display, index, len(cells), cell.name))
    display.show(Step("cells", len(cells), len(cells)))
    _judge_all(grid.config, [folder / cell.name for cell in cells], display)
    evidence = [_with_evidence(cell, folder / cell.name, grid.config) for cell in cells]
    return write_tables(folder, grid.config, evidence)


def run_cell(cell: Cell, place: Place, display: Display) -> bool:
    """Run a cell's study unless it is finished and whole; return whether anything was run."""
    fresh = place.fresh or is_damaged(place.folder / cell.name)
    study = Order(cell.study, place.data, place.folder, fresh, place.one_process)
    if finished_results(study) is not None:
        return False
    run_study(study, display)
    return True


def is_damaged(folder: Path) -> bool:
    """Tell whether a finished run folder lacks a readable result, model or atlas."""
    path = folder / "results.json"
    if not path.is_file():
        return False
    try:
        json.loads(path.read_text(encoding="utf-8"))["pooled"]
        model, _ = load_model(folder / "final.safetensors")
        load_atlas(folder / "atlas.safetensors", encoder_hash(model))
    except (CheckpointError, OSError, ValueError, KeyError, TypeError):
        return True
    return False


def _with_evidence(cell: Cell, folder: Path, config: GridConfig) -> Evidence:
    key = evidence_key(folder, config)
    found: dict[str, Figures] = {}
    for method in (RELEASED, *config.methods):
        figures = read_evidence(folder, config, method, key)
        if figures is None:
            raise RunFailed(f"{folder}: evidence of {method} is gone; run the grid again")
        found[method] = figures
    values = cell.study.run.ontology.attributes[config.attribute]
    return Evidence(cell.group, cell.phi, cell.seed, (values[0], values[1]), found)


def _try_judging(folder: Path, config: GridConfig) -> str:
    """Judge a cell; return what went wrong as text, because not every error can be pickled."""
    torch.set_num_threads(1)
    try:
        judge_cell(folder, config)
    except MfmError as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
    return ""


def _refuse_failure(folder: Path, problem: str) -> None:
    if problem:
        raise RunFailed(f"evidence of {folder.name} failed: {problem}")


def _judge_all(config: GridConfig, folders: Sequence[Path], display: Display) -> None:
    waiting = [folder for folder in folders if lacking(folder, config)]
    done = len(folders) - len(waiting)
    display.show(Step("evidence", done, len(folders), "heads, figures, probes"))
    if not waiting:
        return
    workers = min(len(os.sched_getaffinity(0)), len(waiting))
    if workers == 1:
        for folder in waiting:
            _refuse_failure(folder, _try_judging(folder, config))
            done += 1
            display.show(Step("evidence", done, len(folders), folder.name))
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, start_worker) as executor:
        pending = {executor.submit(_try_judging, folder, config): folder for folder in waiting}
        try:
            for future in as_completed(pending):
                _refuse_failure(pending[future], future.result())
                done += 1
                display.show(Step("evidence", done, len(folders), pending[future].name))
        except BrokenProcessPool:
            raise RunFailed("a process that judged a cell ended abruptly; memory?") from None
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
