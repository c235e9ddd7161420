"""The world of one cell of few labels: its hospitals' images, a model that saw no label, draws.

`check_worlds` opens the images of every cell before anything is trained. One model is pre-trained
on all training images without a label and kept. `shown_labels` draws whose labels are shown.
What crosses a hospital's boundary: nothing; a researcher holds all the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.checkpoint import load_model, save_model
from mfm_core.dataset import ImageSet
from mfm_core.errors import CheckpointError, ConfigError, DataError
from mfm_core.patches import patch_moments, start_linear_path
from mfm_core.pseudo_labels import NO_LABEL
from mfm_core.training import Schedule, train
from simulation.baselines import pool
from simulation.config import StudyConfig
from simulation.few_labels_config import FewLabelsConfig, study_of
from simulation.hospitals import open_hospitals, prepare
from simulation.progress import Display, Step
from strategies.config import RunConfig

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """One cell, pre-trained: images of all hospitals, the true labels among them.

    Attributes:
        run: what was agreed, without the fine-tuning.
        everything: all hospitals' images in one set.
        hospital: `[N]` index of each image's hospital.
        unlabelled: index of the hospital without labels.
        model: pre-trained without labels.
        smallest: fewest patients of a class in a hospital's sums, and that it gives pseudo-labels.
    """

    run: RunConfig
    everything: ImageSet
    hospital: Integers
    unlabelled: int
    model: Autoencoder
    smallest: int


def check_worlds(
    config: FewLabelsConfig, cells: Sequence[str], data: Path, folder: Path, display: Display
) -> None:
    """Open the images and the kept model of every cell, one after the other, and keep none.

    Args:
        config: the study.
        cells: which of its cells.
        data: folder of all images.
        folder: of the study; each cell has one below it.
        display: is shown which cell is opened.

    Raises:
        ConfigError, DataError: the problems of all cells at once, each by its cell; the latter as
            soon as images cannot be used.
    """
    found: list[list[str]] = []
    kind: type[ConfigError | DataError] = ConfigError
    for number, name in enumerate(cells):
        display.show(Step("data sets", number, len(cells), name))
        try:
            open_cell(config, name, data, folder / name)
            if (kept := _pretrained(config, folder / name)).is_file():
                load_model(kept)
        except (ConfigError, DataError) as error:
            found.append([f"{name}: {problem}" for problem in error.problems])
            kind = DataError if isinstance(error, DataError) else kind
        except CheckpointError as error:
            found.append([f"{name}: {error}; remove the file, it is trained anew"])
    if found:  # in turn, so that many of one cell do not hide those of another
        raise kind(config.name, filter(None, chain.from_iterable(zip_longest(*found))))
    display.show(Step("data sets", len(cells), len(cells)))


def open_cell(
    config: FewLabelsConfig, name: str, data: Path, folder: Path
) -> tuple[StudyConfig, tuple[str, ...], list[ImageSet]]:
    """Return a cell's study and its hospitals' names and images, which are kept in the folder.

    Raises:
        ConfigError: the unlabelled hospital is none of the study's. DataError: unusable images.
    """
    cell = config.cells[name]
    study, problems = study_of(cell, name)
    if study is None or problems:
        raise ConfigError(name, problems)
    prepare(study, data, folder)
    names, sets = open_hospitals(folder, study.run)
    if cell.unlabelled not in names:
        known = ", ".join(names)
        raise ConfigError(name, [f"unlabelled: {cell.unlabelled!r} is none of {known}"])
    return study, names, sets


def _pretrained(config: FewLabelsConfig, folder: Path) -> Path:
    return folder / f"pretrained{config.pretrain_steps}.safetensors"


def open_world(config: FewLabelsConfig, name: str, data: Path, folder: Path) -> World:
    """Return a cell's images and its pre-trained model; both are kept in the folder.

    Raises:
        ConfigError, DataError: as `open_cell`.
    """
    study, names, sets = open_cell(config, name, data, folder)
    everything = pool(sets)
    hospital = np.repeat(np.arange(len(sets)), [len(images) for images in sets])
    path = _pretrained(config, folder)
    if not path.is_file():
        model = pretrain(study.run, everything, config.pretrain_steps)
        save_model(path, model, "", study.run.ontology)
    model = load_model(path)[0]
    place = names.index(config.cells[name].unlabelled)
    return World(study.run, everything, hospital, place, model, study.min_cell_count)


def pretrain(run: RunConfig, images: ImageSet, steps: int) -> Autoencoder:
    """Return a model that learnt to reconstruct the training images; no label was read."""
    blind = replace(images, labels=np.full_like(images.labels, NO_LABEL))
    model = build_autoencoder(run.model, run.image, len(run.ontology.classes), run.seed)
    rows = blind.select("train")
    if run.model.linear_path:
        start_linear_path(model, patch_moments(blind, rows, run.model))
    schedule = Schedule(0, steps)
    train(model, blind, rows, run.learning, schedule=schedule, steps=steps, seed=run.seed)
    return model


def shown_labels(world: World, share: float, seed: int) -> Integers:
    """Return `[N]` labels of which only a share is shown; -1 elsewhere, test images too.

    Of every class and split a share of its patients at the labelled hospitals, in train at least
    one. The patients of a smaller share are among those of a larger one.
    """
    images, shown = world.everything, np.full(len(world.everything), NO_LABEL, dtype=np.int64)
    generator = np.random.default_rng(seed)
    for split, least in (("train", 1), ("val", 0)):
        here = np.zeros(len(images), dtype=bool)
        here[images.select(split)] = True
        here &= world.hospital != world.unlabelled
        for label in range(len(world.run.ontology.classes)):
            rows = np.flatnonzero(here & (images.labels == label))
            people = generator.permutation(np.unique(images.patients[rows]))
            some = people[: max(least, round(share * len(people)))]
            shown[rows[np.isin(images.patients[rows], some)]] = label
    return shown
