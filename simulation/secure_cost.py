"""What a secure sum costs: whole simulated runs of eight hospitals, masked and visible in turn.

Visible and masked runs of the same study follow each other, so that what else the machine does
falls on both. What crosses a hospital's boundary: what a run sends; the hospitals are phantoms.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simulation.engine import Federation
from simulation.federation_cost import write_study
from simulation.hospitals import prepare
from simulation.progress import SilentDisplay
from simulation.runner import RunFolder, run_federation
from simulation.stopwatch import Goal, Row, make_row

HOSPITALS, ROUNDS, STEPS, PATIENTS = 8, 3, 20, 30
SECURE_COST = Goal(1.2, "at most")
MODES: Mapping[str, Mapping[str, Any]] = {
    "visible": {},
    "masked, 8-bit updates": {"enabled": True},
    "masked, exact": {"enabled": True, "updates": "exact"},
}


@dataclass(frozen=True)
class Cost:
    """One run: seconds without start-up, and bytes that a site sends in a training round."""

    seconds: float
    sent: int


def time_run(mode: str, run: Mapping[str, Any]) -> Cost:
    """Return what one simulated run costs in a mode of MODES.

    Raises:
        RunFailed: the run ended without a model.
    """
    agreed = {**run, "secure_sum": MODES[mode]}
    study = write_study(ROUNDS, STEPS, PATIENTS, agreed, HOSPITALS)
    workers = min(len(os.sched_getaffinity(0)), HOSPITALS)
    with tempfile.TemporaryDirectory(prefix="mfm-bench-") as place:
        folder = Path(place) / "bench"
        prepare(study, Path(place), folder)
        begun = time.monotonic()
        federation = Federation(HOSPITALS, workers)
        start_up = run_federation(RunFolder(folder), federation, study.limits, SilentDisplay())
        whole = time.monotonic() - begun - start_up
        results = RunFolder(folder).server_results()
        # Ray's actors start, import torch and open their data in the first exchange.
        return Cost(whole - results["timing"]["hello"], int(results["bytes_per_site_and_round"]))


def bench_secure_sum(rounds: int = 3, run: Mapping[str, Any] | None = None) -> list[Row]:
    """Return the wall time of masked runs over visible ones, side by side.

    Args:
        rounds: how often all modes are run, one after the other.
        run: more keys of the run, e.g. a smaller model.
    """
    found = [{mode: time_run(mode, run or {}) for mode in MODES} for _ in range(rounds)]
    where = f"Simulated run, {HOSPITALS} hospitals x {ROUNDS} rounds x {STEPS} steps"
    plain = np.median([costs["visible"].seconds for costs in found])
    rows = []
    for mode in list(MODES)[1:]:
        ratios = np.array([costs[mode].seconds / costs["visible"].seconds for costs in found])
        sent = found[0][mode].sent / found[0]["visible"].sent
        rows.append(
            make_row(
                f"{where}: {mode}, over visible",
                ratios,
                "x",
                SECURE_COST if mode.startswith("masked, 8") else None,
                f"visible {plain:.1f} s; bytes of a site and round x {sent:.2f}",
            )
        )
    return rows
