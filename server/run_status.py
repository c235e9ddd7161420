"""How far one run is: its progress, its results and what every site answered.

What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mfm_core.errors import ConfigError
from server.run_files import PROGRESS, read_lines


def read_status(folder: Path) -> dict[str, Any]:
    """Return progress, results so far and the outcomes of every exchange of a run folder.

    Raises:
        ConfigError: the folder holds no run or a damaged file.
    """
    if not (folder / PROGRESS).is_file():
        reason = f"no {PROGRESS}: not a run folder or a consortium's, or the run has not begun"
        raise ConfigError(str(folder), [reason])
    try:
        return _read_run(folder)
    except json.JSONDecodeError as error:
        raise ConfigError(str(folder), [f"a file is not JSON: {error}"]) from None
    except (UnicodeDecodeError, KeyError, TypeError, AttributeError):
        reason = f"{PROGRESS}, the journal or server.json is damaged or of another program"
        raise ConfigError(str(folder), [reason]) from None


def _read_run(folder: Path) -> dict[str, Any]:
    progress = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    missing = {"phase", "step", "steps", "message"} - progress.keys()
    if missing:
        raise KeyError(*missing)
    ended = folder / "server.json"
    results = json.loads(ended.read_text(encoding="utf-8")) if ended.is_file() else {}
    kept = ("status", "macro_auc", "reconstruction_ssim", "final_hash", "seconds")
    return {
        "status": _describe(progress, results),
        "progress": progress,
        "results": {key: results[key] for key in kept if key in results},
        "exchanges": [
            {key: line[key] for key in ("phase", "round", "seconds", "sites")}
            for line in read_lines(folder)
        ],
    }


def _describe(progress: dict[str, Any], results: dict[str, Any]) -> str:
    if progress["phase"] == "failed":
        return "failed"
    if progress["phase"] == "done":
        return str(results.get("status", "running"))
    return "running"


def show_status(found: dict[str, Any]) -> None:
    """Print a status for people."""
    console, progress = Console(), found["progress"]
    table = Table("phase", "round", "seconds", "not ok")
    for line in found["exchanges"]:
        wrong = [f"{site} {outcome}" for site, outcome in line["sites"].items() if outcome != "ok"]
        number = str(line["round"] or "")
        table.add_row(line["phase"], number, f"{line['seconds']:.1f}", ", ".join(wrong))
    console.print(table)
    where = f"{progress['phase']}, step {progress['step']} of {progress['steps']}"
    console.print(f"{found['status']}: {where}; {progress['message']}", highlight=False)
