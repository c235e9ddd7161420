"""Runs that nobody follows: found by the supervisor and taken up again.

Whoever follows a run (`run`, `resume`) starts a dead ServerApp again. A terminal may be closed and
a machine may restart, so the supervisor looks for runs that were submitted, have not ended and are
followed by nobody, and starts `mfm-server resume` for them. One that got nowhere is left to people.
What crosses a hospital's boundary: nothing here; the resumed run sends what it always sends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from server.run_files import PROGRESS, ROUNDS, SUBMISSION
from strategies.code_hash import bundle_folder

log = logging.getLogger("mfm.supervisor")

MARK = ".followed"
ENDED = ("done", "failed")
LOOK_EVERY_S = 5.0
UNWATCHED_S = 15.0
"""So long a run may be without a follower; a person may be about to type `resume`."""


class Followed:
    """The mark in a run's folder that one process follows the run; freed with the process."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / MARK
        self._file: IO[str] | None = None

    def take(self) -> bool:
        """Tell whether this process holds the mark, taking it when it is free."""
        if self._file is not None:
            return True
        file = self._path.open("a", encoding="ascii")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._file = file
        return True

    def __enter__(self) -> Self:
        """Take the mark if it is free."""
        self.take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Give the mark back."""
        if self._file is not None:
            self._file.close()
            self._file = None


def is_followed(folder: Path) -> bool:
    """Tell whether some process follows the run of a folder."""
    if not (folder / MARK).is_file():
        return False
    with Followed(folder) as mark:
        return not mark.take()


def is_open(folder: Path) -> bool:
    """Tell whether a run was submitted and has neither ended nor failed in words."""
    if not (folder / SUBMISSION).is_file():
        return False
    try:
        phase = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))["phase"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return phase not in ENDED


@dataclass
class _Try:
    """What was last done about one run."""

    since: float
    size: int = -1
    child: subprocess.Popen[bytes] | None = None
    given_up: bool = False


class Unwatched:
    """Starts `mfm-server resume` for the runs of a consortium that nobody follows.

    Args:
        folder: the consortium's.
        words: file that takes what the commands print.
    """

    def __init__(self, folder: Path, words: Path) -> None:
        self._folder, self._words = folder, words
        self._tries: dict[str, _Try] = {}
        self._next = 0.0

    def look(self) -> None:
        """Look at every run, at most every few seconds."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + LOOK_EVERY_S
        for path in sorted((self._folder / "runs").glob(f"*/{SUBMISSION}")):
            self._look_at(path.parent, now)

    def stop(self) -> None:
        """End the commands that were started here; the runs go on."""
        for name, known in self._tries.items():
            if known.child is not None and known.child.poll() is None:
                known.child.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    known.child.wait(10.0)
                log.info("no longer following %s", name)

    def _look_at(self, run: Path, now: float) -> None:
        known = self._tries.setdefault(run.name, _Try(now))
        if known.child is not None and known.child.poll() is None:
            return
        if not is_open(run) or is_followed(run):
            known.since = now
            return
        if now - known.since < UNWATCHED_S or known.given_up:
            return
        if known.size == _size(run):
            known.given_up = True
            log.error("%s got nowhere; see %s, then `mfm-server resume`", run.name, self._words)
            return
        known.size, known.child, known.since = _size(run), self._start(run.name), now
        log.info("nobody follows %s; resumed (process %d)", run.name, known.child.pid)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "server", "resume", str(self._folder)]
        with self._words.open("ab") as out:
            return subprocess.Popen(
                [*command, "--name", name],
                env={**os.environ, "PYTHONPATH": str(bundle_folder())},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pids(self) -> tuple[int, ...]:
        """Return the processes of the commands, dead ones until they were looked at."""
        return tuple(known.child.pid for known in self._tries.values() if known.child)


def _size(run: Path) -> int:
    with contextlib.suppress(OSError):
        return (run / ROUNDS).stat().st_size
    return 0
