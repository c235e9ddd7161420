"""Numbers as words for a reader, and the tables that hold them.

A figure that is not defined is a dash; an interval stands small below its value, and whether a
goal is met is a word, so that it survives print and colour blindness.
What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

NONE = "–"
"""Stands where a figure is undefined."""

MET, MISSED = "met", "missed"


class Cell(NamedTuple):
    """One table cell.

    Attributes:
        value: the figure or word.
        interval: its 95 % interval, small below it.
        note: what else stands small below it, e.g. how many patients.
        verdict: "met" or "missed", perhaps with "not certain"; "missing" of an answer; or nothing.
    """

    value: str
    interval: str = ""
    note: str = ""
    verdict: str = ""

    def __str__(self) -> str:
        """Return `0.953 (0.931–0.970)`."""
        return f"{self.value} ({self.interval})" if self.interval else self.value


@dataclass(frozen=True)
class Table:
    """A table for the page; the first cell of a row names it.

    Attributes:
        head: names of the columns.
        rows: as many cells each.
        caption: what it shows, a few words.
        strong: numbers of rows that stand out.
        words: numbers of columns that hold text, not figures.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    strong: frozenset[int] = field(default_factory=frozenset)
    words: frozenset[int] = field(default_factory=frozenset)

    def __bool__(self) -> bool:
        """Whether there is a row."""
        return bool(self.rows)


def span(estimate: Mapping[str, Any] | None, note: str = "") -> Cell:
    """Return the cell of an estimate; a dash where it is undefined."""
    if not estimate or estimate.get("value") is None:
        return Cell(NONE)
    value = number(estimate["value"], 3)
    if estimate.get("low") is None or estimate.get("high") is None:
        return Cell(value, "", note)
    low, high = number(estimate["low"], 3), number(estimate["high"], 3)
    return Cell(value, f"{low} to {high}" if "−" in low + high else f"{low}–{high}", note)


def judged(estimate: Mapping[str, Any] | None, met: bool | None, note: str = "") -> Cell:
    """Return the cell of an estimate with a goal: value, interval, and met or missed."""
    cell = span(estimate, note)
    if cell.value == NONE or met is None:
        return cell
    return cell._replace(verdict=MET if met else MISSED)


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with fixed digits and a true minus, or a dash."""
    if value is None:
        return NONE
    text = f"{value:.{digits}f}"
    if not text.strip("-0."):
        return text.removeprefix("-")
    return text.replace("-", "−")


def chance(value: float | None) -> str:
    """Return a p or q value: three digits, or "< 0.001"."""
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def percent(value: float | None) -> str:
    """Return a share as per cent with one digit."""
    return NONE if value is None else f"{100 * value:.1f} %"


def ends_of(interval: Sequence[float | None] | None) -> dict[str, float | None]:
    """Return [low, high] as the two keys of an estimate."""
    low, high = interval if interval else (None, None)
    return {"low": low, "high": high}


def size(count: float) -> str:
    """Return bytes in powers of ten."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    """Return seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def counts(found: Mapping[str, Any]) -> str:
    """Return `none 240, effusion 80`; empty cells are left out."""
    return ", ".join(f"{name} {count}" for name, count in found.items() if count)


def listed(names: Sequence[str]) -> str:
    """Return `a, b and c`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def several(count: int, one: str, many: str = "") -> str:
    """Return `1 row` or `3 rows`."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def capital(text: str) -> str:
    """Return the text with a capital first letter, the others as they are."""
    return text[:1].upper() + text[1:]
