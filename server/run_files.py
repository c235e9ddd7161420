"""Reads what a run left in its folder: progress, ledger, submission and ending.

Neither torch nor Flower is loaded here, so that the supervisor can read it too.
What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mfm_core.errors import ConfigError

ROUNDS, PROGRESS, STATES = "rounds.jsonl", "progress.json", "state"
SUBMISSION = "submission.json"
RESULTS = "server.json"
RUN_FILE = "run.yaml"

Status = Literal["complete", "degraded", "failed"]


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        status: complete, degraded (a model, but somebody was missing) or failed (no model).
        message: in words.
        missing: site name to what went wrong, e.g. {"south": ("train 3 no-reply",)}.
        results: the figures of server.json; empty when failed.
    """

    status: Status
    message: str
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)


def choose_run(runs: Path, name: str | None) -> Path:
    """Return the folder of the run of that name below `runs`; None takes the newest.

    Raises:
        ConfigError: there is no such run.
    """
    files = sorted(runs.glob(f"*/{RUN_FILE}"), key=lambda path: path.stat().st_mtime)
    chosen = [path.parent for path in files if name in (None, path.parent.name)]
    if not chosen:
        known = ", ".join(sorted(path.parent.name for path in files)) or "none"
        wanted = "no run" if name is None else f"no run {name!r}"
        raise ConfigError(str(runs), [f"{wanted}; runs here: {known}"])
    return chosen[-1]


def read_object(path: Path) -> dict[str, Any]:
    """Return a JSON object; empty when there is none or it is damaged."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's ledger; a line cut off by a crash is left out."""
    path = folder / ROUNDS
    if not path.is_file():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def read_submission(folder: Path) -> dict[str, Any]:
    """Return submission.json; empty when the run was never handed over."""
    return read_object(folder / SUBMISSION)


def read_ending(folder: Path) -> Ending | None:
    """Return how the run in a folder ended, None while it has not (or was never begun)."""
    progress = read_object(folder / PROGRESS)
    if progress.get("phase") == "failed":
        return Ending("failed", str(progress.get("message", "")), missing_sites(folder))
    results = read_object(folder / RESULTS)
    if progress.get("phase") != "done" or not results:
        return None
    status: Status = "complete" if results.get("status") == "complete" else "degraded"
    missing = missing_sites(folder) if status == "degraded" else {}
    return Ending(status, str(progress.get("message", "")), missing, results)


def missing_sites(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return what went wrong at which site, from the ledger; empty when all answered always."""
    found: dict[str, tuple[str, ...]] = {}
    try:
        rows = [
            (site, f"{line['phase']} {line['round'] or ''}".strip(), outcome)
            for line in read_lines(folder)
            for site, outcome in line["sites"].items()
            if outcome != "ok"
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    for site, where, outcome in rows:
        found[site] = (*found.get(site, ()), f"{where} {outcome}")
    return found
