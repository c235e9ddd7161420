"""Keeps a node's programs running, and says why when it cannot.

A SuperNode that comes back within 60 s of a kill is refused by its SuperLink and exits with code
305 (flwr 1.41; the code stands in its log, the process's own status is 1). That is tried again
for 90 s with growing pauses; after that the key is unknown there or in use elsewhere, and the
node ends. One whose clock is off ends as if it had been told to; it is tried again without an
end. A program that crashes is started again, one that never stays up ends the node, and so does
an error that no repetition can cure. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mfm_core.errors import RunFailed
from strategies.health import Pulse, is_serving
from strategies.processes import Process, ended_with_parent, observe

EXIT_CODE = re.compile(r"Exit Code: (\d+)")
REFUSED, ACTIVATION = 305, "[code: 2004]"
"""Flower's SUPERNODE_CONNECTION_ERROR, and the one cause of it that means "this key, not now"."""

HOPELESS = {
    302: "keys/node is no key that a SuperNode can use; run `mfm-client check --part keys`",
    303: "the SuperNode was started without TLS; join the kit again",
    600: "the address in kit/kit.json cannot be used; get the kit again",
    603: "kit/ca.crt cannot be used; join the kit again",
    604: "a file of the node is missing; run `mfm-client check`",
}
"""Exit codes of a SuperNode that repetition does not cure."""

UNASKED = "SuperNode terminated gracefully"
"""What a SuperNode says, with status 0, when told to end or when it got HTTP 401 (flwr 1.41)."""

UNTRUSTED = "SSL/TLS handshake error detected."
"""What a SuperNode says before it ends because of a certificate; its threads can outlive that."""

UNSIGNED = (
    "the server refuses its signature (HTTP 401): this machine's clock is more than 5 s ahead or "
    "5 min behind, or its key was taken away; run `mfm-client check`"
)
CAUSE = re.compile(r"Failed to initialize the connection to the SuperLink\.\n(.{1,200})")

LARGEST_LOG = 10 * 2**20
READ_BACK = 20_000
"""Bytes of a log's end that are searched for an exit code."""

log = logging.getLogger("mfm.node")
State = Literal["running", "waiting", "failed", "stopped"]


@dataclass(frozen=True)
class Pace:
    """How patient the supervisor is, in seconds.

    Attributes:
        poll_s: between two looks.
        first_wait_s, longest_wait_s: pause after a first end, doubled each time up to the longest.
        settled_s: a program that ran for so long may crash anew from the start.
        refused_s: how long a SuperNode's refusal is taken for a short one.
        patience_s: from SIGTERM to SIGKILL.
        tries: quick ends in a row until the node gives up.
    """

    poll_s: float = 0.5
    first_wait_s: float = 2.0
    longest_wait_s: float = 30.0
    settled_s: float = 60.0
    refused_s: float = 90.0
    patience_s: float = 30.0
    tries: int = 6


@dataclass(frozen=True)
class Program:
    """What is to be kept running.

    Attributes:
        name: "supernode" or "runner".
        command: what to start.
        log: where its output goes; appended.
        folder: its working directory.
        environment: all of its environment.
        health: host:port of its gRPC health service, on loopback; None where it has none.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    folder: Path
    environment: Mapping[str, str]
    health: str | None = None


class Service:
    """One program with its starts and ends."""

    def __init__(self, program: Program, pace: Pace) -> None:
        self.program, self.pace = program, pace
        self.state: State = "stopped"
        self.reason = ""
        self.starts = self.log_from = 0
        self.process: Process | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._began = self._next = 0.0
        self._quick = self._unsigned = 0
        self._refused_since: float | None = None
        self.pulse = Pulse(lambda: is_serving(str(program.health)))

    def start(self) -> None:
        """Start the program; its output is appended to its log."""
        program = self.program
        program.log.parent.mkdir(parents=True, exist_ok=True)
        if program.log.is_file() and program.log.stat().st_size > LARGEST_LOG:
            program.log.replace(program.log.with_suffix(".log.1"))
        with program.log.open("ab") as output:
            self.log_from = output.tell()
            self._child = subprocess.Popen(
                ended_with_parent(program.command),
                cwd=program.folder,
                env=dict(program.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.process = observe(program.name, self._child.pid)
        self.starts += 1
        self._began = time.monotonic()
        self.state, self.reason = "running", ""
        log.info("%s started (process %d)", program.name, self._child.pid)

    def watch(self) -> None:
        """Look once: note an end, start again when the pause is over."""
        now = time.monotonic()
        if self.state == "waiting" and now >= self._next:
            self.start()
        if self.state != "running" or self._child is None:
            return
        if self._child.poll() is None:
            if now - self._began > self.pace.settled_s:
                self._quick, self._unsigned, self._refused_since = 0, 0, None
            self._look_for_silence(now)
            return
        self.pulse.is_lost(False)
        self._ended(now, self.said())

    def _look_for_silence(self, now: float) -> None:
        """End a program that does not answer: after a while, at once if it was about to end."""
        if self.program.health is None:
            return
        why = "had long not answered its health check and was ended"
        lost = self.pulse.is_lost(True)
        if self.pulse.answers is False and UNTRUSTED in self.said():
            lost, why = True, "does not trust the server's certificate any more"
        if lost:
            self.stop(0.0)
            self._wait(now, 1, why)

    def said(self) -> str:
        """Return the end of what the program wrote since its last start."""
        with contextlib.suppress(OSError), self.program.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self.log_from, size - READ_BACK))
            return file.read().decode("utf-8", errors="replace")
        return ""

    def stop(self, patience_s: float | None = None) -> None:
        """End the program and whatever it left in its own session."""
        child, self.state = self._child, "stopped"
        if child is None:
            return
        if child.poll() is None:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(self.pace.patience_s if patience_s is None else patience_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        log.info("%s ended", self.program.name)

    def to_dict(self) -> dict[str, Any]:
        """Return what processes.json holds of it."""
        process = {} if self.process is None else self.process.to_dict()
        facts = {"state": self.state, "reason": self.reason, "starts": self.starts}
        named = {"name": self.program.name, "log": str(self.program.log)}
        answers = self.pulse.answers if self.state == "running" else None
        return {**process, **named, **facts, "answers": answers, "log_from": self.log_from}

    def _ended(self, now: float, said: str) -> None:
        assert self._child is not None
        name, status = self.program.name, self._child.returncode
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        found = EXIT_CODE.findall(said)
        code = int(found[-1]) if found else None
        if code in HOPELESS:
            self._give_up(f"{name} exit code {code}: {HOPELESS[code]}")
        elif code == REFUSED:
            self._refused(now, said)
        elif status == 0 and UNASKED in said:
            self._unsigned += 1
            self._wait(now, self._unsigned, UNSIGNED)
        else:
            quick = now - self._began < self.pace.settled_s
            self._quick = self._quick + 1 if quick else 1
            how = f"exit code {code}" if code is not None else f"status {status}"
            if self._quick >= self.pace.tries:
                self._give_up(f"{name} ended {self._quick} times soon after its start ({how})")
            else:
                self._wait(now, self._quick, f"ended with {how}")

    def _refused(self, now: float, said: str) -> None:
        """Wait after exit code 305: for a while when the key is refused, else without an end."""
        if self._refused_since is None:
            self._refused_since, self._quick = now, 0
        self._quick += 1
        if ACTIVATION not in said:
            cause = "".join(f": {words.strip()}" for words in CAUSE.findall(said)[-1:])
            why = f"the server cannot be reached or trusted (exit code 305{cause})"
            self._wait(now, self._quick, why)
            return
        since = now - self._refused_since
        if since > self.pace.refused_s:
            self._give_up(
                f"the coordinator's server has refused this site's key for {since:.0f} s: it is "
                "not registered (any more), or another node runs with it; run `mfm-client check "
                "--part registration`"
            )
        else:
            self._wait(
                now, self._quick, "refused for now (exit code 305): an earlier start lingers"
            )

    def _wait(self, now: float, times: int, why: str) -> None:
        pause = min(self.pace.longest_wait_s, self.pace.first_wait_s * 2.0 ** min(times - 1, 16))
        self.state, self.reason, self._next = "waiting", why, now + pause
        log.warning("%s %s; again in %.0f s", self.program.name, why, pause)

    def _give_up(self, why: str) -> None:
        self.state, self.reason = "failed", why
        log.error("%s", why)


def supervise(
    services: Sequence[Service], pace: Pace, changed: Callable[[], None], ended: Callable[[], bool]
) -> None:
    """Start services in order, watch them until told to end, and end them in reverse order.

    Args:
        services: what to keep running.
        pace: how patient.
        changed: called after each look.
        ended: tells whether to end.

    Raises:
        RunFailed: one gave up; all were ended.
    """
    try:
        for service in services:
            service.start()
        changed()
        while not ended():
            time.sleep(pace.poll_s)
            for service in services:
                service.watch()
            changed()
            failed = [service for service in services if service.state == "failed"]
            if failed:
                logs = ", ".join(str(service.program.log) for service in failed)
                reasons = "; ".join(service.reason for service in failed)
                raise RunFailed(f"the node ends: {reasons}. Its own words: {logs}")
    finally:
        for service in reversed(services):
            service.stop()
        changed()
