"""How far a study is: one bar with rate and time left on a terminal, plain lines in a log.

What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

PLAIN_EVERY_S = 15.0
"""A log gets a line when a unit is finished, but not more often than this within a phase."""


@dataclass(frozen=True)
class Step:
    """Where a phase stands: `done` of `total` units, and a few words."""

    phase: str
    done: float
    total: float
    message: str = ""


class Display(Protocol):
    """Shows steps; a context manager."""

    def show(self, step: Step) -> None:
        """Show the newest step."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class _RateColumn(ProgressColumn):
    """Units per minute of the running phase."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed * 60:.1f}/min", style="progress.data.speed")


class BarDisplay:
    """One bar per phase on a terminal."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            speed_estimate_period=600,
        )
        self._phase = ""
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, step: Step) -> None:
        """Show the newest step; a new phase gets its own bar."""
        if step.phase != self._phase or self._task is None:
            self._phase = step.phase
            self._task = self._progress.add_task(step.phase, total=step.total, note="")
        self._progress.update(
            self._task, completed=step.done, total=step.total, note=step.message[:60]
        )


class PlainDisplay:
    """Lines with rate and time left, for a log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._phase = ""
        self._started = self._said = 0.0
        self._first = self._done = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.flush()

    def show(self, step: Step) -> None:
        """Write a line for a new phase, for a finished unit, and at the end of a phase."""
        now = time.monotonic()
        if step.phase != self._phase:
            self._phase, self._started, self._first = step.phase, now, step.done
            self._done, self._said = step.done, now
            self._write(f"{step.phase}: {step.message}" if step.message else step.phase)
            return
        ended = step.done >= step.total > self._done
        if ended or (int(step.done) > int(self._done) and now - self._said >= PLAIN_EVERY_S):
            self._done, self._said = step.done, now
            rate = (step.done - self._first) / max(now - self._started, 1e-9)
            left = (step.total - step.done) / rate if rate > 0 else 0.0
            text = f"{step.phase}: {step.done:.0f}/{step.total:.0f}, {rate * 60:.1f}/min"
            self._write(f"{text}, {left:.0f} s left" if not ended else text)

    def _write(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=self._stream, flush=True)


class SilentDisplay:
    """Shows nothing, for --json."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def show(self, step: Step) -> None:
        """Do nothing."""


def choose_display(quiet: bool = False, stream: TextIO | None = None) -> Display:
    """Return a bar on a terminal, lines elsewhere, nothing when quiet. All go to stderr."""
    target = stream or sys.stderr
    if quiet:
        return SilentDisplay()
    console = Console(file=target)
    return BarDisplay(console) if console.is_terminal else PlainDisplay(target)


def read_progress(path: Path) -> dict[str, Any]:
    """Return the content of progress.json; empty when it is not there (it is written whole)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}
