"""Which images a site has: rows of a CSV, or one folder per class, in the consortium's words.

DESIGN section 3. Reads no pixels. Nothing here crosses the hospital's boundary.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from mfm_core.config import DataConfig, OntologyConfig
from mfm_core.errors import DataError
from mfm_core.splits import SPLITS
from mfm_core.vocabulary import UNKNOWN, UnknownWord, look_up, look_up_label, mapping_problems

UNDECIDED = -1
"""The split of an entry whose manifest has no split column."""

_SPLIT_WORDS = {name: index for index, name in enumerate(SPLITS)} | {
    "valid": SPLITS.index("val"),
    "validation": SPLITS.index("val"),
}
_PLACES_SHOWN = 8


@dataclass(frozen=True)
class Entry:
    """One image.

    Attributes:
        place: where people find it: "row 12 (a.png)", or the path in a folder per class.
        file: path relative to the root, as written.
        path: the file itself.
        stamp: size in bytes and time of change in ns, so that a changed file is noticed.
        label: class index; -1 is unlabelled.
        attributes: value index per attribute of the ontology; -1 is unknown.
        patient: the site's own name of patient or group.
        split: index into SPLITS; -1 where the manifest does not say.
        cells: the manifest's row, column to text; empty for a folder per class.
    """

    place: str
    file: str
    path: Path
    stamp: tuple[int, int]
    label: int
    attributes: tuple[int, ...]
    patient: str
    split: int
    cells: Mapping[str, str] = field(default_factory=dict)


class Findings:
    """Collects problems, in order of first appearance."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], list[str]] = {}

    def add(self, place: str, text: str) -> None:
        """Note a problem of one place."""
        self._places[(place, text)] = [place]

    def add_word(self, place: str, text: str) -> None:
        """Note a problem of a word; the same one in many places stays one line."""
        self._places.setdefault(("", text), []).append(place)

    def lines(self) -> list[str]:
        """Return one line per problem."""
        return [f"{_join(places)}: {text}" for (_, text), places in self._places.items()]


def _join(places: list[str]) -> str:
    shown = ", ".join(places[:_PLACES_SHOWN])
    more = len(places) - _PLACES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


@dataclass(frozen=True)
class Manifest:
    """All usable entries and the problems of the others."""

    entries: tuple[Entry, ...]
    findings: Findings


@dataclass(frozen=True)
class _Row:
    """One kept line before its file is looked at."""

    place: str
    file: str
    cells: Mapping[str, str]
    label: str
    patient: str


def read_manifest(data: DataConfig, ontology: OntologyConfig) -> Manifest:
    """Return the images that `data` names, with every problem of their rows.

    A row is left out when `where` does not keep it or its label is mapped to None. With a
    manifest the patient column must be filled (name the file column where every image stands
    alone). Without one the class is the first folder under the root, and the patient is the
    second folder where there is one, else the file's stem; other files in the root are ignored.

    Raises:
        DataError: the whole cannot be read: no such folder or file, unknown columns, a mapping
            to unknown classes. Problems of single rows are in `findings`.
    """
    problems = _mapping_problems(data, ontology)
    if not data.root.is_dir():
        problems.append(f"root: {data.root} is not a folder; check the path")
    if problems:
        raise DataError("data", problems)
    findings = Findings()
    rows = _csv_rows(data, findings) if data.manifest else _folder_rows(data)
    entries = list(_entries(rows, data, ontology, findings))
    _check_patients(entries, findings)
    return Manifest(tuple(entries), findings)


def _mapping_problems(data: DataConfig, ontology: OntologyConfig) -> list[str]:
    problems = mapping_problems(data.label_mapping, ontology.classes, "label_mapping")
    for name in {**data.attribute_mapping, **data.columns.attributes}:
        if name not in ontology.attributes:
            known = ", ".join(ontology.attributes) or "none"
            problems.append(f"{name!r} is not an attribute of the run (it has {known})")
    for name, mapping in data.attribute_mapping.items():
        targets = ontology.attributes.get(name)
        if targets is not None:
            problems += mapping_problems(mapping, targets, f"attribute_mapping.{name}")
    if data.manifest is None and (data.where or data.columns.split):
        problems.append("where and columns.split need a manifest; name one or remove them")
    return problems


def _csv_rows(data: DataConfig, findings: Findings) -> Iterator[_Row]:
    """Yield the lines that `where` keeps; a line of the wrong length is a finding."""
    lines = list(_read_csv(data.manifest or Path()))
    header = [name.strip() for name in lines[0][1]]
    _check_columns(data, header)
    columns = data.columns
    for number, values in lines[1:]:
        if len(values) != len(header):
            text = f"the header has {len(header)} columns, this row another number"
            findings.add(f"row {number}", text)
            continue
        cells = {name: value.strip() for name, value in zip(header, values, strict=True)}
        if any(cells[name] not in kept for name, kept in data.where.items()):
            continue
        file = cells[columns.file]
        place = f"row {number} ({file})"
        yield _Row(place, file, cells, cells.get(columns.label, ""), cells[columns.patient])


def _read_csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of a UTF-8 CSV parted by commas, semicolons or tabs."""
    number = 1
    found = []
    try:
        text = path.read_text(encoding="utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for fields in reader:
            if fields:
                found.append((number, fields))
            number = reader.line_num + 1
    except OSError as error:
        raise DataError(str(path), [f"cannot be read ({error.strerror}); check the path"]) from None
    except UnicodeDecodeError as error:
        where = f"byte {error.start}"
        raise DataError(str(path), [f"is not UTF-8 text ({where}); save it as UTF-8"]) from None
    except csv.Error as error:
        raise DataError(str(path), [f"row {number}: is not CSV ({error})"]) from None
    if not found:
        raise DataError(str(path), ["is empty; expected a header and one row per image"])
    yield from found


def _check_columns(data: DataConfig, header: list[str]) -> None:
    """Raise unless the header has every column that the settings name, and none twice."""
    columns = data.columns
    twice = sorted({name for name in header if name and header.count(name) > 1})
    wanted = [
        ("columns.file", columns.file),
        *([] if data.unlabelled else [("columns.label", columns.label)]),
        ("columns.patient", columns.patient),
        *([("columns.split", columns.split)] if columns.split else []),
        *((f"columns.attributes.{name}", column) for name, column in columns.attributes.items()),
        *((f"where.{name}", name) for name in data.where),
    ]
    problems = [f"column {name!r} stands twice in the header; keep one" for name in twice]
    for place, name in wanted:
        if name not in header:
            near = get_close_matches(name, header, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            problems.append(f"{place}: no column {name!r}; {hint}it has {', '.join(header)}")
    if problems:
        raise DataError(str(data.manifest), problems)


def _folder_rows(data: DataConfig) -> Iterator[_Row]:
    """Yield every file below a class folder, sorted; hidden ones are ignored."""
    for path in sorted(data.root.rglob("*")):
        relative = path.relative_to(data.root)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or len(relative.parts) < 2 or not path.is_file():
            continue
        patient = relative.parts[1] if len(relative.parts) > 2 else relative.stem
        file = relative.as_posix()
        yield _Row(file, file, {}, relative.parts[0], patient)


def _entries(
    rows: Iterable[_Row], data: DataConfig, ontology: OntologyConfig, findings: Findings
) -> Iterator[Entry]:
    """Yield an entry per row whose file can be used; rows mapped to None are left out."""
    root = os.path.realpath(data.root)
    seen: dict[str, str] = {}
    for row in rows:
        label = _label(row, data, ontology, findings)
        if label is None:
            continue
        located = _locate(row, root, findings)
        if located is None:
            continue
        path, stamp = located
        if path in seen:
            findings.add(row.place, f"is the same file as {seen[path]}; name every image once")
            continue
        seen[path] = row.place
        if not row.patient:
            text = "no patient; fill it in or name another column as columns.patient"
            findings.add(row.place, text)
        attributes = _attributes(row, data, ontology, findings)
        split = _split(row, data, findings)
        yield Entry(
            row.place, row.file, Path(path), stamp, label, attributes, row.patient, split, row.cells
        )


def _label(row: _Row, data: DataConfig, ontology: OntologyConfig, findings: Findings) -> int | None:
    if data.unlabelled:
        return UNKNOWN
    try:
        return look_up_label(row.label, data.label_mapping, ontology.classes)
    except UnknownWord as error:
        findings.add_word(row.place, f"label {error}")
        return UNKNOWN


def _attributes(
    row: _Row, data: DataConfig, ontology: OntologyConfig, findings: Findings
) -> tuple[int, ...]:
    """Return one value index per attribute; a column that no setting names may be absent."""
    indices = []
    for name, targets in ontology.attributes.items():
        value = row.cells.get(data.columns.attributes.get(name, name), "")
        try:
            index = look_up(value, data.attribute_mapping.get(name, {}), targets)
        except UnknownWord as error:
            findings.add_word(row.place, f"{name} {error}")
            index = UNKNOWN
        indices.append(UNKNOWN if index is None else index)
    return tuple(indices)


def _split(row: _Row, data: DataConfig, findings: Findings) -> int:
    if data.columns.split is None:
        return UNDECIDED
    word = row.cells[data.columns.split]
    if word.lower() not in _SPLIT_WORDS:
        findings.add_word(row.place, f"split {word!r} is not one of {', '.join(SPLITS)}")
    return _SPLIT_WORDS.get(word.lower(), UNDECIDED)


def _locate(row: _Row, root: str, findings: Findings) -> tuple[str, tuple[int, int]] | None:
    """Return real path and stamp of a row's file, None (and a finding) when it cannot be used."""
    if not row.file:
        findings.add(row.place, "no file name")
        return None
    path = os.path.realpath(os.path.join(root, row.file.replace("\0", "")))
    if os.path.commonpath([root, path]) != root:
        findings.add(row.place, "lies outside the root folder; move it in or correct the name")
        return None
    try:
        status = os.stat(path)
    except OSError as error:
        findings.add(row.place, f"there is no such file ({error.strerror})")
        return None
    if os.path.isdir(path):
        findings.add(row.place, "is a folder, expected an image file")
        return None
    return path, (status.st_size, status.st_mtime_ns)


def _check_patients(entries: list[Entry], findings: Findings) -> None:
    """Note every patient whose images lie in two splits, at its first row in a second split."""
    first: dict[str, Entry] = {}
    told: set[str] = set()
    for entry in entries:
        if entry.split == UNDECIDED or not entry.patient or entry.patient in told:
            continue
        other = first.setdefault(entry.patient, entry)
        if other.split != entry.split:
            told.add(entry.patient)
            here, there = SPLITS[entry.split], SPLITS[other.split]
            text = f"its patient is in {here} here and in {there} at {other.place}"
            findings.add(entry.place, f"{text}; keep a patient in one split")
