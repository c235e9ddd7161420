"""Transfer: pre-train on all kinds of images but one, adapt to the one left out with few labels.

For every seed and every kind of image (domain) that is left out: patients (or groups of near
duplicates) of each domain are split anew; one model is pre-trained on the other domains' training
images as multi-task; then k images a class of the left-out domain's training groups are labelled.
Four models are compared, all with the same few images, the same steps and the same last step, a
logistic regression on their latents of those images:

- head, pre-trained: the encoder stays as it is; head, from scratch: a new model whose linear path
  was started from the few images;
- full, pre-trained and full, from scratch: all weights learn, from either start.

With `refit_linear_path` a pre-trained model keeps its convolutions only: its linear path starts
from the few images as well, which is all that "from scratch" has ahead of it.

Beside them stands the logistic regression on 32 px pixels. Figures are macro AUC on the left-out
domain's test groups. What crosses a hospital's boundary: everything; one researcher holds it all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.config import (
    DataConfig,
    ImageConfig,
    LearningConfig,
    ModelConfig,
    Name,
    OntologyConfig,
    Part,
    TaskConfig,
    canonical_hash,
)
from mfm_core.dataset import ImageSet, open_images
from mfm_core.errors import ConfigError, DataError
from mfm_core.evaluation import metric_sum, metrics_from
from mfm_core.inference import infer
from mfm_core.model_start import start_from
from mfm_core.patches import patch_moments, start_linear_path
from mfm_core.pretraining import pretrain
from mfm_core.splits import grouped_split
from mfm_core.tasks import UNKNOWN, Tasks, encode_labels, slices_of
from mfm_core.training import Schedule, train
from simulation.baselines import logistic_scores, pool, small_pixels
from simulation.config import NAME
from simulation.one_key import read_one_key
from simulation.progress import Display, Step
from simulation.transfer_table import table_of

Integers = NDArray[np.int64]
FRACTIONS = (0.7, 0.1, 0.2)
METHODS = (
    *("head, pre-trained", "head, from scratch", "full, pre-trained", "full, from scratch"),
    "pixels",
)


class DomainConfig(Part):
    """One kind of image: where it is and what is asked of it."""

    classes: tuple[Name, ...] = Field(min_length=2, description="Class names.")
    data: DataConfig


class TransferConfig(Part):
    """A transfer study."""

    name: str = Field(pattern=NAME, description="Name of the study and of its folder.")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        min_length=1, description="Everything is repeated for each: splits, labels and training."
    )
    shots: tuple[Annotated[int, Field(ge=1, le=10_000)], ...] = Field(
        (5, 10, 20), min_length=1, description="Labelled images a class of the left-out domain."
    )
    pretraining_steps: int = Field(1000, ge=1, description="Optimiser steps of pre-training.")
    adaptation_steps: int = Field(100, ge=1, description="Optimiser steps of a full adaptation.")
    refit_linear_path: bool = Field(
        False,
        description="Start a pre-trained model's linear path anew from the few images.",
    )
    replicates: int = Field(200, ge=20, le=1000, description="Bootstrap replicates by group.")
    image: ImageConfig = ImageConfig()
    model: ModelConfig = ModelConfig()
    learning: LearningConfig = LearningConfig()
    domains: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]{1,30}$")], DomainConfig] = Field(
        min_length=2, description="Kinds of images."
    )
    left_out: tuple[str, ...] = Field(
        (), description="Which of the domains are left out, one after the other; empty: each."
    )

    @model_validator(mode="after")
    def _known_domains(self) -> Self:
        if strange := sorted(set(self.left_out) - set(self.domains)):
            known = ", ".join(self.domains)
            raise ValueError(f"left_out: {', '.join(strange)} is no domain; here are {known}")
        return self


@dataclass(frozen=True)
class World:
    """The study and the images of every domain, split for one seed."""

    config: TransferConfig
    seed: int
    images: dict[str, ImageSet]

    @property
    def learning(self) -> LearningConfig:
        """Return how every model learns."""
        return self.config.learning

    def new_model(self, classes: int) -> Autoencoder:
        """Return a new model of this seed."""
        return build_autoencoder(self.config.model, self.config.image, classes, self.seed)


def load_transfer(path: Path, settings: dict[str, str] | None = None) -> TransferConfig:
    """Read a transfer study, with `--set` values in place.

    Raises:
        ConfigError: every problem of the file, by dotted path.
    """
    config, beside = read_one_key(path, "transfer", TransferConfig, settings)
    if beside:
        raise ConfigError(str(path), beside)
    return config


def open_domains(config: TransferConfig, data: Path, cache: Path) -> dict[str, ImageSet]:
    """Return the images of every domain.

    Raises:
        DataError: every problem of every domain at once.
    """
    found, problems = {}, list[str]()
    for name, domain in config.domains.items():
        root = data / domain.data.root
        manifest = None if domain.data.manifest is None else data / domain.data.manifest
        where = domain.data.model_copy(update={"root": root, "manifest": manifest})
        ontology = OntologyConfig(classes=domain.classes)
        try:
            found[name] = open_images(where, ontology, config.image, cache / name)
        except DataError as error:
            problems += [f"{name}: {problem}" for problem in error.problems]
    if problems:
        raise DataError("transfer", problems)
    return found


def split_anew(images: ImageSet, seed: int) -> ImageSet:
    """Return the images with another split by group."""
    return replace(images, splits=grouped_split(images.labels, images.patients, FRACTIONS, seed))


def split_all(
    config: TransferConfig, images: Mapping[str, ImageSet]
) -> dict[int, dict[str, ImageSet]]:
    """Return the images of every domain, split for every seed.

    Raises:
        DataError: in some split a domain that is left out could not be learnt or tested.
    """
    found, problems = {}, list[str]()
    for seed in config.seeds:
        found[seed] = {name: split_anew(one, seed) for name, one in images.items()}
        for name in config.left_out or config.domains:
            lacking = _too_few_classes(found[seed][name], config.domains[name].classes)
            problems += [f"{name}, seed {seed}: {text}" for text in lacking]
    if problems:
        raise DataError("transfer", problems)
    return found


def _too_few_classes(images: ImageSet, classes: Sequence[str]) -> list[str]:
    problems = []
    for split in ("train", "test"):
        labels = images.labels[images.select(split)]
        shown = [classes[label] for label in np.unique(labels[labels >= 0])]
        if len(shown) < 2:
            problems.append(
                f"{split} has images of {' and '.join(shown) or 'no class'} alone; two classes in "
                "two patients or groups each are needed"
            )
    return problems


def pick_few(images: ImageSet, shots: int, seed: int) -> Integers:
    """Return up to `shots` training rows a class, from as many groups as there are."""
    generator, rows = np.random.default_rng(seed), images.select("train")
    few: list[int] = []
    for label in np.unique(images.labels[rows][images.labels[rows] >= 0]):
        own = generator.permutation(rows[images.labels[rows] == label])
        nth: dict[int, int] = {}
        order = []
        for row in own.tolist():
            group = int(images.patients[row])
            order.append(nth.get(group, 0))
            nth[group] = order[-1] + 1
        few += own[np.argsort(order, kind="stable")][:shots].tolist()
    return np.array(sorted(few), dtype=np.int64)


def joined_tasks(world: World, names: list[str]) -> tuple[Tasks, ImageSet]:
    """Return one task per domain, and the images of all of them with their targets."""
    tasks = {
        name: TaskConfig(
            target="MULTICLASS_CLASSIFICATION", labels=world.config.domains[name].classes
        )
        for name in names
    }
    parts, sets = slices_of(tasks), [world.images[name] for name in sorted(names)]
    width = sum(task.outputs for task in tasks.values())
    everything = pool(sets)
    targets = np.full((len(everything), width), UNKNOWN, dtype=np.uint8)
    start = 0
    for name, images in zip(sorted(names), sets, strict=True):
        labelled = np.flatnonzero(images.labels >= 0)
        targets[start + labelled, parts[name]] = encode_labels(tasks[name], images.labels[labelled])
        start += len(images)
    return tasks, replace(everything, targets=targets)


def pretrain_without(world: World, left_out: str) -> Autoencoder:
    """Return a model pre-trained on the training images of all domains but one."""
    tasks, images = joined_tasks(world, [name for name in world.images if name != left_out])
    assert images.targets is not None
    model, rows = world.new_model(images.targets.shape[1]), images.select("train")
    if world.config.model.linear_path:
        start_linear_path(model, patch_moments(images, rows, world.config.model))
    steps = world.config.pretraining_steps
    pretrain(
        model,
        images,
        rows,
        world.learning,
        tasks=tasks,
        schedule=Schedule(0, steps),
        steps=steps,
        seed=world.seed,
    )
    return model


def adapt(
    world: World, left_out: str, few: Integers, released: Autoencoder | None, full: bool
) -> Autoencoder:
    """Return a model for the left-out domain from few images.

    Args:
        world: study and images.
        left_out: the domain.
        few: its labelled rows.
        released: where to start; None is a new model.
        full: whether all weights learn.
    """
    images = world.images[left_out]
    model = world.new_model(len(world.config.domains[left_out].classes))
    if released is not None:
        start_from(model, released)
    anew = released is None or world.config.refit_linear_path
    if anew and world.config.model.linear_path:
        start_linear_path(model, patch_moments(images, few, world.config.model))
    steps = world.config.adaptation_steps if full else 0
    if steps:
        course = Schedule(0, steps)
        train(model, images, few, world.learning, schedule=course, steps=steps, seed=world.seed)
    return model


def judge(world: World, left_out: str, few: Integers, features: Any) -> dict[str, Any]:
    """Return the macro AUC on the left-out test groups: value, low, high, n.

    Args:
        world: study and images.
        left_out: the domain.
        few: its labelled rows.
        features: from rows to `[M, F] float32`.
    """
    images, classes = world.images[left_out], world.config.domains[left_out].classes
    test = images.select("test")
    test = test[images.labels[test] >= 0]
    scores = logistic_scores(features(few), images.labels[few], features(test), len(classes))
    total = metric_sum(
        scores,
        images.labels[test],
        np.zeros(len(test), dtype=np.float32),
        images.patients[test],
        world.config.replicates,
        world.seed,
    )
    auc = metrics_from(total, classes).macro_auc
    return {"value": auc.value, "low": auc.low, "high": auc.high, "n": len(test)}


def run_left_out(world: World, left_out: str) -> list[dict[str, Any]]:
    """Return one row per number of labels and method for one seed and one left-out domain."""
    images, rows = world.images[left_out], list[dict[str, Any]]()
    began = time.monotonic()
    released = pretrain_without(world, left_out)
    seconds = time.monotonic() - began

    def latents(model: Autoencoder) -> Any:
        return lambda chosen: infer(model, images, chosen).mu

    for shots in world.config.shots:
        few = pick_few(images, shots, world.seed)
        start = {"pre-trained": released, "from scratch": None}
        figures = {
            f"{part}, {name}": judge(
                world, left_out, few, latents(adapt(world, left_out, few, model, part == "full"))
            )
            for part in ("head", "full")
            for name, model in start.items()
        }
        figures["pixels"] = judge(world, left_out, few, lambda chosen: small_pixels(images, chosen))
        rows += [
            {
                "seed": world.seed,
                "left_out": left_out,
                "shots": shots,
                "labelled": len(few),
                "method": method,
                "seconds_of_pretraining": round(seconds, 1),
                **figures[method],
            }
            for method in METHODS
        ]
    return rows


def run_transfer(config: TransferConfig, data: Path, out: Path, display: Display) -> Path:
    """Run what is not done yet and return the folder with rows.json and table.md.

    Raises:
        ConfigError: the folder holds another study.
        DataError: images cannot be used.
    """
    folder = out / config.name
    folder.mkdir(parents=True, exist_ok=True)
    identity, record = canonical_hash(config), folder / "study.hash"
    if record.is_file() and record.read_text(encoding="utf-8") != identity:
        reason = "holds another study; give another transfer.name or --out, or use --fresh"
        raise ConfigError(str(folder), [reason])
    record.write_text(identity, encoding="utf-8")
    torch.set_num_threads(1)
    images = split_all(config, open_domains(config, data, folder / "cache"))
    rows: list[dict[str, Any]] = []
    cells = [(seed, name) for seed in config.seeds for name in config.left_out or config.domains]
    for done, (seed, name) in enumerate(cells):
        part = folder / f"{name}-seed{seed}.json"
        if not part.is_file():
            display.show(Step("transfer", done, len(cells), f"{name} left out, seed {seed}"))
            found = run_left_out(World(config, seed, images[seed]), name)
            part.write_text(json.dumps(found, indent=1), encoding="utf-8")
        rows += json.loads(part.read_text(encoding="utf-8"))
        (folder / "rows.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
        (folder / "table.md").write_text(table_of(rows), encoding="utf-8")
    display.show(Step("transfer", len(cells), len(cells), str(folder / "table.md")))
    return folder
