"""A site's data sets in the MIMeta layout as one set of images with targets for a run's tasks.

Data sets of which the run names no task are left out, as are rows that stand in no split. A task is
called `<data set>/<task>`; the same name must ask for the same labels everywhere, or a site would
teach something else under that name. Nothing here crosses the hospital's boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mfm_core.config import DataConfig, ImageConfig, OntologyConfig
from mfm_core.dataset import ImageSet
from mfm_core.errors import DataError
from mfm_core.mimeta import NOWHERE, PATIENT, MimetaSet, find_mimeta, read_mimeta
from mfm_core.mimeta_info import read_info
from mfm_core.mimeta_pixels import mimeta_pixels, picture_problems
from mfm_core.tasks import UNKNOWN, Tasks, encode_labels, slices_of


def open_mimeta(
    data: DataConfig, ontology: OntologyConfig, image: ImageConfig, cache_folder: Path
) -> ImageSet:
    """Return the images of a site's data sets; `labels` are -1, `targets` hold what is known.

    Args:
        data: `root` holds the data sets, `mimeta` says which.
        ontology: with tasks.
        image: side, channels and fit.
        cache_folder: where decoded pixels are kept; made when absent.

    Raises:
        DataError: every problem of every data set at once, or no task of the run is here.
    """
    if data.mimeta is None or not ontology.tasks:
        reason = "data.mimeta of a site and ontology.tasks of a run belong together; set both"
        raise DataError(str(data.root), [reason])
    used, problems = [], list[str]()
    for found in read_all(data.root, data.mimeta):
        names = task_names(found)
        problems += [
            f"{name}: the run asks for {ontology.tasks[name].target} of "
            f"{', '.join(ontology.tasks[name].labels)}; here it is {task.target} of "
            f"{', '.join(task.labels)}"
            for name, task in names.items()
            if name in ontology.tasks and ontology.tasks[name] != task
        ]
        if set(names) & set(ontology.tasks):
            used.append(found)
    if not used and not problems:
        problems.append(f"no data set has a task of this run: {', '.join(sorted(ontology.tasks))}")
    if problems:
        raise DataError(str(data.root), problems)
    return _joined(used, ontology.tasks, _pixels(used, image, cache_folder))


def read_all(root: Path, wanted: Sequence[str] = ()) -> list[MimetaSet]:
    """Return data sets below a root.

    Raises:
        DataError: every problem of every data set at once: of the tables and, where one is wrong,
            of the pictures' files (else `mimeta_pixels` says these).
    """
    sets, problems = [], list[str]()
    for folder in find_mimeta(root, wanted):
        try:
            info = read_info(folder)
        except DataError as error:  # without it nobody knows what the tables should hold
            problems += [f"{folder.name}: {problem}" for problem in error.problems]
            continue
        try:
            sets.append(read_mimeta(folder))
        except DataError as error:
            wrong = [*error.problems, *picture_problems(folder, info)]
            problems += [f"{folder.name}: {problem}" for problem in wrong]
    if problems:
        for found in sets:
            wrong = picture_problems(found.folder, found.info)
            problems += [f"{found.folder.name}: {problem}" for problem in wrong]
        raise DataError(str(root), problems)
    return sets


def task_names(found: MimetaSet) -> Tasks:
    """Return a data set's tasks under the names they have in a run."""
    return {f"{found.info.id}/{name}": task for name, task in found.tasks.items()}


def _pixels(sets: Sequence[MimetaSet], image: ImageConfig, folder: Path) -> list[NDArray[np.uint8]]:
    pixels, problems = [], list[str]()
    for found in sets:
        try:
            pixels.append(mimeta_pixels(found, image, folder))
        except DataError as error:
            problems += [f"{found.info.id}: {problem}" for problem in error.problems]
    if problems:
        raise DataError("MIMeta pictures", problems)
    return pixels


def _joined(
    sets: Sequence[MimetaSet], tasks: Tasks, pixels: Sequence[NDArray[np.uint8]]
) -> ImageSet:
    parts = slices_of(tasks)
    width = sum(task.outputs for task in tasks.values())
    people: list[str] = []
    targets, rows = [], []
    for found in sets:
        own = np.full((len(found), width), UNKNOWN, dtype=np.uint8)
        for name, task in task_names(found).items():
            if name in tasks:
                own[:, parts[name]] = encode_labels(task, found.labels[name.partition("/")[2]])
        kept = np.flatnonzero(found.splits != NOWHERE)
        targets.append(own[kept])
        rows.append(kept)
        people += [_patient(found, row) for row in kept.tolist()]
    count = len(people)
    pictures = [
        own[kept] if len(kept) < len(own) else own for own, kept in zip(pixels, rows, strict=True)
    ]
    return ImageSet(
        images=pictures[0] if len(pictures) == 1 else np.concatenate(pictures),
        labels=np.full(count, -1, dtype=np.int64),
        attributes=np.zeros((count, 0), dtype=np.int64),
        patients=np.unique(people, return_inverse=True)[1].astype(np.int64),
        splits=np.concatenate([s.splits[kept] for s, kept in zip(sets, rows, strict=True)]),
        targets=np.concatenate(targets),
    )


def _patient(found: MimetaSet, row: int) -> str:
    """Return who is shown; every image is a person of its own where the set does not say."""
    named = found.annotations.get(PATIENT)
    return f"{found.info.id} {named[row] if named and named[row] else f'row {row}'}"
