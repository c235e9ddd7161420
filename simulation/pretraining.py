"""A multi-task pre-training study: data sets in the MIMeta layout, in one place or over hospitals.

The tasks follow from the data sets' info.yaml. Without `hospitals` one model learns from all data
sets here; with them each hospital holds the data sets it is given, and the same server and client
apps as in deployment train together. Either way the run folder ends with final.safetensors, which
other runs start from (run.yaml `pretrained`), and server.json with figures per task.
What crosses a hospital's boundary: what the federation sends; without hospitals nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, ValidationError, model_validator

from client.config import LimitsConfig, SiteConfig
from client.secret import keep_secret
from mfm_core.autoencoder import build_autoencoder, count_parameters
from mfm_core.checkpoint import save_model
from mfm_core.config import (
    DataConfig,
    OntologyConfig,
    Part,
    canonical_hash,
    dump_yaml,
    problems_of,
)
from mfm_core.dataset import open_images
from mfm_core.errors import ConfigError, DataError
from mfm_core.inference import infer
from mfm_core.mimeta import MimetaSet
from mfm_core.mimeta_images import read_all, task_names
from mfm_core.patches import patch_moments, start_linear_path
from mfm_core.pretraining import pretrain
from mfm_core.tasks import task_figures, task_metric_sum
from mfm_core.training import Schedule
from simulation.config import NAME, LimitConfig
from simulation.engine import Federation
from simulation.hospitals import asked_once
from simulation.one_key import read_one_key
from simulation.one_process import federate_here
from simulation.progress import Display, Step
from simulation.runner import RunFolder, Watch, hold, run_federation
from simulation.study import empty
from strategies.config import RunConfig
from strategies.plan import derive_seed

MODEL, RESULTS = "final.safetensors", "server.json"
SetName = Annotated[str, Field(min_length=1, max_length=200)]


class PretrainingConfig(Part):
    """One pre-training study."""

    run: dict[str, Any] = Field(
        description="The agreed run as in run.yaml, without ontology: tasks follow from the data."
    )
    folder: Path = Field(Path("."), description="Folder of data sets, relative to --data.")
    datasets: tuple[SetName, ...] = Field((), description="Data sets to use; empty: all there.")
    hospitals: dict[Annotated[str, Field(pattern=NAME)], tuple[SetName, ...]] = Field(
        default_factory=dict, description="Hospital to its data sets; empty: no federation."
    )
    min_cell_count: int = Field(10, ge=1, description="As in site.yaml, of every hospital.")
    workers: int = Field(1, ge=1, le=256, description="Virtual hospitals at once.")
    limits: LimitConfig = LimitConfig()

    @model_validator(mode="after")
    def _hospitals_hold_something(self) -> PretrainingConfig:
        if empty := sorted(name for name, sets in self.hospitals.items() if not sets):
            raise ValueError(f"hospitals: {', '.join(empty)} has no data set; name one or more")
        if len(self.hospitals) == 1:
            raise ValueError("hospitals: one is no federation; name two, or none for one place")
        if self.hospitals and (nowhere := sorted(set(self.datasets) - set(self.held))):
            raise ValueError(
                f"datasets: {', '.join(nowhere)} stands at no hospital; give it to one or leave it "
                "out"
            )
        if self.folder.is_absolute() or ".." in self.folder.parts:
            raise ValueError("folder: write it relative to the folder given as --data")
        if "ontology" in self.run:
            raise ValueError("run.ontology: follows from the data sets; leave it out")
        return self

    @property
    def held(self) -> list[str]:
        """Return the data sets of all hospitals; one of two hospitals stands there twice."""
        return [name for sets in self.hospitals.values() for name in sets]


@dataclass(frozen=True)
class Prepared:
    """A study whose data sets were read: its run, where they lie and what to know of them."""

    config: PretrainingConfig
    run: RunConfig
    root: Path
    sets: tuple[MimetaSet, ...]

    @property
    def warnings(self) -> list[str]:
        """Return what people should know of the data sets."""
        twice = sorted(name for name, times in Counter(self.config.held).items() if times > 1)
        shared = [f"{name}: two hospitals hold it; its people count twice" for name in twice]
        return [text for found in self.sets for text in found.warnings] + shared


def load_pretraining(path: Path, settings: dict[str, str] | None = None) -> PretrainingConfig:
    """Read a pre-training study, with `--set` values in place.

    Raises:
        ConfigError: every problem of the file, by dotted path.
    """
    config, beside = read_one_key(path, "pretraining", PretrainingConfig, settings)
    if beside:
        raise ConfigError(str(path), beside)
    return config


def prepare(config: PretrainingConfig, data: Path) -> Prepared:
    """Read every data set's tables and return the run they make.

    Raises:
        DataError: every problem of every data set.
        ConfigError: the run cannot be made of them.
    """
    root = data.resolve() / config.folder
    wanted = list(config.datasets)
    wanted += [name for sets in config.hospitals.values() for name in sets]
    sets = tuple(read_all(root, sorted(set(wanted))))
    tasks = {name: task.model_dump() for one in sets for name, task in task_names(one).items()}
    try:
        run = RunConfig.model_validate({**config.run, "ontology": {"tasks": tasks}})
    except ValidationError as error:
        raise ConfigError("study", problems_of(error, "pretraining.run")) from None
    if run.pretrained is not None:
        raise ConfigError("study", ["pretraining.run.pretrained: a pre-training starts anew"])
    return Prepared(config, run, root if sets[0].folder != root else root.parent, sets)


def run_pretraining(
    prepared: Prepared,
    out: Path,
    display: Display,
    *,
    fresh: bool = False,
    one_process: bool = False,
) -> Path:
    """Run or resume a pre-training and return its folder.

    Args:
        prepared: the study.
        out: folder of run folders.
        display: told of the progress.
        fresh: begin anew although the run folder holds something.
        one_process: federate in this process (`simulation.one_process`); the same bits.

    Raises:
        ConfigError: the folder holds another study.
        DataError: pictures cannot be used.
        RunFailed: the federation ended without a model.
    """
    folder = out / prepared.run.name
    with hold(folder):
        if fresh:
            empty(folder)
        mark = hashlib.sha256(
            f"{canonical_hash(prepared.run)} {prepared.config.hospitals} {prepared.root}".encode()
        ).hexdigest()
        record = folder / "study.hash"
        if record.is_file() and record.read_text(encoding="utf-8") != mark:
            reason = "holds another study; give another run.name or --out, or use --fresh"
            raise ConfigError(str(folder), [reason])
        record.write_text(mark, encoding="utf-8")
        if not (folder / RESULTS).is_file() or not (folder / MODEL).is_file():
            if prepared.config.hospitals:
                _train_together(prepared, folder, display, one_process=one_process)
            else:
                _train_here(prepared, folder, display)
    return folder


def _train_here(prepared: Prepared, folder: Path, display: Display) -> None:
    torch.set_num_threads(1)
    run, began = prepared.run, time.monotonic()
    names = tuple(found.info.id for found in prepared.sets)
    data = DataConfig(root=prepared.root, mimeta=names)
    display.show(Step("pictures", 0, 1, "reading"))
    images = open_images(data, run.ontology, run.image, folder / "cache")
    model = build_autoencoder(run.model, run.image, len(run.ontology.classes), run.seed)
    rows, tasks = images.select("train"), run.ontology.tasks
    if run.model.linear_path:
        start_linear_path(model, patch_moments(images, rows, run.model))
    every = run.learning.training.steps_per_round
    steps = run.rounds * every
    display.show(Step("pre-training", 0, 1, f"{steps} steps, {len(rows)} training images"))
    terms = pretrain(
        model,
        images,
        rows,
        run.learning,
        tasks=tasks,
        schedule=Schedule(0, steps),
        steps=steps,
        seed=derive_seed(run, "", "pretraining") % 2**31,
    )
    test = images.select("test")
    draws = (run.statistics.bootstrap_replicates, derive_seed(run, "", "test"))
    total = task_metric_sum(tasks, images, test, infer(model, images, test), draws)
    save_model(folder / MODEL, model, canonical_hash(run), run.ontology)
    results = {
        "status": "complete",
        "pretraining": True,
        "parameters": count_parameters(model),
        "config_hash": canonical_hash(run),
        "train_images": len(rows),
        "loss": terms,
        "seconds": round(time.monotonic() - began, 1),
        "tasks": task_figures(tasks, total),
        "per_site": {},
    }
    (folder / RESULTS).write_text(json.dumps(results, indent=1), encoding="utf-8")
    display.show(Step("pre-training", 1, 1, "done"))


def _train_together(
    prepared: Prepared, folder: Path, display: Display, *, one_process: bool
) -> None:
    config, run = prepared.config, prepared.run
    (folder / "sites").mkdir(exist_ok=True)
    problems = []
    for number, (name, sets) in enumerate(sorted(config.hospitals.items())):
        state = folder / "sites" / name / "state"
        keep_secret(state, hashlib.sha256(f"{run.seed}\0{name}".encode()).digest())
        site = SiteConfig(
            name=name,
            data=DataConfig(root=prepared.root, mimeta=sets),
            limits=LimitsConfig(
                accepted_runs=(canonical_hash(run),), min_cell_count=config.min_cell_count
            ),
            state_folder=Path(name) / "state",
            simulated=True,
        )
        dump_yaml(site, folder / "sites" / f"{number}.yaml")
        try:
            open_images(site.data, run.ontology, run.image, state / "cache")
        except DataError as error:
            problems += [f"{name}: {problem}" for problem in error.problems]
    if problems:
        raise DataError("hospitals", problems)
    many = len(config.hospitals)
    dump_yaml(run, folder / "run.yaml")
    dump_yaml(asked_once(config.limits, many, many), folder / "consortium.yaml")
    where = RunFolder(folder)
    if one_process:
        display.show(Step("federated training", 0, run.rounds, "in this process"))
        federate_here(folder, many, resume=where.resumable)
        Watch(where, config.limits).look()  # refuses a run that a hospital dropped out of
        return
    run_federation(where, Federation(many, min(config.workers, many)), config.limits, display)


def lines_of(folder: Path) -> list[str]:
    """Return the table of a finished pre-training, and how other runs start from it."""
    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    lines = ["| task | kind | test images | macro AUC (95 %) |", "| --- | --- | --- | --- |"]
    for row in results["tasks"]:
        single = row["questions"][0]["macro_auc"] if len(row["questions"]) == 1 else None
        value = "-" if row["macro_auc"] is None else f"{row['macro_auc']:.3f}"
        if single and single["low"] is not None:
            value += f" ({single['low']:.3f}-{single['high']:.3f})"
        elif single is None and row["macro_auc"] is not None:
            value += f" (mean of {len(row['questions'])} labels, no interval)"
        kind = row["target"].split("_")[0].lower()
        known = int(max(question["macro_auc"]["n"] for question in row["questions"]))
        lines.append(f"| {row['task']} | {kind} | {known} | {value} |")
    digest = hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()
    return [
        *lines,
        "",
        f"Model: {folder / MODEL}",
        f"Other runs start from it with  pretrained: {digest}",
    ]


def describe_tasks(ontology: OntologyConfig, sets: tuple[MimetaSet, ...]) -> list[str]:
    """Return one line per data set: pictures per split, and its tasks."""
    lines = []
    for found in sets:
        counts = np.bincount(found.splits[found.splits >= 0], minlength=3).tolist()
        names = ", ".join(name for name in task_names(found) if name in ontology.tasks)
        shown = f"train {counts[0]}, val {counts[1]}, test {counts[2]}"
        lines.append(f"{found.info.id} ({found.info.domain}): {shown}; {names}")
    return lines
