"""Writes small data sets in the exact MIMeta layout, so that tests can break one thing each."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile
import yaml
from numpy.typing import NDArray

SPLITS = ("train", "val", "test")
TARGETS = {
    "binary": "BINARY_CLASSIFICATION",
    "multiclass": "MULTICLASS_CLASSIFICATION",
    "multilabel": "MULTILABEL_CLASSIFICATION",
    "ordinal": "ORDINAL_REGRESSION",
}
KINDS = {
    "binary": ("absent", "present"),
    "multiclass": ("round", "long", "flat"),
    "multilabel": ("red", "green", "blue", "grey"),
    "ordinal": ("none", "mild", "some", "severe"),
}


def pictures(count: int, side: int, channels: int, seed: int) -> NDArray[np.uint8]:
    """Return `[N, H, W]` or `[N, H, W, 3]` pictures: a bright square that grows with row % 4."""
    rng = np.random.default_rng(seed)
    shape = (count, side, side) if channels == 1 else (count, side, side, 3)
    drawn = rng.integers(0, 90, shape, dtype=np.uint8)
    for row in range(count):
        reach = side // 8 * (1 + row % 4)
        drawn[row, :reach, :reach] = 200
    return drawn


def labels_of(kind: str, count: int) -> NDArray[np.int64]:
    rows = np.arange(count)
    if kind == "multilabel":
        return np.stack([(rows >> bit) & 1 for bit in range(4)], axis=1).astype(np.int64)
    return (rows % 4 % len(KINDS[kind])).astype(np.int64)


def write_set(
    root: Path,
    name: str = "toy",
    *,
    kinds: tuple[str, ...] = ("binary", "multiclass", "multilabel", "ordinal"),
    count: int = 24,
    side: int = 40,
    channels: int = 1,
    seed: int = 0,
    hdf5: bool = True,
    tiff: bool = True,
    without_split: str = "",
) -> Path:
    """Write a data set and return its folder; row % 6 decides the split: 4 val, 5 test."""
    folder = root / name
    for part in ("images", "splits", "original_splits", "task_labels"):
        (folder / part).mkdir(parents=True)
    pixels = pictures(count, side, channels, seed)
    names = [f"images/{row:06d}.tiff" for row in range(count)]
    if hdf5:
        with h5py.File(folder / "images.hdf5", "w") as file:
            file.create_dataset("images", data=pixels)
    for row in range(count if tiff else 0):
        colour = "minisblack" if channels == 1 else "rgb"
        tifffile.imwrite(folder / names[row], pixels[row], photometric=colour)
    split = np.array([{4: 1, 5: 2}.get(row % 6, 0) for row in range(count)])
    if without_split:
        split[split == SPLITS.index(without_split)] = 0
    for place in ("splits", "original_splits"):
        for index, part in enumerate(SPLITS):
            listed = [names[row] for row in np.flatnonzero(split == index)]
            if listed:
                (folder / place / f"{part}.txt").write_text("\n".join(listed))
    labels = {kind: labels_of(kind, count) for kind in kinds}
    for kind, values in labels.items():
        np.save(folder / "task_labels" / f"{kind}.npy", values)
    counts = {part: int((split == index).sum()) for index, part in enumerate(SPLITS)}
    write_info(folder, _info(name, kinds, (channels, side, side), counts))
    head = ["filepath", "split", *(f"tasks/{kind}" for kind in kinds)]
    head += ["original_split", "patient_id", "view"]
    lines = [
        [
            names[row],
            SPLITS[split[row]],
            *(str(labels[kind][row].tolist()) for kind in kinds),
            SPLITS[split[row]],
            f"{name}-p{row}",
            ("AP", "PA", "")[row % 3],
        ]
        for row in range(count)
    ]
    write_csv(folder, head, lines)
    return folder


def _info(
    name: str, kinds: tuple[str, ...], size: tuple[int, int, int], counts: dict[str, int]
) -> dict[str, Any]:
    return {
        "id": name,
        "name": f"The {name} set",
        "summary": "drawn by a test",
        "domain": "Toys",
        "tasks": [
            {
                "task_name": kind,
                "task_target": TARGETS[kind],
                "labels": dict(enumerate(KINDS[kind])),
            }
            for kind in kinds
        ],
        "input_size": list(size),
        "domain_overlaps": [],
        "subject_overlaps": [],
        "license": "none",
        "total_num_samples": sum(counts.values()),
        "splits_num_samples": counts,
        "original_splits_num_samples": counts,
    }


def write_info(folder: Path, content: Mapping[str, Any]) -> None:
    (folder / "info.yaml").write_text(yaml.safe_dump(dict(content), sort_keys=False))


def change_info(folder: Path, **changes: Any) -> None:
    """Change keys of info.yaml; None removes one."""
    content = yaml.safe_load((folder / "info.yaml").read_text()) | changes
    write_info(folder, {key: value for key, value in content.items() if value is not None})


def write_csv(folder: Path, head: list[str], lines: list[list[str]]) -> None:
    with (folder / "annotations.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(lines)


def read_csv(folder: Path) -> tuple[list[str], list[list[str]]]:
    with (folder / "annotations.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    return lines[0], lines[1:]
