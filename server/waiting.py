"""How long a round waits, from the rounds that were measured: deadline and grace.

What stands in consortium.yaml goes before. Otherwise the deadline is four times the slowest
exchange in which every site answered at once, the grace as long as that exchange, both never below
a floor; only runs with the same images, model and learning count, because time follows from them.
What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfm_core.config import load_yaml
from mfm_core.errors import ConfigError
from server.run_files import RUN_FILE, read_lines
from strategies.config import RunConfig

DEADLINE_TIMES = 4.0
LEAST_DEADLINE_S = 300.0
LEAST_GRACE_S = 60.0

_FREE = {"name", "seed", "rounds"}
"""What two runs may differ in and still take the same time a round."""


@dataclass(frozen=True)
class Waits:
    """Times of a round that were derived.

    Attributes:
        deadline_s: longest wait for replies, seconds.
        grace_s: wait for the rest after the quorum, seconds.
        slowest_s: the slowest measured exchange, seconds.
        exchanges: number of measured exchanges.
    """

    deadline_s: float
    grace_s: float
    slowest_s: float
    exchanges: int


def derive_waits(runs: Path, run: RunConfig) -> Waits | None:
    """Return the waits for a run, None when nothing comparable was measured.

    Args:
        runs: folder of run folders, each with run.yaml and rounds.jsonl.
        run: the run to come.
    """
    folders = [path.parent for path in sorted(runs.glob(f"*/{RUN_FILE}"))]
    times = [
        float(line["seconds"])
        for folder in folders
        if _is_comparable(folder / RUN_FILE, run)
        for line in _read(folder)
        if _all_answered(line)
    ]
    if not times:
        return None
    slowest = max(times)
    return Waits(
        deadline_s=max(LEAST_DEADLINE_S, round(DEADLINE_TIMES * slowest, 1)),
        grace_s=max(LEAST_GRACE_S, round(slowest, 1)),
        slowest_s=slowest,
        exchanges=len(times),
    )


def _is_comparable(path: Path, run: RunConfig) -> bool:
    try:
        earlier = load_yaml(path, RunConfig)
    except ConfigError:
        return False
    return earlier.model_dump(exclude=_FREE) == run.model_dump(exclude=_FREE)


def _read(folder: Path) -> list[dict[str, Any]]:
    try:
        return read_lines(folder)
    except (OSError, ValueError):
        return []


def _all_answered(line: dict[str, Any]) -> bool:
    outcomes = line.get("sites", {}).values()
    return bool(outcomes) and set(outcomes) == {"ok"} and line.get("attempts", 1) == 1
