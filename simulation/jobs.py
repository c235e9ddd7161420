"""Runs the baselines in worker processes, one per core, one thread each; finished ones are kept.

Each result is a file `baselines/<job>.json`; a study that is started again repeats none of them.
What crosses a hospital's boundary: see `baselines`.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfm_core.config import load_yaml
from mfm_core.devices import Wanted
from mfm_core.errors import MfmError, RunFailed
from mfm_core.whole_file import write_whole
from simulation.config import StudyConfig
from simulation.progress import Display, Step
from strategies.config import RunConfig

PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


@dataclass(frozen=True)
class Job:
    """One baseline of a study.

    Attributes:
        folder: the run folder.
        kind: local, pooled, nearest_neighbour or pca_logistic.
        site: index of the hospital of a local model.
        factor: the pooled model's steps over those of one hospital.
        device: where models are trained.
    """

    folder: Path
    kind: str
    site: int = 0
    factor: int = 1
    device: Wanted = "cpu"

    @property
    def result(self) -> Path:
        """The file of the finished result."""
        suffix = {"local": f"-{self.site}", "pooled": f"-x{self.factor}"}.get(self.kind, "")
        return self.folder / "baselines" / f"{self.kind}{suffix}.json"

    @property
    def weight(self) -> int:
        """How long it takes, in units of one hospital's training."""
        return {"local": 1, "pooled": self.factor}.get(self.kind, 0)

    def compute(self) -> Path:
        """Compute the baseline and write its result file."""
        return run_job(self)


def plan_jobs(study: StudyConfig, folder: Path, sites: int) -> list[Job]:
    """Return the study's baselines, the longest first."""
    factor = sites if study.baselines.pooled_steps == "all_sites" else 1
    jobs: list[Job] = []
    for kind in dict.fromkeys(study.baselines.kinds):
        if kind == "local":
            jobs += [Job(folder, kind, site, device=study.device) for site in range(sites)]
        else:
            steps = factor if kind == "pooled" else 1
            jobs.append(Job(folder, kind, factor=steps, device=study.device))
    return sorted(jobs, key=lambda job: -job.weight)


def start_worker() -> None:
    """One thread, no answer to Ctrl-C (the parent's), and no life after the parent's end."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def run_job(job: Job) -> Path:
    """Compute one baseline and write its result file."""
    from simulation.baselines import run_local, run_pixels, run_pooled
    from simulation.hospitals import open_hospitals

    run = load_yaml(job.folder / "run.yaml", RunConfig)
    names, sets = open_hospitals(job.folder, run)
    if job.kind == "local":
        done = run_local(run, sets, names, job.site, job.device)
    elif job.kind == "pooled":
        done = run_pooled(run, sets, names, job.factor, job.device)
    else:
        done = run_pixels(run, sets, job.kind)
    return write_whole(job.result, json.dumps(done.to_dict(), indent=1).encode())


def _try_job(job: Job) -> str:
    """Run a job; return what went wrong as text, because not every error can be pickled."""
    try:
        job.compute()
    except MfmError as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
    return ""


def run_jobs(jobs: Sequence[Job], workers: int, display: Display) -> list[dict[str, Any]]:
    """Run what is not finished yet; return all results, in the order of `jobs`.

    Raises:
        RunFailed: a baseline failed; the message names it.
    """
    open_jobs = [job for job in jobs if not job.result.exists()]
    total = len(jobs)
    display.show(Step("baselines", total - len(open_jobs), total))
    if open_jobs:
        for job in open_jobs:
            job.result.parent.mkdir(exist_ok=True)
        os.environ["OMP_NUM_THREADS"] = "1"
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(workers, len(open_jobs)), context, start_worker)
        try:
            _collect(pool, open_jobs, total, display)
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    display.show(Step("baselines", total, total))
    return [json.loads(job.result.read_text(encoding="utf-8")) for job in jobs]


def _collect(pool: ProcessPoolExecutor, jobs: Sequence[Job], total: int, display: Display) -> None:
    pending = {pool.submit(_try_job, job): job for job in jobs}
    done = total - len(jobs)
    for future in as_completed(pending):
        job = pending[future]
        try:
            problem = future.result()
        except BrokenProcessPool:
            problem = "its process ended abruptly; is there enough memory?"
        if problem:
            raise RunFailed(f"baseline {job.result.stem} failed: {problem}")
        done += 1
        display.show(Step("baselines", done, total, job.result.stem))
