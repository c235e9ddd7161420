"""The public pictures of a study: phantoms or a folder, nobody of whom is at an invented hospital.

What crosses a hospital's boundary: towards it, in a deployment, the pictures with the kit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mfm_core.config import DataConfig
from mfm_core.errors import DataError
from mfm_core.manifest import read_manifest
from mfm_core.public_pictures import Pixels, read_pictures, write_public
from simulation.config import PhantomSource, StudyConfig
from simulation.partition import Table
from simulation.phantoms import draw_phantoms


def write_public_of(
    study: StudyConfig, folder: Path, source: DataConfig | None, taken: Table
) -> StudyConfig:
    """Write the public pictures into the run folder; return the study whose run names them.

    Args:
        study: as it was written; returned as it is where it has no public pictures.
        folder: the run folder.
        source: where a folder of public pictures lies, paths below `--data`; None for phantoms.
        taken: rows of the hospitals.

    Raises:
        DataError: pictures cannot be read, are too few, or show a patient of the hospitals.
    """
    if study.public is None:
        return study
    found = (
        _drawn(study, study.public)
        if isinstance(study.public, PhantomSource)
        else _read(study, source, taken)
    )
    named = {"public_pictures": write_public(folder, found)}
    run = study.run.model_copy(update={"privacy": study.run.privacy.model_copy(update=named)})
    return study.model_copy(update={"run": run})


def _drawn(study: StudyConfig, public: PhantomSource) -> Pixels:
    config = public.phantoms.model_copy(update={"size_px": study.run.image.size_px})
    films = [draw_phantoms(config, hospital).images for hospital in config.hospitals]
    return np.concatenate(films)


def _read(study: StudyConfig, source: DataConfig | None, taken: Table) -> Pixels:
    assert source is not None
    manifest = read_manifest(source, study.run.ontology)
    if problems := manifest.findings.lines():
        raise DataError("public pictures", problems)
    patients, files = set(taken.patients), set(taken.files)
    same = sum(e.patient in patients or e.file in files for e in manifest.entries)
    if same:
        reason = (
            f"{same} of {len(manifest.entries)} show patients of the hospitals; leave those out "
            "with public.data.where"
        )
        raise DataError("public pictures", [reason])
    return read_pictures([source.root / entry.file for entry in manifest.entries], study.run.image)
