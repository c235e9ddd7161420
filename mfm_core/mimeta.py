"""Reader of one data set in the MIMeta layout: every table of it, held against every other.

    <id>/info.yaml, images/000000.tiff ..., images.hdf5, splits/{train,val,test}.txt,
    original_splits/, task_labels/<task>.npy, annotations.csv

The number in an image's file name is its row everywhere: in the HDF5 file, in the label arrays, in
the splits and in annotations.csv, whatever the order of the lines there. A split file is absent
when its split is empty. Pixels are read by `mfm_core.mimeta_pixels`.

Nothing here crosses the hospital's boundary: the problems name rows, which are for people there.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfm_core.config import TaskConfig
from mfm_core.errors import DataError
from mfm_core.mimeta_info import InfoTask, MimetaInfo, read_info
from mfm_core.splits import SPLITS

IMAGE_NAME = re.compile(r"images/(\d{6,})\.tiff")
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.0+)?")
"""A label in a cell of annotations.csv: 3, 3.0, [0, 1] and [np.int64(0), np.int64(1)] are known."""

PATIENT, FILEPATH = "patient_id", "filepath"
NOWHERE = -1
"""The split of a row that no split file names."""

_SHOWN = 8

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class MimetaSet:
    """One data set whose tables agree.

    Attributes:
        folder: where it lies.
        info: what its info.yaml says.
        tasks: by name within the data set.
        labels: per task `[N] int64` index of the label among those of info.yaml in ascending
            order of their numbers, or `[N, K] int64` of 0 and 1 (multi-label).
        splits: `[N] int64`, index into SPLITS; NOWHERE where no split file names the row.
        original_splits: likewise, as the publisher divided it.
        annotations: column of annotations.csv to `[N]` texts, by row; view stands only here.
        warnings: what people should know and what stops nothing.
    """

    folder: Path
    info: MimetaInfo
    tasks: Mapping[str, TaskConfig]
    labels: Mapping[str, Integers]
    splits: Integers
    original_splits: Integers
    annotations: Mapping[str, tuple[str, ...]]
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.info.total_num_samples


def find_mimeta(root: Path, wanted: Sequence[str] = ()) -> tuple[Path, ...]:
    """Return the folders of data sets below a root, sorted by name.

    Args:
        root: a folder of data sets, or one data set.
        wanted: names of those to use; empty takes all that have an info.yaml.

    Raises:
        DataError: there is none, or a wanted one is not there.
    """
    if (root / "info.yaml").is_file() and not wanted:
        return (root,)
    there = sorted(path.parent for path in root.glob("*/info.yaml"))
    known = ", ".join(path.name for path in there) or "none"
    if missing := sorted(set(wanted) - {path.name for path in there}):
        absent = ", ".join(missing)
        raise DataError(str(root), [f"no data set {absent} with an info.yaml; here are: {known}"])
    if not there:
        raise DataError(str(root), ["no folder here has an info.yaml; name the folder above them"])
    return tuple(path for path in there if not wanted or path.name in wanted)


def read_mimeta(folder: Path) -> MimetaSet:
    """Return a data set, all of its tables read; its pixels are not.

    Raises:
        DataError: every problem of the tables at once.
    """
    info = read_info(folder)
    count, problems = info.total_num_samples, list[str]()
    labels = {
        task.task_name: _read_labels(folder / "task_labels", task, count, problems)
        for task in info.tasks
    }
    problems += _unknown_files(folder / "task_labels", ".npy", set(labels))
    splits = _read_splits(folder / "splits", count, info.splits_num_samples, problems)
    original = _read_splits(
        folder / "original_splits", count, info.original_splits_num_samples, problems
    )
    annotations = _read_annotations(folder / "annotations.csv", count, problems)
    if not problems:
        problems += _disagreements(annotations, {"split": splits, "original_split": original})
        problems += _label_disagreements(annotations, labels, info)
        if not (splits == 0).any():
            problems.append("splits: no image is in train; nothing can be learned")
    if problems:
        raise DataError(f"MIMeta data set {folder.name}", problems)
    return MimetaSet(
        folder=folder,
        info=info,
        tasks={task.task_name: task.config for task in info.tasks},
        labels=labels,
        splits=splits,
        original_splits=original,
        annotations=annotations,
        warnings=tuple(_warnings(info, splits, annotations)),
    )


def rows_of(rows: Iterable[int]) -> str:
    """Return "row 3", or "rows 3, 7 and 12 more"."""
    listed = [int(row) for row in rows]
    shown = ", ".join(str(row) for row in listed[:_SHOWN])
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return f"row{'s' if len(listed) > 1 else ''} {shown}{more}"


def row_of(name: str) -> int | None:
    """Return the row of `images/000012.tiff`, None for another name."""
    found = IMAGE_NAME.fullmatch(name.strip())
    return None if found is None else int(found[1])


def _read_labels(folder: Path, task: InfoTask, count: int, problems: list[str]) -> Integers:
    """Return a task's labels; zeros, and an entry in `problems`, where they cannot be used."""
    where = f"task_labels/{task.task_name}.npy"
    several = task.task_target == "MULTILABEL_CLASSIFICATION"
    shape = (count, len(task.labels)) if several else (count,)
    nothing = np.zeros(shape, dtype=np.int64)
    try:
        found = np.load(folder / f"{task.task_name}.npy", allow_pickle=False)
    except FileNotFoundError:
        problems.append(f"{where}: is missing; info.yaml names the task {task.task_name!r}")
        return nothing
    except (OSError, ValueError, EOFError):
        problems.append(f"{where}: is no array of plain numbers, or damaged; copy it again")
        return nothing
    if not isinstance(found, np.ndarray):  # several arrays in one archive
        problems.append(f"{where}: holds an archive, expected one array")
        return nothing
    own = list[str]()
    if found.shape != shape:
        own.append(f"has shape {found.shape}, expected {shape} (info.yaml says {count} images)")
    if found.dtype.kind == "f" and np.isnan(found).any():
        empty = np.flatnonzero(np.isnan(found).reshape(len(found), -1).any(axis=1))
        own.append(f"has no number (NaN) in {rows_of(empty)}; every image needs a label")
    elif found.dtype.kind not in "iub" and not _is_whole(found):
        own.append(f"holds {found.dtype}, expected whole numbers (int64)")
    elif found.shape == shape:
        known = np.array((0, 1) if several else task.numbers)
        strange = ~np.isin(found, known)
        if strange.any():
            rows = rows_of(np.flatnonzero(strange.reshape(count, -1).any(axis=1)))
            shown = ", ".join(f"{v:g}" for v in np.unique(found[strange]).astype(float)[:_SHOWN])
            own.append(f"{rows}: label {shown} is none of {_listed(known.tolist())}")
    problems += [f"{where}: {text}" for text in own]
    if own:
        return nothing
    values: Integers = found.astype(np.int64)
    return values if several else np.searchsorted(task.numbers, values).astype(np.int64)


def _is_whole(found: NDArray[Any]) -> bool:
    """Tell whether floating-point labels are whole numbers, as a table program writes them."""
    return found.dtype.kind == "f" and bool((found == np.round(found)).all())


def _listed(numbers: list[int]) -> str:
    """Return "0 to 4" of consecutive numbers, else all of them."""
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def _unknown_files(folder: Path, ending: str, known: set[str]) -> list[str]:
    there = {path.stem for path in folder.glob(f"*{ending}")}
    return [
        f"{folder.name}/{name}{ending}: is not named in info.yaml; name the task there or remove it"
        for name in sorted(there - known)
    ]


def _read_splits(
    folder: Path, count: int, said: Mapping[Any, int], problems: list[str]
) -> Integers:
    """Return `[N]` the split of every row from the files of a folder; absent files are empty."""
    splits, place = np.full(count, NOWHERE, dtype=np.int64), folder.name
    for path in sorted(folder.glob("*.txt")):
        if path.stem not in SPLITS:
            known = ", ".join(SPLITS)
            problems.append(f"{place}/{path.name}: is no split; files are called {known}")
    if place == "splits" and not any((folder / f"{name}.txt").is_file() for name in SPLITS):
        problems.append("splits: holds none of train.txt, val.txt and test.txt")
        return splits
    for index, name in enumerate(SPLITS):
        where = f"{place}/{name}.txt"
        rows = _read_rows(folder / f"{name}.txt", where, count, problems)
        if twice := _repeated(rows):
            problems.append(f"{where}: {rows_of(twice)} stand there more than once")
        mine = np.unique(np.array(rows, dtype=np.int64))
        for other in sorted(set(splits[mine].tolist()) - {NOWHERE}):
            both = mine[splits[mine] == other]
            problems.append(f"{where}: {rows_of(both)} stand in {SPLITS[other]}.txt too")
        splits[mine] = index
        if name in said and len(rows) != said[name]:
            key = f"{place}_num_samples"
            problems.append(f"{where}: names {len(rows)} images, info.yaml {key} says {said[name]}")
    return splits


def _repeated(rows: list[int]) -> list[int]:
    return sorted(row for row, times in Counter(rows).items() if times > 1)


def _read_rows(path: Path, where: str, count: int, problems: list[str]) -> list[int]:
    """Return the rows that a split file names and that exist; an absent file names none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError):
        problems.append(f"{where}: cannot be read as UTF-8 text")
        return []
    listed = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    rows = [(number, row_of(line)) for number, line in listed]
    if strange := [number for number, row in rows if row is None]:
        example = f"line {strange[0]}" + (f" and {len(strange) - 1} more" * (len(strange) > 1))
        problems.append(f"{where}: {example}: expected names like images/000012.tiff")
    known = [row for _, row in rows if row is not None]
    if beyond := sorted({row for row in known if row >= count}):
        problems.append(f"{where}: {rows_of(beyond)}: info.yaml says there are {count} images")
    return [row for row in known if row < count]


def _read_annotations(path: Path, count: int, problems: list[str]) -> dict[str, tuple[str, ...]]:
    """Return column to texts in the order of the rows, whatever the order of the lines."""
    name = path.name
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except FileNotFoundError:
        problems.append(f"{name}: is missing")
        return {}
    except (OSError, UnicodeDecodeError, csv.Error):
        problems.append(f"{name}: cannot be read as a CSV file in UTF-8")
        return {}
    head, body = (lines[0], [line for line in lines[1:] if line]) if lines else ([], [])
    if FILEPATH not in head or len(set(head)) < len(head):
        found = ", ".join(head)[:80] or "nothing"
        reason = f"needs a column {FILEPATH!r}, no column twice, and commas between (found {found})"
        problems.append(f"{name}: {reason}")
        return {}
    if uneven := [number for number, line in enumerate(body, 2) if len(line) != len(head)]:
        problems.append(f"{name}: line {uneven[0]} has not {len(head)} cells like the first line")
        return {}
    rows = [row_of(line[head.index(FILEPATH)]) for line in body]
    known = [row for row in rows if row is not None and row < count]
    wrong = list[str]()
    if len(known) < len(rows):
        wrong.append(f"{len(rows) - len(known)} lines name no image of images/000000.tiff on")
    if twice := _repeated(known):
        wrong.append(f"{rows_of(twice)} stand there more than once")
    if lacking := sorted(set(range(count)) - set(known)):
        wrong.append(f"{rows_of(lacking)} are missing; info.yaml says there are {count} images")
    problems += [f"{name}: {text}" for text in wrong]
    if wrong:
        return {}
    ordered = [line for _, line in sorted(zip(known, body, strict=True))]
    return {column: tuple(line[at] for line in ordered) for at, column in enumerate(head)}


def _disagreements(
    annotations: Mapping[str, tuple[str, ...]], splits: Mapping[str, Integers]
) -> list[str]:
    """Return where annotations.csv puts a row into another split than the split files."""
    problems = []
    for column, found in splits.items():
        if column not in annotations:
            continue
        names = np.array([*SPLITS, ""])[found]
        wrong = np.flatnonzero(np.array(annotations[column]) != names)
        if len(wrong):
            problems.append(
                f"annotations.csv: {column} of {rows_of(wrong)} is another than {column}s/*.txt say"
            )
    return problems


def _label_disagreements(
    annotations: Mapping[str, tuple[str, ...]], labels: Mapping[str, Integers], info: MimetaInfo
) -> list[str]:
    """Return where the column tasks/<task> says something else than the label array."""
    problems = []
    for one in info.tasks:
        task, values = one.task_name, labels[one.task_name]
        texts = annotations.get(f"tasks/{task}")
        if texts is None:
            continue
        if values.ndim == 1:
            values = np.array(one.numbers)[values]
        said = [tuple(int(float(n)) for n in NUMBER.findall(text)) for text in texts]
        own = [tuple(row) for row in values.reshape(len(values), -1).tolist()]
        wrong = [row for row, (a, b) in enumerate(zip(said, own, strict=True)) if a != b]
        if wrong:
            problems.append(
                f"annotations.csv: tasks/{task} of {rows_of(wrong)} differs from "
                f"task_labels/{task}.npy; is one of them in another order?"
            )
    return problems


def _warnings(
    info: MimetaInfo, splits: Integers, annotations: Mapping[str, tuple[str, ...]]
) -> list[str]:
    warnings = []
    unused = np.flatnonzero(splits == NOWHERE)
    if len(unused):
        warnings.append(f"{info.id}: {rows_of(unused)} stand in no split and are not used")
    seen: dict[str, set[int]] = {}
    for patient, split in zip(annotations.get(PATIENT, ()), splits.tolist(), strict=False):
        if patient and split != NOWHERE:
            seen.setdefault(patient, set()).add(split)
    divided = sum(len(parts) > 1 for parts in seen.values())
    if divided:
        warnings.append(
            f"{info.id}: {divided} patients are in more than one split; figures on them flatter"
        )
    if info.subject_overlaps:
        others = ", ".join(str(other) for other in info.subject_overlaps)
        warnings.append(f"{info.id}: shows people who are in {others} too; figures may flatter")
    return warnings
