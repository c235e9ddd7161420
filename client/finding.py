"""One line of the doctor: what was looked at, how it is, what to do.

What crosses the hospital's boundary: nothing; findings may name files and are for the site only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "warn", "fail", "skip"]
SEVERITY: tuple[Level, ...] = ("skip", "ok", "warn", "fail")


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        part: the part of the doctor it belongs to.
        level: ok, warn (works, but look at it), fail (will not work), skip (not looked at).
        text: what was found.
        advice: what to do; empty where nothing is to be done.
        details: every single problem, e.g. by row.
    """

    part: str
    level: Level
    text: str
    advice: str = ""
    details: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def worst(findings: Sequence[Finding]) -> Level:
    """Return the most severe level; "ok" of nothing."""
    levels = [finding.level for finding in findings if finding.level != "skip"]
    return max(levels, key=SEVERITY.index, default="ok")
