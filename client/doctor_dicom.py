"""What the site should know of the DICOM files among its images, as lines of the doctor.

What crosses the hospital's boundary: nothing; details name files of the hospital.
"""

from __future__ import annotations

from client.config import SiteConfig
from client.dicom_check import KINDS, Findings, check_files
from client.finding import Finding, Level
from mfm_core.errors import DataError
from mfm_core.manifest import read_manifest
from strategies.config import RunConfig

NOT_DICOM = "not_dicom"


def check_dicom(config: SiteConfig, run: RunConfig) -> list[Finding]:
    """Return a finding per kind of thing found in headers and pixels of the run's DICOM files.

    Args:
        config: the site's settings.
        run: the agreed run; rows that its classes leave out are not looked at.
    """
    if config.data.mimeta is not None:
        return [Finding("dicom", "skip", "data sets in the MIMeta layout hold no DICOM files")]
    try:
        entries = read_manifest(config.data, run.ontology).entries
    except DataError as error:
        return [Finding("dicom", "skip", f"{error.subject} cannot be read; see data")]
    return judge(check_files([entry.path for entry in entries]))


def judge(found: Findings) -> list[Finding]:
    """Return what `check_files` found, worst first, files by name in the details."""
    counts = found.counts()
    others = counts.pop(NOT_DICOM, 0)
    total = len(found.files) - others
    if not total:
        return [Finding("dicom", "ok", f"none of {others} files is DICOM, no header to look at")]
    rows: dict[str, list[str]] = {kind: [] for kind in counts}
    for file, kind, details in found.rows():
        if kind in rows:
            rows[kind].append(f"{file}: {details}" if details else file)
    lines = [
        Finding(
            "dicom",
            _level(kind),
            f"{count} of {total} DICOM files {KINDS[kind].words}",
            KINDS[kind].advice,
            tuple(rows[kind]),
        )
        for kind, count in counts.items()
    ]
    return lines or [Finding("dicom", "ok", f"{total} DICOM files, nothing to say of them")]


def _level(kind: str) -> Level:
    level = KINDS[kind].level
    return "ok" if level == "note" else level
