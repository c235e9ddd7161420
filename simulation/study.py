"""A study from its file to its report: hospitals, federation, baselines, explanations, results.

Every part that is finished lies in the run folder and is not repeated when the study is started
again; a federation goes on from its last finished round. What crosses a hospital's boundary:
only what the federation itself sends; the report of a study shows images of every hospital,
because here one researcher holds them all.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mfm_core.atlas import Atlas, load_atlas
from mfm_core.autoencoder import Autoencoder
from mfm_core.checkpoint import encoder_hash, load_model
from mfm_core.dataset import ImageSet
from mfm_core.errors import ConfigError
from mfm_core.explanation_sums import explanation_figures, explanation_sum
from mfm_core.gallery import Pictures, released_pictures, take_pictures
from mfm_core.report import finite, write_report
from server.report import atlas_with_sites
from simulation.baselines import pool
from simulation.compare import load_results
from simulation.config import PhantomSource, StudyConfig
from simulation.engine import Federation
from simulation.hospitals import (
    describe_hospitals,
    open_hospitals,
    prepare,
    read_files,
    read_prepared,
    study_hash,
)
from simulation.jobs import plan_jobs, run_jobs
from simulation.one_process import federate_here
from simulation.progress import Display, Step
from simulation.runner import RunFolder, Watch, hold, run_federation

OURS = ("study.yaml", "prepared.json", "run.yaml", "study.hash", "settings.json")
"""A folder with one of these is a run's, and may be emptied by --fresh. Folders are no sign: a
hospital's own data has images and sites too."""


@dataclass(frozen=True)
class Order:
    """What the researcher asked for.

    Attributes:
        study: the study.
        data: folder that the study's image paths are relative to.
        out: folder of run folders.
        fresh: begin anew although the run folder holds something.
        one_process: federate in this process (`simulation.one_process`); the same bits.
        explained: score explanations and draw test images; figures alone come sooner without.
    """

    study: StudyConfig
    data: Path
    out: Path
    fresh: bool = False
    one_process: bool = False
    explained: bool = True

    @property
    def folder(self) -> Path:
        """The run folder: one per run.name."""
        return self.out / self.study.run.name


@dataclass(frozen=True)
class Place:
    """Where and how the studies of one file run, each in a folder of its own.

    Attributes:
        data: folder that the studies' image paths are relative to.
        folder: of run folders and tables.
        fresh: begin anew although a run folder holds something.
        one_process: as in `Order`.
    """

    data: Path
    folder: Path
    fresh: bool = False
    one_process: bool = False

    def below(self, name: str) -> Place:
        """Return the same with the folder of that name below."""
        return replace(self, folder=self.folder / name)


class Clock:
    """Seconds per part of a study, kept in timing.json over restarts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = {}
        if path.is_file():
            self.seconds = json.loads(path.read_text(encoding="utf-8"))

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time of a block to a part, also when it fails."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.add(part, time.monotonic() - start)

    def add(self, part: str, seconds: float) -> None:
        """Add seconds to a part."""
        self.seconds[part] = round(self.seconds.get(part, 0.0) + seconds, 2)
        self._path.write_text(json.dumps(self.seconds), encoding="utf-8")


def count_workers(study: StudyConfig, sites: int) -> int:
    """Return how many virtual hospitals run at once: one per core that we may use."""
    return min(study.workers or len(os.sched_getaffinity(0)), sites)


def finished_results(order: Order) -> dict[str, Any] | None:
    """Return results.json of a finished run of this very study, else None.

    Raises:
        ConfigError: the folder holds another study or damaged results.
    """
    path = order.folder / "results.json"
    if order.fresh or not path.is_file():
        return None
    found = read_prepared(order.folder)
    if found is None:
        return None
    prepare(order.study, order.data, order.folder)
    return dict(load_results([order.folder])[0][1])


def run_study(order: Order, display: Display) -> dict[str, Any]:
    """Run or resume a study and return the content of results.json.

    Raises:
        ConfigError: the run folder belongs to another study.
        DataError: the images or hospitals cannot be used.
        RunFailed: the federation or a baseline ended without a result.
    """
    study, folder = order.study, order.folder
    with hold(folder):
        if order.fresh:
            empty(folder)
        clock = Clock(folder / "timing.json")
        display.show(Step("hospitals", 0, 1, "reading and dividing the images"))
        with clock.measure("hospitals"):
            prepared = prepare(study, order.data, folder)
        display.show(Step("hospitals", 1, 1, f"{len(prepared.names)} hospitals"))
        _federate(order, RunFolder(folder), len(prepared.names), clock, display)
        workers = count_workers(study, 10_000)
        with clock.measure("baselines"):
            jobs = plan_jobs(study, folder, len(prepared.names))
            baselines = run_jobs(jobs, workers, display)
        display.show(Step("explanations", 0, 1, "scoring and drawing"))
        with clock.measure("explanations"):
            scores, pictures = explain(study, folder) if order.explained else ([], drawn(folder))
        display.show(Step("explanations", 1, 1))
        return _write_results(study, folder, (baselines, scores, pictures), clock)


def _federate(order: Order, folder: RunFolder, sites: int, clock: Clock, display: Display) -> None:
    if folder.finished:
        return
    with clock.measure("federation"):
        start_up = federate(order.study, folder, sites, display, one_process=order.one_process)
    if not order.one_process:
        clock.add("of which engine start", start_up)


def federate(
    study: StudyConfig, folder: RunFolder, sites: int, display: Display, *, one_process: bool
) -> float:
    """Run a federation that is not finished, or go on with it; return what starting took, seconds.

    Args:
        study: whose limits and workers hold.
        folder: of the run.
        sites: hospitals of the run.
        display: told of the rounds.
        one_process: federate here (`simulation.one_process`), without Flower's engine.

    Raises:
        RunFailed: it ended without a result, or a hospital dropped out.
    """
    if not one_process:
        federation = Federation(sites, count_workers(study, sites))
        return run_federation(folder, federation, study.limits, display)
    display.show(Step("federated training", 0, study.run.rounds, "in this process"))
    federate_here(folder.path, sites, resume=folder.resumable)
    Watch(folder, study.limits).look()  # refuses a run that a hospital dropped out of
    return 0.0


def empty(folder: Path) -> None:
    """Remove what a run left in its folder.

    Raises:
        ConfigError: the folder does not look like a run folder.
    """
    content = [path for path in folder.iterdir() if path.name != ".lock"]
    if content and not any((folder / name).exists() for name in OURS):
        reason = "is not empty and not a run folder; --fresh empties run folders only"
        raise ConfigError(str(folder), [reason])
    for path in content:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def explain(study: StudyConfig, folder: Path) -> tuple[list[dict[str, Any]], Pictures]:
    """Return explanation scores and pictures of the final model on all test images."""
    torch.set_num_threads(1)
    model, _ = load_model(folder / "final.safetensors")
    atlas = load_atlas(folder / "atlas.safetensors", encoder_hash(model))
    scores, images = score_explanations(study, folder, model, atlas)
    pictured = atlas_with_sites(folder, atlas.encoder_hash)
    return scores, take_pictures(model, pictured, images, images.select("test"))


def score_explanations(
    study: StudyConfig, folder: Path, model: Autoencoder, atlas: Atlas
) -> tuple[list[dict[str, Any]], ImageSet]:
    """Return explanation scores of a model on the test images of a prepared folder, and those."""
    names, sets = open_hospitals(folder, study.run)
    images = pool(sets)
    masks = read_masks(study, folder, names, images)
    rows, many = images.select("test"), study.explained_per_class
    total = explanation_sum(model, atlas, images, rows, masks, per_class=many)
    return explanation_figures(total, atlas.ontology), images


def drawn(folder: Path) -> Pictures:
    """Return the pictures of the final model that need no image."""
    model, _ = load_model(folder / "final.safetensors")
    return released_pictures(model, atlas_with_sites(folder, encoder_hash(model)))


def read_masks(
    study: StudyConfig, folder: Path, names: Sequence[str], images: ImageSet
) -> NDArray[np.bool_] | None:
    """Return `[N, H, W] bool` true regions of the pooled images, None where nobody knows them."""
    if not isinstance(study.source, PhantomSource):
        return None
    side = images.images.shape[-1]
    files = [file.split("/") for file in read_files(folder, names)]
    loaded: dict[str, NDArray[np.bool_]] = {}
    masks = np.zeros((len(files), side, side), dtype=bool)
    for row, (hospital, *_, name) in enumerate(files):
        if hospital not in loaded:
            with np.load(folder / "images" / hospital / "masks.npz") as archive:
                loaded[hospital] = archive["masks"]
        masks[row] = _shrink(loaded[hospital][int(Path(name).stem)], side)
    return masks


def _shrink(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """Return the mask at `[side, side]`: a pixel belongs to it when half of its area does."""
    if len(mask) == side:
        return mask
    area = torch.from_numpy(mask.astype(np.float32))[None, None]
    small = torch.nn.functional.interpolate(area, size=(side, side), mode="area")
    return np.asarray(small[0, 0].numpy() >= 0.5)


def _write_results(
    study: StudyConfig,
    folder: Path,
    parts: tuple[list[dict[str, Any]], list[dict[str, Any]], Pictures],
    clock: Clock,
) -> dict[str, Any]:
    baselines, scores, pictures = parts
    server = RunFolder(folder).server_results()
    total = sum(s for part, s in clock.seconds.items() if not part.startswith("of which"))
    exchanges = {f"of which {name}": s for name, s in server.get("timing", {}).items()}
    results = {
        **server,
        "study": study.run.name,
        "study_hash": study_hash(study),
        "seconds": round(total, 1),
        "timing": {**clock.seconds, **exchanges},
        "hospitals": describe_hospitals(study, folder),
        "baselines": baselines,
        "explanations": scores,
    }
    write_report(folder, results, pictures)
    return dict(finite(results))
