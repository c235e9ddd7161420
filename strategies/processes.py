"""Processes by id *and* start time: what was started here is ended here, and nothing else.

A process id is used again after a while, so a record holds the start time too (clock ticks since
boot, and the boot's own id), and nothing is ended whose start time differs. Flower starts tasks of
its own: `descendants` finds them through the table of parents, which also shows processes that
forbid others to read their environment. Linux only.
They listen at host:port, which `split_address` reads. What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of Linux's prctl."""


@dataclass(frozen=True)
class Process:
    """One process that was started by us.

    Attributes:
        name: what it does, e.g. "superlink".
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
        found = _stat(self.pid)
        return found is not None and found[1:] == (self.started, True) and self.boot == boot_id()

    def send(self, number: int) -> None:
        """Send a signal if it still is the process that was recorded."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return asdict(self)


def split_address(address: str) -> tuple[str, int]:
    """Return host (without brackets) and port of host:port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def boot_id() -> str:
    """Return the id of the running boot."""
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _stat(pid: int) -> tuple[int, int, bool] | None:
    """Return parent, start time and whether it runs; None when there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return int(fields[1]), int(fields[19]), fields[0] not in ("Z", "X")


def observe(name: str, pid: int) -> Process | None:
    """Return the record of a process, None when there is no such process."""
    found = _stat(pid)
    return None if found is None else Process(name, pid, found[1], boot_id())


def read_process(content: Any) -> Process | None:
    """Return the process of a JSON record, None when the record is no process."""
    try:
        return Process(
            str(content["name"]),
            int(content["pid"]),
            int(content["started"]),
            str(content["boot"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _parents() -> dict[int, int]:
    pids = (int(folder.name) for folder in _PROC.glob("[0-9]*"))
    return {pid: found[0] for pid in pids if (found := _stat(pid)) is not None}


def descendants(pid: int) -> tuple[int, ...]:
    """Return the ids of all processes below `pid`, children first; `pid` is not among them."""
    parents = _parents()
    found, layer = [], [pid]
    while layer:
        layer = [child for child, parent in parents.items() if parent in layer]
        found += layer
    return tuple(found)


def adopt_orphans() -> None:
    """Make this process the parent of every orphan below it, so that none can slip away."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)


def reap(spared: Iterable[int]) -> None:
    """Collect dead children of this process, except those that somebody else waits for."""
    kept = set(spared)
    for pid in descendants(os.getpid()):
        found = _stat(pid)
        if found and found[0] == os.getpid() and not found[2] and pid not in kept:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def send_signal(process: Process, number: int) -> None:
    """Send a signal as `Process.send` does, and pass over a process that is not ours to end."""
    with contextlib.suppress(PermissionError):
        process.send(number)


def wait_until_gone(processes: Sequence[Process], limit_s: float) -> tuple[Process, ...]:
    """Return those that still run after at most `limit_s` seconds."""
    stop_at = time.monotonic() + limit_s
    while time.monotonic() < stop_at:
        if not any(process.alive for process in processes):
            return ()
        time.sleep(0.05)
    return tuple(process for process in processes if process.alive)


def end(processes: Sequence[Process], patience_s: float = 10.0) -> None:
    """End processes and all that they started: first asked (SIGTERM), then forced (SIGKILL)."""
    below = [
        child
        for process in processes
        if process.alive
        for pid in descendants(process.pid)
        if (child := observe("task", pid)) is not None
    ]
    everyone = [*processes, *below]
    for process in processes:
        send_signal(process, signal.SIGTERM)
    for process in wait_until_gone(everyone, patience_s):
        send_signal(process, signal.SIGKILL)
    wait_until_gone(everyone, 5.0)


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
