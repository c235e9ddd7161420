"""From a folder of DICOM files to a manifest: what is taken, as what, and why the rest is not.

Every file of the source is in exactly one of two lists. Only the elements on a short list are read
(`client.dicom_header`), ids become keyed hashes (`client.pseudonyms`), each image is decoded once
so that the manifest holds none that training would stumble over. The same source, secret and
request give the same bytes. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client.dicom_header import (
    DEFAULT_ATTRIBUTES,
    Header,
    check_attributes,
    class_name,
    read_header,
)
from client.dicom_strip import write_stripped
from client.intake_reasons import REASONS
from client.label_table import LabelTable, read_labels
from client.progress import Show
from client.pseudonyms import Pseudonyms, open_pseudonyms
from client.source_files import list_files, name_reason
from mfm_core.config import ImageConfig
from mfm_core.errors import DataError
from mfm_core.images import decode_image, quiet_decoders
from mfm_core.whole_file import write_whole

MANIFEST, LEFT_OUT, SUMMARY = "manifest.csv", "left-out-stays-here.csv", "intake.json"
NOTE = "STAYS-AT-THE-HOSPITAL.txt"
_NOTE = (
    "manifest.csv and left-out-stays-here.csv hold file names, which may hold names of patients.\n"
    "Nothing in this folder is meant to leave the hospital, and nothing of it is ever sent.\n"
)
_ANY = ImageConfig()
"""Only to see whether an image can be decoded; the size plays no part."""


@dataclass(frozen=True)
class Request:
    """What to take.

    Attributes:
        source: folder of DICOM files, in any order of folders.
        out: folder for what is written; not inside the source.
        state_folder: where the site's secret is kept.
        labels: CSV with labels, None for images without.
        label_column: its column with the label.
        key_column: its column with the identifier; None finds it by its name.
        modalities: those to take, all when empty.
        sop_classes: UIDs of those to take, all when empty.
        attributes: from `client.dicom_header.ATTRIBUTES`.
        keep_unlabelled: keep images that the table does not name, with an empty label.
        study_as_patient: take a study without patient id as a patient of its own.
        copy: also write a copy of each image with nothing but its pixels (`images/`), and name
            that copy in the manifest.
    """

    source: Path
    out: Path
    state_folder: Path
    labels: Path | None = None
    label_column: str = "label"
    key_column: str | None = None
    modalities: tuple[str, ...] = ()
    sop_classes: tuple[str, ...] = ()
    attributes: tuple[str, ...] = DEFAULT_ATTRIBUTES
    keep_unlabelled: bool = False
    study_as_patient: bool = False
    copy: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the manifest; `study` is only counted."""

    file: str
    label: str
    patient: str
    study: str
    attributes: Mapping[str, str]


@dataclass
class Intake:
    """What was taken and what was not.

    Attributes:
        rows: the manifest, sorted by the source's file names.
        left_out: file, reason (a key of REASONS) and what else is known, sorted by file.
        withheld: attribute to number of images whose value did not have the form of its element.
        unused: lines of the label table that no image was found for.
        root: folder that the manifest's files are relative to.
    """

    root: Path
    rows: list[Row] = field(default_factory=list)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    withheld: Counter[str] = field(default_factory=Counter)
    unused: tuple[int, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Return counts only: no file name, no id."""
        reasons = Counter(reason for _, reason, _ in self.left_out)
        details: dict[str, Counter[str]] = {}
        for _, reason, detail in self.left_out:
            if detail:
                details.setdefault(reason, Counter())[detail] += 1
        patients = Counter(row.patient for row in self.rows)
        names = self.rows[0].attributes if self.rows else {}
        return {
            "files": len(self.rows) + len(self.left_out),
            "images": len(self.rows),
            "patients": len(patients),
            "studies": len({row.study for row in self.rows}),
            "most_images_of_one_patient": max(patients.values(), default=0),
            "labels": _counts(row.label for row in self.rows),
            "attributes": {n: _counts(row.attributes[n] for row in self.rows) for n in names},
            "withheld": dict(sorted(self.withheld.items())),
            "left_out": {reason: reasons[reason] for reason in REASONS if reasons[reason]},
            "left_out_details": {key: _counts(details[key].elements()) for key in sorted(details)},
            "label_lines_without_image": len(self.unused),
        }


def _counts(words: Any) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))


def take_in(request: Request, show: Show | None = None) -> Intake:
    """Read the source, write manifest, list of what is left out and counts; return all three.

    Args:
        request: what to take and where to write it.
        show: told how many files are done, and how many there are.

    Raises:
        DataError: the request cannot be met as a whole: no such folder, a label table that
            cannot be read, an attribute that is not on the list. A file that cannot be used is
            left out instead.
    """
    _check(request)
    files = list_files(request.source)
    names = open_pseudonyms(request.state_folder)
    table = None
    if request.labels is not None:
        table = read_labels(request.labels, names, request.label_column, request.key_column)
    done = Intake(request.out if request.copy else request.source)
    done.left_out += [(name, reason, "") for name, reason in files.passed]
    sorter = _Sorter(request, names, table)
    with quiet_decoders():
        for number, name in enumerate(files.names, start=1):
            taken = sorter.sort(name)
            if isinstance(taken, Row):
                done.rows.append(taken)
            else:
                done.left_out.append((name, *taken))
            if show is not None:
                show(number, len(files.names))
    done.left_out.sort()
    done.withheld, done.unused = sorter.withheld, sorter.unused()
    _write(done, request)
    return done


def _check(request: Request) -> None:
    check_attributes(request.attributes)
    wrong = [uid for uid in request.sop_classes if not re.fullmatch(r"[0-9.]{3,64}", uid)]
    if wrong:
        raise DataError(
            "--sop-class", [f"{uid!r} is no UID; e.g. 1.2.840.10008.5.1.4.1.1.1" for uid in wrong]
        )
    source, out = request.source.resolve(), request.out.resolve()
    if out == source or source in out.parents:
        problem = "lies in the source folder, so the next intake would read what this one writes"
        raise DataError(str(request.out), [f"{problem}; choose another folder"])
    if request.copy and (out / "images") in (source, *source.parents):
        raise DataError(str(request.source), ["is the folder that copies are written to"])


class _Sorter:
    """Decides file by file; remembers which images and labels it has seen."""

    def __init__(self, request: Request, names: Pseudonyms, table: LabelTable | None) -> None:
        self._request, self._names, self._table = request, names, table
        self._seen: set[str] = set()
        self._used: set[str] = set()
        self._written: set[str] = set()
        self.withheld: Counter[str] = Counter()

    def sort(self, name: str) -> Row | tuple[str, str]:
        """Return the manifest's row of a file, or the reason and detail why it is left out."""
        if reason := name_reason(name):
            return reason, ""
        header = read_header(self._request.source / name, self._names, self._request.attributes)
        if isinstance(header, str):
            return header, ""
        if refusal := self._unwanted(header):
            return refusal
        label, reason = self._label(header)
        if refusal := ((reason, "") if reason else self._spoilt(name)):
            return refusal
        self._seen.add(header.names["image"])
        return self._row(name, header, label)

    def _row(self, name: str, header: Header, label: str) -> Row | tuple[str, str]:
        file = name
        if self._request.copy:
            file = write_stripped(self._request.source / name, self._request.out)
            if file in self._written:
                return "duplicate", ""
            self._written.add(file)
        self.withheld.update(header.withheld)
        return Row(file, label, self._patient(header), header.names["study"], header.attributes)

    def _unwanted(self, header: Header) -> tuple[str, str] | None:
        """Return why the header alone rules a file out."""
        wanted, classes = self._request.modalities, self._request.sop_classes
        if wanted and header.modality not in wanted:
            return "modality", header.modality or "none"
        if classes and header.sop_class not in classes:
            return "sop_class", class_name(header.sop_class)
        if not self._patient(header):
            return "no_patient", ""
        known = header.names["image"] and header.names["image"] in self._seen
        return ("duplicate", "") if known else None

    def _spoilt(self, name: str) -> tuple[str, str] | None:
        """Return why the pixels of a file cannot be used."""
        try:
            decode_image(self._request.source / name, _ANY, "middle")
        except DataError as error:
            return "unreadable", error.problems[0]
        return None

    def _patient(self, header: Header) -> str:
        patient = header.names["patient"]
        if patient or not self._request.study_as_patient or not header.names["study"]:
            return patient
        return header.names["study"]

    def _label(self, header: Header) -> tuple[str, str]:
        """Return label and "", or "" and the reason why there is none."""
        if self._table is None:
            return "", ""
        absent = "" if self._request.keep_unlabelled else "no_label"
        key = header.names[self._table.kind]
        if key not in self._table.labels:
            return "", absent
        self._used.add(key)
        label = self._table.labels[key]
        return ("", "two_labels") if label is None else (label, "" if label else absent)

    def unused(self) -> tuple[int, ...]:
        """Return the lines of the label table that no image of the source belongs to."""
        if self._table is None:
            return ()
        rest = set(self._table.lines) - self._used
        return tuple(sorted(line for key in rest for line in self._table.lines[key]))


def _write(done: Intake, request: Request) -> None:
    header = ["file", "label", "patient_id", *request.attributes]
    lines = ([r.file, r.label, r.patient, *r.attributes.values()] for r in done.rows)
    write_whole(request.out / MANIFEST, _csv(header, lines))
    listed = ([_shown(file), reason, REASONS[reason], d] for file, reason, d in done.left_out)
    write_whole(request.out / LEFT_OUT, _csv(["file", "reason", "words", "detail"], listed))
    summary = json.dumps(done.summary(), indent=2, ensure_ascii=False) + "\n"
    write_whole(request.out / SUMMARY, summary.encode("utf-8", "backslashreplace"))
    write_whole(request.out / NOTE, _NOTE.encode())


def _shown(file: str) -> str:
    """Return a file name as text; bytes that are no UTF-8 stand as escapes."""
    return file.encode("utf-8", "backslashreplace").decode()


def _csv(header: list[str], lines: Iterator[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue().encode()
