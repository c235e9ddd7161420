"""One private Flower engine that cannot outlive the study that started it.

The study starts this file as its own process and keeps a pipe to it. The guard starts the
SuperLink and waits. When the pipe closes (the study finished, failed, was interrupted or was
killed with SIGKILL) or the SuperLink ends by itself, every process that carries the engine's mark
in its environment is ended and the engine's temporary folder is removed. Flower and Ray start
their helpers in sessions of their own, so a process group is not enough (flwr 1.41, Ray 2.55).
Standard library only: it must start in milliseconds. Nothing crosses a hospital's boundary.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "MFM_ENGINE"
"""Environment variable that every process of an engine inherits."""


def find_marked(token: str) -> Iterator[int]:
    """Yield the ids of live processes whose environment carries the mark (Linux)."""
    wanted = f"{MARK}={token}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            carries = wanted in (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if carries and int(folder.name) != os.getpid():
            yield int(folder.name)


def end_marked(token: str, limit_s: float = 20.0) -> None:
    """End every process of an engine, again and again until none is left."""
    stop_at = time.monotonic() + limit_s
    while time.monotonic() < stop_at:
        pids = list(find_marked(token))
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def wait_for_end(child: subprocess.Popen[bytes]) -> None:
    """Return when the study closes its end of the pipe or the SuperLink ends."""
    while child.poll() is None:
        ready, _, _ = select.select([0], [], [], 0.2)
        if ready and not os.read(0, 1):
            return


def main() -> int:
    """Guard `TOKEN FOLDER COMMAND...`; the command runs in `FOLDER/empty`."""
    token, folder, *command = sys.argv[1:]
    child = subprocess.Popen(
        command,
        cwd=Path(folder) / "empty",
        env={**os.environ, MARK: token},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for_end(child)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    code = child.wait()
    end_marked(token)
    shutil.rmtree(folder, ignore_errors=True)
    return 0 if code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
