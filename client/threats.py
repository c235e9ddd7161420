"""Who is trusted with what, and what is not protected, as this project's SECURITY.md says it.

`threats.md` holds two tables of that page word for word; `make docs` copies them, a test compares.
What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

FILE = Path(__file__).with_name("threats.md")
TRUSTED, THREATS = "## Who is trusted", "## Threats, and where we stand"


def read_threats() -> list[tuple[str, str, str]]:
    """Return every threat: what it is, the answer today, what is still open ("" is nothing)."""
    return _rows(THREATS)


def read_trust() -> list[tuple[str, str, str]]:
    """Return every party: who, trusted to do what, not trusted to do what."""
    return _rows(TRUSTED)


def tables_of(page: str) -> str:
    """Return the two tables of SECURITY.md under their headings.

    Raises:
        ValueError: the page has no such heading or no table below it.
    """
    parts = []
    for heading in (TRUSTED, THREATS):
        found = re.search(rf"^{re.escape(heading)}\n+((?:\|.*\n)+)", page, re.MULTILINE)
        if found is None:
            raise ValueError(f"SECURITY.md: expected a table below {heading!r}")
        parts.append(f"{heading}\n\n{found[1]}")
    return "\n".join(parts)


def _rows(heading: str) -> list[tuple[str, str, str]]:
    """Return the rows of one table without its head, marks of Markdown taken out."""
    _, _, after = FILE.read_text(encoding="utf-8").partition(f"{heading}\n\n")
    rows = []
    for line in after.partition("\n\n")[0].splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip("| \n").split(" | ")]
        cells += [""] * (3 - len(cells))
        first, second, third = (
            cell.strip("| ").replace("**", "").replace("`", "") for cell in cells
        )
        rows.append((first, second, third))
    return rows
