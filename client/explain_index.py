"""The list that leads from an explanation's name back to the file: JSON and HTML, at the site.

A later run into the same folder adds to the list. What crosses the hospital's boundary: nothing.
The list names files of the hospital, says so, and stays.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mfm_core.errors import DataError
from mfm_core.explanation_page import INDEX_STAYS, index_page
from mfm_core.whole_file import write_whole

INDEX = "explanations-index.json"
KIND = "mfm-explanations-index"


@dataclass(frozen=True)
class Entry:
    """One explained file.

    Attributes:
        name: of the explanation, `explanation-<question>-<fingerprint>`.
        source: the file, relative to `folder`.
        folder: the folder that was explained, absolute.
        files: what was written, relative to the index.
    """

    name: str
    source: str
    folder: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Refused:
    """One file without an explanation, and why."""

    source: str
    folder: str
    reason: str


@dataclass
class Index:
    """The list of one output folder."""

    out: Path
    entries: dict[tuple[str, str, str], Entry] = field(default_factory=dict)
    refused: dict[tuple[str, str], Refused] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Add an explained file; it is refused no longer."""
        self.entries[entry.name, entry.folder, entry.source] = entry
        self.refused.pop((entry.folder, entry.source), None)

    def refuse(self, refused: Refused) -> None:
        """Add a file that could not be explained."""
        self.refused[refused.folder, refused.source] = refused

    def write(self) -> Path:
        """Write the JSON, whole; return its path."""
        content = {
            "kind": KIND,
            "note": INDEX_STAYS,
            "explained": [asdict(entry) for _, entry in sorted(self.entries.items())],
            "not_explained": [asdict(entry) for _, entry in sorted(self.refused.items())],
        }
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        return write_whole(self.out / INDEX, text.encode("utf-8", "backslashreplace"))

    def write_page(self) -> Path:
        """Write the HTML, whole; return its path."""
        rows = [(e.name, e.source, e.folder) for _, e in sorted(self.entries.items())]
        refused = [(r.source, r.folder, r.reason) for _, r in sorted(self.refused.items())]
        page = index_page(rows, refused, INDEX)
        path = (self.out / INDEX).with_suffix(".html")
        return write_whole(path, page.encode("utf-8", "backslashreplace"))


def open_index(out: Path) -> Index:
    """Return the list of an output folder, empty where there is none yet.

    Raises:
        DataError: the file of that name is damaged or is something else.
    """
    path = out / INDEX
    if not path.exists():
        return Index(out)
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if content["kind"] != KIND:
            raise ValueError
        entries = [
            Entry(**_texts(row, "name", "source", "folder"), files=tuple(map(str, row["files"])))
            for row in content["explained"]
        ]
        refused = [
            Refused(**_texts(row, "source", "folder", "reason")) for row in content["not_explained"]
        ]
    except (ValueError, KeyError, TypeError, RecursionError):
        problem = "is damaged or no list of explanations, and would be overwritten"
        raise DataError(str(path), [f"{problem}; move it away or choose another --out"]) from None
    index = Index(out)
    for refusal in refused:
        index.refuse(refusal)
    for entry in entries:
        index.entries[entry.name, entry.folder, entry.source] = entry
    return index


def _texts(row: dict[str, Any], *keys: str) -> dict[str, str]:
    """Return these entries of a row; raises TypeError unless each is a text."""
    found = {key: row[key] for key in keys}
    if not all(isinstance(text, str) for text in found.values()):
        raise TypeError
    return found
