"""Are the site's images fit for the run: every problem by row, and counts against the limits.

What crosses the hospital's boundary: nothing; findings name rows and files and stay here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.config import SiteConfig
from client.finding import Finding
from client.limits import ROUNDING, guarded_latent_sum
from client.site import CACHE
from mfm_core.config import OntologyConfig
from mfm_core.dataset import SPLITS, ImageSet, open_images
from mfm_core.errors import DataError, system_refusal
from mfm_core.latent_sums import latent_sum
from mfm_core.mimeta_images import read_all, task_names
from mfm_core.tasks import task_counts
from strategies.config import RunConfig

FEW_TEST_PATIENTS = 10
"""Fewer test patients of a class give an AUC that says little."""


@dataclass(frozen=True)
class Images:
    """What opening the images gave: the set or None, and findings."""

    images: ImageSet | None
    findings: tuple[Finding, ...]


def read_images(config: SiteConfig, run: RunConfig) -> Images:
    """Return the decoded images, or every problem of rows, files, labels and splits at once.

    Decoded pixels go into the state folder's cache, where the run finds them; where that cannot
    be written, into a folder that is gone afterwards.
    """
    try:
        images = _open(config, run)
    except DataError as error:
        advice = "correct the manifest or the mappings in site.yaml; nothing was left out silently"
        noun = "problem" if len(error.problems) == 1 else "problems"
        text = f"{error.subject}: {len(error.problems)} {noun}"
        return Images(None, (Finding("data", "fail", text, advice, error.problems),))
    except OSError as error:
        return Images(None, (Finding("data", "fail", system_refusal(error), "see machine"),))
    text = f"{len(images)} images of {len(np.unique(images.patients))} patients, all readable"
    return Images(images, (Finding("data", "ok", text), *_warnings(config, run)))


def _warnings(config: SiteConfig, run: RunConfig) -> Iterator[Finding]:
    """Yield what the tables of data sets in the MIMeta layout say that stops no training."""
    if config.data.mimeta is None:
        return
    for found in read_all(config.data.root, config.data.mimeta):
        if set(task_names(found)) & set(run.ontology.tasks):
            for text in found.warnings:
                yield Finding("data", "warn", text, "correct its tables, or take it as it is")


def _open(config: SiteConfig, run: RunConfig) -> ImageSet:
    try:
        return open_images(config.data, run.ontology, run.image, config.state_folder / CACHE)
    except OSError:
        with tempfile.TemporaryDirectory(prefix="mfm-check-") as place:
            return open_images(config.data, run.ontology, run.image, Path(place))


def check_counts(images: ImageSet, ontology: OntologyConfig, smallest: int) -> Iterator[Finding]:
    """Yield counts per split, class and attribute value against the site's smallest cell."""
    yield _check_train_patients(images, smallest)
    for split in ("val", "test"):
        if not len(images.select(split)):
            yield Finding(
                "counts",
                "warn",
                f"no image in {split}: this site adds nothing to its figures",
                "set val_fraction and test_fraction, or fill the split column",
            )
    if ontology.tasks:
        yield from _check_tasks(images, ontology)
        return
    patients = class_patients(images, ontology)
    for index, name in enumerate(ontology.classes):
        yield _check_class(name, patients[:, index], smallest)
    yield from _check_cells(images, ontology, smallest)


def _check_tasks(images: ImageSet, ontology: OntologyConfig) -> Iterator[Finding]:
    """Yield the images of every task of a pre-training per split."""
    counts = [task_counts(ontology.tasks, images, images.select(split)) for split in SPLITS]
    for index, name in enumerate(sorted(ontology.tasks)):
        found = ", ".join(f"{s} {n[index]:.0f}" for s, n in zip(SPLITS, counts, strict=True))
        absent = "" if counts[0][index] else "; nothing is sent for its head"
        yield Finding("counts", "ok", f"task {name!r}, images: {found}{absent}")


def class_patients(images: ImageSet, ontology: OntologyConfig) -> NDArray[np.int64]:
    """Return `[splits, classes]` patients with at least one image of the class in the split."""
    found = np.zeros((len(SPLITS), len(ontology.classes)), dtype=np.int64)
    for row, split in enumerate(SPLITS):
        chosen = images.select(split)
        for label in range(len(ontology.classes)):
            mine = chosen[images.labels[chosen] == label]
            found[row, label] = len(np.unique(images.patients[mine]))
    return found


def _check_train_patients(images: ImageSet, smallest: int) -> Finding:
    found = len(np.unique(images.patients[images.select("train")]))
    text = f"{found} patients to train on, limits.min_cell_count is {smallest}"
    if found < smallest:
        return Finding(
            "counts",
            "fail",
            text,
            "the mean image of so few is refused by this site's own limit, so the run cannot "
            "start here; add patients, or lower the limit if you accept that",
        )
    return Finding("counts", "ok", text)


def _check_class(name: str, patients: NDArray[np.int64], smallest: int) -> Finding:
    per_split = ", ".join(f"{split} {count}" for split, count in zip(SPLITS, patients, strict=True))
    text = f"class {name!r}, patients: {per_split}"
    train, _, test = (int(count) for count in patients)
    if train == 0:
        return Finding("counts", "warn", text, "this site teaches nothing about it")
    if train < smallest:
        return Finding(
            "counts",
            "warn",
            text,
            f"fewer than {smallest} to train on: its latent sums leave as zeros (suppressed)",
        )
    if test < FEW_TEST_PATIENTS:
        return Finding("counts", "warn", text, "few test patients: its figures will be uncertain")
    return Finding("counts", "ok", text)


def _check_cells(images: ImageSet, ontology: OntologyConfig, smallest: int) -> Iterator[Finding]:
    """Yield, per attribute, the cells of class and value, and those that would leave as zeros."""
    chosen = images.select("train")
    cells = (images.labels[chosen], images.attributes[chosen], images.patients[chosen])
    nothing = np.zeros((len(chosen), 1))
    counts = latent_sum(nothing, *cells, ontology)
    guarded = guarded_latent_sum(nothing, cells, ontology, smallest)
    for name, values in ontology.attributes.items():
        here = counts[f"attribute.{name}.count"]
        leaving = guarded[f"attribute.{name}.count"]
        hidden = (here > ROUNDING) & (leaving <= ROUNDING)
        details = tuple(
            f"{label}, {value}: {here[row, column]:g} patients"
            + (" - leaves as zero" if hidden[row, column] else "")
            for row, label in enumerate(ontology.classes)
            for column, value in enumerate(values)
        )
        yield _judge_cells(name, int(hidden.sum()), here.sum(axis=0), details)


def _judge_cells(
    name: str, hidden: int, per_value: NDArray[np.float64], details: tuple[str, ...]
) -> Finding:
    known = int((per_value > ROUNDING).sum())
    if known == 0:
        text = f"attribute {name!r} is not recorded here"
        return Finding("counts", "warn", text, "name its column if there is one", details)
    if known == 1:
        advice = "this site cannot tell it apart from anything else; the others still can"
        return Finding("counts", "warn", f"attribute {name!r} has one value only", advice, details)
    if hidden:
        text = f"attribute {name!r}: {hidden} cells leave as zeros (suppressed)"
        return Finding("counts", "warn", text, "more patients or a lower min_cell_count", details)
    return Finding("counts", "ok", f"attribute {name!r}: every cell is large enough", "", details)
