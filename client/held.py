"""Messages that wait for a person: with `limits.manual` nothing leaves before somebody looked.

A held message is three files in the site's state folder: what it holds in words and numbers (JSON),
its arrays (safetensors) and, once decided, who said what. The waiting process writes the first two
and removes all three when it goes on. What crosses the hospital's boundary: nothing here.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mfm_core.checkpoint import save_arrays
from mfm_core.errors import ConfigError, OutboxRefusal
from mfm_core.whole_file import write_whole

POLL_S = 0.5
FOLDER = "held"


@dataclass(frozen=True)
class Held:
    """One message that waits.

    Attributes:
        name: what a person types to decide.
        facts: kind, round, images, bytes and arrays with shapes and norms.
        since: when it began to wait, UTC.
        arrays: the file that holds its numbers.
    """

    name: str
    facts: dict[str, Any]
    since: str
    arrays: Path


def wait_for_person(
    state: Path, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], limit_s: float
) -> str:
    """Return the name of who approved; the message may then leave.

    Args:
        state: the site's state folder.
        facts: what the ledger will say of the message.
        arrays: the message's numbers.
        limit_s: longest wait, seconds.

    Raises:
        OutboxRefusal: rejected, or nobody decided in time.
    """
    folder = state / FOLDER
    name = f"{facts['kind']}-{facts['round']}-{str(facts['sha256'])[:8]}"
    paths = [folder / f"{name}{end}" for end in (".json", ".safetensors", ".decision")]
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    paths[2].unlink(missing_ok=True)
    save_arrays(paths[1], arrays, {"kind": "held message"})
    _write(paths[0], {"facts": dict(facts), "since": now})
    try:
        decision = _wait_for(paths[2], limit_s)
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
    if decision is None:
        raise OutboxRefusal(f"{name}: nobody decided within {limit_s / 60:.0f} minutes")
    if not decision["approved"]:
        raise OutboxRefusal(f"{name}: rejected by {decision['who']}")
    return str(decision["who"])


def _wait_for(path: Path, limit_s: float) -> dict[str, Any] | None:
    """Return the decision once it is there, None after the limit."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if path.is_file():
            return dict(json.loads(path.read_text(encoding="utf-8")))
        time.sleep(POLL_S)
    return None


def held_messages(state: Path) -> list[Held]:
    """Return the messages that wait for a decision, oldest first."""
    found = []
    for path in sorted((state / FOLDER).glob("*.json"), key=lambda path: path.stat().st_mtime):
        content = json.loads(path.read_text(encoding="utf-8"))
        arrays = path.with_suffix(".safetensors")
        found.append(Held(path.stem, content["facts"], content["since"], arrays))
    return found


def decide(state: Path, name: str, approved: bool, who: str) -> None:
    """Write down a decision; the waiting process goes on within a second.

    Raises:
        ConfigError: no such message waits.
    """
    waiting = [held.name for held in held_messages(state)]
    if name not in waiting:
        known = ", ".join(waiting) or "none"
        raise ConfigError("outbox", [f"no message {name!r} waits; waiting: {known}"])
    _write(state / FOLDER / f"{name}.decision", {"approved": approved, "who": who})


def _write(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=1).encode())
