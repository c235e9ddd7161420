"""Processes by id *and* start time: what the node started is ended, and nothing else.

A process id is used again after a while, so a record holds the start time too (clock ticks since
boot, and the boot's own id), and no signal goes to a process whose start time differs. Linux only.
What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One process that was started by us.

    Attributes:
        name: what it does, e.g. "supernode".
        pid: process id.
        started: clock ticks between boot and its start.
        boot: id of the boot.
    """

    name: str
    pid: int
    started: int
    boot: str

    @property
    def alive(self) -> bool:
        """Tell whether this very process still runs; a zombie does not."""
        return _started(self.pid) == self.started and self.boot == boot_id()

    def send(self, number: signal.Signals) -> None:
        """Send a signal if it still is the process that was recorded."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return asdict(self)


def boot_id() -> str:
    """Return the id of the running boot."""
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _started(pid: int) -> int | None:
    """Return the start time of a running process, None when it is gone or a zombie."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def observe(name: str, pid: int) -> Process | None:
    """Return the record of a running process, None when it is gone."""
    started = _started(pid)
    return None if started is None else Process(name, pid, started, boot_id())


def read_process(content: Any) -> Process | None:
    """Return the process of a JSON record, None when the record is none."""
    try:
        return Process(
            str(content["name"]),
            int(content["pid"]),
            int(content["started"]),
            str(content["boot"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def wait_until_gone(processes: Sequence[Process], limit_s: float) -> tuple[Process, ...]:
    """Return those that still run after at most `limit_s` seconds."""
    stop_at = time.monotonic() + limit_s
    while time.monotonic() < stop_at and any(process.alive for process in processes):
        time.sleep(0.05)
    return tuple(process for process in processes if process.alive)


_LAUNCH = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGTERM; survives exec
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def ended_with_parent(command: Sequence[str]) -> tuple[str, ...]:
    """Return a command that becomes `command` and gets SIGTERM when this process dies.

    The kernel sends it, so a node that is killed leaves nothing running. The program must be
    given by its full path.
    """
    return (sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), *command)
