"""One line of `mfm-server check`: what was looked at, how it is, what to do.

What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "warn", "fail"]
SEVERITY: tuple[Level, ...] = ("ok", "warn", "fail")


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        part: folder, settings, certificates, secrets, run, sites, kits, ports or disk.
        level: ok, warn (works, but not for long or not as meant), fail (will not work).
        text: what was found.
        advice: what to do; empty exactly where nothing is to be done.
    """

    part: str
    level: Level
    text: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def worst(findings: Sequence[Finding]) -> Level:
    """Return the most severe level; "ok" of nothing."""
    return max((finding.level for finding in findings), key=SEVERITY.index, default="ok")
