"""What a federated run costs beyond its training steps: Flower, validation, files, waiting.

A simulated run of four hospitals is timed against the same number of training steps on the same
images in bare processes, one per core and one thread each, before and after it.
What crosses a hospital's boundary: what a run sends; the hospitals are phantoms.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mfm_core.config import load_yaml
from mfm_core.errors import RunFailed
from simulation.config import StudyConfig
from simulation.engine import Federation
from simulation.hospitals import open_hospitals, prepare
from simulation.progress import SilentDisplay
from simulation.runner import RunFolder, run_federation
from simulation.stopwatch import Goal, Row, make_row
from strategies.config import RunConfig

HOSPITALS = 4
ROUNDS = 5
STEPS = 40
PATIENTS = 60
BARE_LIMIT_S = 1800.0
QUIET_SHARE = 0.9
"""Share of a core that bare processes get on a quiet machine; below, wall times say little."""

FEDERATION_COST = Goal(1.3, "at most")


@dataclass(frozen=True)
class Span:
    """A stretch of work: two moments of the monotonic clock and the CPU seconds of one process."""

    start: float
    end: float
    used: float

    @property
    def seconds(self) -> float:
        """Wall time."""
        return self.end - self.start


def write_study(
    rounds: int, steps: int, patients: int, run: Mapping[str, Any], hospitals: int = HOSPITALS
) -> StudyConfig:
    """Return a study of phantom hospitals of equal size.

    Args:
        rounds: training rounds.
        steps: optimiser steps of a hospital per round.
        patients: of each hospital.
        run: more keys of the run, e.g. a smaller model.
        hospitals: how many.
    """
    names = [f"h{number}" for number in range(hospitals)]
    size = run.get("image", {}).get("size_px", 64)
    classes = ["none", "infiltrate", "effusion", "nodule", "cardiomegaly"]
    common = {
        "name": "bench",
        "rounds": rounds,
        "ontology": {"classes": classes},
        "learning": {"training": {"steps_per_round": steps}},
    }
    phantoms = {
        "seed": 1,
        "size_px": size,
        "hospitals": [{"name": name, "patients": patients} for name in names],
    }
    return StudyConfig.model_validate(
        {
            "run": {**common, **run},
            "source": {"kind": "phantoms", "phantoms": phantoms},
            "hospitals": {"kind": "column", "column": "hospital", "values": names},
            "split": {"kind": "column", "column": "split"},
            "min_cell_count": 1,
        }
    )


def train_bare(folder: Path, sites: range, barrier: Any, spans: Any) -> None:
    """Take all training steps of some hospitals of a prepared folder, without a federation.

    Puts a `Span` of the steps into `spans`; reading, building, a first step (torch imports half
    of itself on it) and the wait for the other processes are not in it.
    """
    import torch

    from mfm_core.autoencoder import build_autoencoder
    from mfm_core.training import Schedule, train

    torch.set_num_threads(1)
    run = load_yaml(folder / "run.yaml", RunConfig)
    _, sets = open_hospitals(folder, run)
    model = build_autoencoder(run.model, run.image, len(run.ontology.classes), run.seed)
    steps = run.learning.training.steps_per_round
    total = run.rounds * steps

    def take(site: int, first: int, count: int) -> None:
        images, plan = sets[site], Schedule(first, total)
        rows = images.select("train")
        train(model, images, rows, run.learning, schedule=plan, steps=count, seed=site)

    take(sites[0], 0, 1)
    barrier.wait(BARE_LIMIT_S)
    start, used = time.monotonic(), time.process_time()
    for number in range(run.rounds):
        for site in sites:
            take(site, number * steps, steps)
    spans.put(Span(start, time.monotonic(), time.process_time() - used))


def time_bare(folder: Path, workers: int) -> Span:
    """Return the span of all hospitals' training steps in `workers` bare processes.

    Raises:
        RunFailed: a process ended without its time.
    """
    context = multiprocessing.get_context("spawn")
    barrier, spans = context.Barrier(workers), context.Queue()
    processes = [
        context.Process(
            target=train_bare,
            args=(folder, range(worker, HOSPITALS, workers), barrier, spans),
            daemon=True,
        )
        for worker in range(workers)
    ]
    try:
        for process in processes:
            process.start()
        found: list[Span] = []
        while len(found) < workers:
            if spans.empty() and any(process.exitcode for process in processes):
                raise RunFailed("a bare training process of the benchmark failed; see its output")
            if not spans.empty():
                found.append(spans.get())
            time.sleep(0.02)
    finally:
        for process in processes:
            if process.is_alive():
                process.join(1.0)
            process.kill()
            process.join()
    start, end = min(span.start for span in found), max(span.end for span in found)
    return Span(start, end, sum(span.used for span in found) / workers)


def bench_federation(
    rounds: int = ROUNDS,
    steps: int = STEPS,
    patients: int = PATIENTS,
    run: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Return the wall time of one simulated run over its bare training steps, and its start-up.

    Raises:
        RunFailed: the run ended without a model.
    """
    study = write_study(rounds, steps, patients, run or {})
    workers = min(len(os.sched_getaffinity(0)), HOSPITALS)
    with tempfile.TemporaryDirectory(prefix="mfm-bench-") as place:
        folder = Path(place) / "bench"
        prepare(study, Path(place), folder)
        before = time_bare(folder, workers)
        begun = time.monotonic()
        federation = Federation(HOSPITALS, workers)
        start_up = run_federation(RunFolder(folder), federation, study.limits, SilentDisplay())
        whole = time.monotonic() - begun - start_up
        timing = RunFolder(folder).server_results()["timing"]
        # Ray's actors start, import torch and open their data in the first exchange.
        start_up, whole = start_up + timing["hello"], whole - timing["hello"]
        spans = (before, time_bare(folder, workers))
    bare = np.array([span.seconds for span in spans])
    share = sum(span.used for span in spans) / bare.sum()
    where = f"Simulated run, {HOSPITALS} hospitals x {rounds} rounds x {steps} steps"
    each = f"bare steps {bare[0]:.1f} s before, {bare[1]:.1f} s after; wall time"
    if share < QUIET_SHARE:
        each += f"; BUSY MACHINE, a bare process had {100 * share:.0f} % of a core: do it again"
    once = np.ones(1)
    return [
        make_row(
            f"{where}: training rounds over the bare steps",
            once * timing["train"] / bare.mean(),
            "x",
            None,
            f"{timing['train']:.1f} s; {each}, {workers} processes",
        ),
        make_row(
            f"{where}: whole run without start-up over the bare steps",
            once * whole / bare.mean(),
            "x",
            FEDERATION_COST,
            f"{whole:.1f} s; start-up of Flower, Ray and its actors {start_up:.1f} s more",
        ),
    ]
