"""A site's images, labels, attributes, patients and splits, ready for training.

DESIGN section 3. Opening reports every problem at once; nothing is decoded twice.
Nothing here crosses the hospital's boundary: only sums computed from it do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mfm_core.config import DataConfig, ImageConfig, OntologyConfig
from mfm_core.errors import DataError
from mfm_core.image_cache import open_pixels
from mfm_core.manifest import Entry, read_manifest
from mfm_core.splits import SPLITS, grouped_split, stratified_grouped_folds

__all__ = [
    "SPLITS",
    "ImageSet",
    "grouped_split",
    "open_images",
    "stratified_grouped_folds",
    "whole_problems",
]


@dataclass(frozen=True)
class ImageSet:
    """Decoded images of one site, in memory or in a read-only memory map.

    Attributes:
        images: `[N, C, H, W] uint8`.
        labels: `[N] int64`, index into the ontology's classes; -1 is unlabelled.
        attributes: `[N, A] int64`, index into each attribute's values in the ontology's order;
            -1 is unknown.
        patients: `[N] int64`, equal for images that belong together; only meaningful here.
        splits: `[N] int64`, index into SPLITS.
        targets: `[N, O] uint8`, what every output of every task should say (`mfm_core.tasks`);
            None where the images have labels of one question.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    attributes: NDArray[np.int64]
    patients: NDArray[np.int64]
    splits: NDArray[np.int64]
    targets: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, split: str) -> NDArray[np.int64]:
        """Return the indices of one split."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    def batch(self, indices: NDArray[np.int64], device: torch.device | str = "cpu") -> torch.Tensor:
        """Return `[B, C, H, W] float32 in [0, 1]` on a device."""
        pixels = torch.from_numpy(np.ascontiguousarray(self.images[indices]))
        return pixels.to(device).float().div_(255.0)


def open_images(
    data: DataConfig,
    ontology: OntologyConfig,
    image: ImageConfig,
    cache_folder: Path,
    *,
    to_train: bool = True,
) -> ImageSet:
    """Return a site's images, in the order of the manifest (or sorted paths).

    Args:
        data: where the images are and how the site's words map to the consortium's.
        ontology: the consortium's classes and attributes.
        image: side, channels and fit.
        cache_folder: where decoded pixels are kept between calls; made when absent.
        to_train: False serves what only reads a finished model: one class is enough, and no image
            has to be in train.

    Raises:
        DataError: every problem of rows, files, labels, attributes, patients and splits at once,
            by the line of the CSV or the path below the root.
    """
    if data.mimeta is not None or ontology.tasks:
        from mfm_core.mimeta_images import open_mimeta  # knows ImageSet

        return open_mimeta(data, ontology, image, cache_folder)
    manifest = read_manifest(data, ontology)
    entries, findings = manifest.entries, manifest.findings
    pixels, failures = open_pixels(entries, image, data.frame, cache_folder)
    for index, reason in failures:
        findings.add(entries[index].place, reason)
    problems = findings.lines() or whole_problems(
        entries, ontology, data.unlabelled, to_train=to_train
    )
    if problems:
        raise DataError(str(data.manifest or data.root), problems)
    labels = np.array([entry.label for entry in entries], dtype=np.int64)
    patients = np.unique([entry.patient for entry in entries], return_inverse=True)[1]
    return ImageSet(
        images=pixels,
        labels=labels,
        attributes=np.array([entry.attributes for entry in entries], dtype=np.int64),
        patients=patients.astype(np.int64),
        splits=_splits(entries, labels, patients, data),
    )


def whole_problems(
    entries: Sequence[Entry],
    ontology: OntologyConfig,
    unlabelled: bool = False,
    *,
    to_train: bool = True,
) -> list[str]:
    """Return what is wrong with the set although each row is right.

    Args:
        entries: rows that could be used.
        ontology: the consortium's classes.
        unlabelled: whether the settings say that there are no labels.
        to_train: as in `open_images`.
    """
    if not entries:
        return ["no image is left; check where, label_mapping and the folder"]
    if unlabelled:
        return _without_train(entries) if to_train else []
    present = sorted({entry.label for entry in entries} - {-1})
    if not present:
        needed = (
            "images of at least two classes are needed, or data.unlabelled: true at a site that "
            "has none"
            if to_train
            else "check the label column"
        )
        return [f"no image has a label; {needed}"]
    if not to_train:
        return []
    if len(present) == 1:
        only = ontology.classes[present[0]]
        return [f"only class {only!r} is present; images of at least two classes are needed"]
    return _without_train(entries)


def _without_train(entries: Sequence[Entry]) -> list[str]:
    """Return the one problem of rows that are all validated or tested on."""
    if all(entry.split > 0 for entry in entries):
        return ["no image is in train; check columns.split"]
    return []


def _splits(
    entries: Sequence[Entry],
    labels: NDArray[np.int64],
    patients: NDArray[np.int64],
    data: DataConfig,
) -> NDArray[np.int64]:
    if data.columns.split:
        return np.array([entry.split for entry in entries], dtype=np.int64)
    val, test = data.val_fraction, data.test_fraction
    return grouped_split(labels, patients, (1.0 - val - test, val, test), data.split_seed)
