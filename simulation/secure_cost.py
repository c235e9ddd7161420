"""What a secure sum costs: whole runs of eight hospitals, masked and visible in turn.

In Flower's simulation engine, or over real processes (`simulation.consortium`): a SuperLink, a
gateway and eight nodes, TLS and keys. Visible and masked runs of the same study follow each other,
every second time backwards, so that what else the machine does falls on both. Real nodes take
minutes to start on two cores and are started anew for each mode.
What crosses a hospital's boundary: what a run sends; the hospitals are phantoms.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mfm_core.config import load_yaml
from mfm_core.errors import RunFailed
from simulation.config import StudyConfig
from simulation.consortium import Consortium
from simulation.engine import Federation
from simulation.federation_cost import write_study
from simulation.hospitals import prepare
from simulation.loopback import hospitals_of, hosting_of
from simulation.progress import SilentDisplay
from simulation.runner import RunFolder, run_federation
from simulation.stopwatch import Goal, Row, make_row
from strategies.config import RunConfig

HOSPITALS, STEPS, PATIENTS = 8, 40, 30
ROUNDS = {"simulated": 3, "real": 8}
"""`mfm-server init` writes 40 rounds of 40 steps. What comes before and after the rounds weighs
the more the fewer there are; so few let a run end within minutes."""

RUNS_OF_NODES = 1
"""Runs that one set of real nodes does."""

SECURE_COST = Goal(1.2, "at most")
MODES: Mapping[str, Mapping[str, Any]] = {
    "visible": {},
    "masked, 8-bit updates": {"enabled": True},
    "masked, exact": {"enabled": True, "updates": "exact"},
}


@dataclass(frozen=True)
class Cost:
    """One run: seconds from the end of `hello`, and bytes that a site sends in a training round."""

    seconds: float
    sent: int


Timing = Callable[[str, Mapping[str, Any]], list[Cost]]
"""Times runs in a mode of MODES, given more keys of the run."""


def time_simulated(mode: str, run: Mapping[str, Any]) -> list[Cost]:
    """Return what one simulated run costs in a mode of MODES.

    Raises:
        RunFailed: the run ended without a model.
    """
    study = _study("simulated", mode, run)
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
        seconds, sent = whole - results["timing"]["hello"], results["bytes_per_site_and_round"]
        return [Cost(seconds, int(sent))]


def time_real(mode: str, run: Mapping[str, Any]) -> list[Cost]:
    """Return what each run of one set of real nodes costs in a mode of MODES.

    Raises:
        RunFailed: the consortium did not start, or the run ended without a model.
    """
    study = _study("real", mode, run)
    with tempfile.TemporaryDirectory(prefix="mfm-bench-") as place:
        folder = Path(place) / "bench"
        prepare(study, Path(place), folder)
        hosting = hosting_of(study, HOSPITALS, "auto")
        agreed, sites = load_yaml(folder / "run.yaml", RunConfig), hospitals_of(folder)
        with Consortium(folder / "consortium", agreed, sites, hosting) as real:
            real.start()
            return [_follow(real, f"bench-{number}") for number in range(RUNS_OF_NODES)]


def _follow(real: Consortium, name: str) -> Cost:
    following = real.submit(name)
    while not real.rounds(name) and following.poll() is None:
        time.sleep(0.02)
    begun = time.monotonic()
    code, ending = real.wait(following), real.ending(name)
    seconds = time.monotonic() - begun
    if code != 0 or ending is None or ending.status != "complete":
        said = "no end" if ending is None else f"{ending.status}: {ending.message}"
        raise RunFailed(f"a run of the benchmark ended with code {code}, {said}")
    return Cost(seconds, int(ending.results["bytes_per_site_and_round"]))


def _study(place: str, mode: str, run: Mapping[str, Any]) -> StudyConfig:
    keys = {**run, "secure_sum": MODES[mode]}
    return write_study(ROUNDS[place], STEPS, PATIENTS, keys, HOSPITALS)


PLACES: Mapping[str, tuple[str, Timing, Sequence[str]]] = {
    "simulated": ("Simulated run", time_simulated, tuple(MODES)),
    "real": ("Run over real processes", time_real, tuple(MODES)[:2]),
}
"""Where the runs take place: in words, what times one, and the modes that are compared."""


def bench_secure_sum(
    rounds: int | None = None, run: Mapping[str, Any] | None = None, place: str = "simulated"
) -> list[Row]:
    """Return the wall time of masked runs over visible ones, side by side.

    Args:
        rounds: how often all modes take their turn; None for three, or two with real processes.
        run: more keys of the run, e.g. a smaller model.
        place: a key of PLACES.

    Raises:
        RunFailed: a run ended without a model.
    """
    words, time_runs, modes = PLACES[place]
    found: dict[str, list[Cost]] = {mode: [] for mode in modes}
    for number in range(rounds or (3 if place == "simulated" else 2)):
        for mode in modes if number % 2 == 0 else modes[::-1]:
            found[mode] += time_runs(mode, run or {})
            print(f"{mode}: {_seconds(found[mode])}", file=sys.stderr, flush=True)
    where = f"{words}, {HOSPITALS} hospitals x {ROUNDS[place]} rounds x {STEPS} steps"
    plain = found["visible"]
    rows = []
    for mode in modes[1:]:
        pairs = zip(found[mode], plain, strict=True)
        rows.append(
            make_row(
                f"{where}: {mode}, over visible",
                np.array([masked.seconds / visible.seconds for masked, visible in pairs]),
                "x",
                SECURE_COST if mode.startswith("masked, 8") else None,
                f"{_seconds(found[mode])} against {_seconds(plain)}; bytes of a site and round "
                f"x {found[mode][0].sent / plain[0].sent:.2f}",
            )
        )
    return rows


def _seconds(costs: Sequence[Cost]) -> str:
    return f"{', '.join(f'{cost.seconds:.1f}' for cost in costs)} s"
