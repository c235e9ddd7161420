"""Labels from the site's own CSV, found by the keyed hash of an identifier.

The identifier is hashed as its line is read; the raw one is neither kept nor written.
What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from client.pseudonyms import Pseudonyms
from mfm_core.errors import DataError

KEYS: Mapping[str, tuple[str, ...]] = {
    "image": ("sopinstanceuid", "sopuid", "instanceuid", "imageuid"),
    "series": ("seriesinstanceuid", "seriesuid"),
    "study": ("studyinstanceuid", "studyuid"),
    "accession": ("accessionnumber", "accessionno", "accession"),
}
"""What a row may be joined by, most exact first, and the names of its column (letters only)."""


@dataclass(frozen=True)
class LabelTable:
    """Labels by hashed identifier.

    Attributes:
        kind: a key of KEYS.
        labels: hash to label in the site's own words; two different ones for one hash are None.
        lines: hash to the lines of the CSV that hold it.
        blank: lines without identifier.
    """

    kind: str
    labels: Mapping[str, str | None]
    lines: Mapping[str, tuple[int, ...]]
    blank: tuple[int, ...]


def read_labels(
    path: Path, names: Pseudonyms, label_column: str = "label", key_column: str | None = None
) -> LabelTable:
    """Return the labels of a UTF-8 CSV parted by commas, semicolons or tabs.

    Args:
        path: CSV with a header.
        names: the site's keyed hash.
        label_column: column with the label.
        key_column: column with the identifier; None takes the most exact one whose name is known
            (SOPInstanceUID, StudyInstanceUID, AccessionNumber, in any spelling).

    Raises:
        DataError: the file cannot be read, or lacks a column; no message quotes an identifier.
    """
    rows = list(_rows(path))
    if not rows:
        raise DataError(str(path), ["is empty; expected a header and one row per image or study"])
    header = [cell.strip() for cell in rows[0][1]]
    key, kind = _key_column(path, header, key_column)
    if header.count(label_column) != 1:
        problem = f"needs one column {label_column!r}; it has {', '.join(header)}"
        raise DataError(str(path), [f"{problem}; name yours with --label-column"])
    short = [number for number, cells in rows[1:] if len(cells) != len(header)]
    if short:
        shown = ", ".join(map(str, short[:8]))
        raise DataError(str(path), [f"line {shown}: not as many columns as the header"])
    return _table(kind, names, [(n, c[key], c[header.index(label_column)]) for n, c in rows[1:]])


def _table(kind: str, names: Pseudonyms, rows: list[tuple[int, str, str]]) -> LabelTable:
    labels: dict[str, str | None] = {}
    lines: dict[str, tuple[int, ...]] = {}
    blank = []
    for number, value, label in rows:
        hashed = names.name(kind, value)
        if not hashed:
            blank.append(number)
            continue
        known = labels.setdefault(hashed, label.strip())
        labels[hashed] = known if known == label.strip() else None
        lines[hashed] = (*lines.get(hashed, ()), number)
    return LabelTable(kind, labels, lines, tuple(blank))


def _key_column(path: Path, header: list[str], asked: str | None) -> tuple[int, str]:
    """Return index and kind of the column that rows are joined by."""
    plain = [re.sub("[^a-z]", "", cell.lower()) for cell in header]
    if asked is not None and asked not in header:
        raise DataError(str(path), [f"has no column {asked!r}; it has {', '.join(header)}"])
    for kind, known in KEYS.items():
        for index, cell in enumerate(plain):
            if cell in known and asked in (None, header[index]):
                return index, kind
    if asked is not None:
        spelt = "SOPInstanceUID, SeriesInstanceUID, StudyInstanceUID or AccessionNumber"
        raise DataError(str(path), [f"column {asked!r}: call it {spelt}, whichever it holds"])
    problem = "has no column SOPInstanceUID, StudyInstanceUID or AccessionNumber"
    raise DataError(str(path), [f"{problem} to find the images by; it has {', '.join(header)}"])


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of every line that is not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        place = f"byte {error.start}"
        raise DataError(str(path), [f"is not UTF-8 text ({place}); save it as UTF-8"]) from None
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield number, cells
            number = reader.line_num + 1
    except csv.Error as error:
        raise DataError(str(path), [f"line {number}: is not CSV ({error})"]) from None
