"""Long-running processes that are started again when they end.

Flower's SuperExec ends at an HTTP 500 of the SuperLink, and a machine kills what it likes; so each
process is a Service: started, watched, started again after a pause that doubles from one second to
thirty and begins anew after a minute of life. What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from strategies.processes import Process, end, observe

log = logging.getLogger("mfm.supervisor")

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
"""A process that lived this long is started again without a longer pause."""

LARGEST_LOG = 20 * 2**20
"""Bytes after which a log is put aside (one older log is kept)."""


@dataclass(frozen=True)
class Recipe:
    """How to start one service.

    Attributes:
        name: what it does.
        command: program and arguments.
        environment: all of its environment.
        folder: its working directory.
        log: file that takes what it prints.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    log: Path


@dataclass
class Service:
    """One process and how often it had to be started."""

    recipe: Recipe
    starts: int = 0
    process: Process | None = None
    _child: subprocess.Popen[bytes] | None = None
    _began: float = 0.0
    _pause_s: float = FIRST_PAUSE_S
    _next: float = field(default=0.0)

    @property
    def alive(self) -> bool:
        """Tell whether it runs."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Start it now.

        Raises:
            OSError: the program cannot be started.
        """
        recipe = self.recipe
        _put_aside(recipe.log)
        with recipe.log.open("ab") as out:
            self._child = subprocess.Popen(
                list(recipe.command),
                cwd=recipe.folder,
                env=dict(recipe.environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.starts += 1
        self._began, self._next = time.monotonic(), 0.0
        self.process = observe(recipe.name, self._child.pid)

    def watch(self) -> bool:
        """Start it again if it ended and its pause is over; return whether anything changed."""
        _put_aside(self.recipe.log)
        if self._child is None or self.alive:
            return False
        now = time.monotonic()
        if not self._next:
            self._plan(now)
            return True
        if now < self._next:
            return False
        self.start()
        return True

    def _plan(self, now: float) -> None:
        steady = now - self._began >= STEADY_S
        self._pause_s = FIRST_PAUSE_S if steady else self._pause_s
        self._next = now + self._pause_s
        code = self._child.returncode if self._child else None
        log.warning(
            "%s ended with %s after %.0f s; started again in %.0f s (its words: %s)",
            self.recipe.name,
            f"code {code}" if code is None or code >= 0 else f"signal {-code}",
            now - self._began,
            self._pause_s,
            self.recipe.log,
        )
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def stop(self, patience_s: float = 10.0) -> None:
        """End it and all that it started."""
        if self._child is None or self.process is None:
            return
        end([self.process], patience_s)
        self._child.wait()

    def say(self) -> str:
        """Return the last line that it printed, for an error's text."""
        try:
            text = self.recipe.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][-300:] if lines else ""


def _put_aside(path: Path) -> None:
    """Copy a large log to <name>.old.log and empty it; who appends to it goes on at its start."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        if path.stat().st_size > LARGEST_LOG:
            shutil.copyfile(path, path.with_suffix(".old.log"))
            os.truncate(path, 0)
