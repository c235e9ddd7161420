"""Keeps a consortium running: one supervisor per folder, in the foreground.

A lock holds a second one off. Once a second it starts again what has ended, keeps Flower's
register of keys equal to the list of sites, takes up a renewed certificate and runs that nobody
follows, and writes `superlink/processes.json`. It adopts every orphan below it, so that nothing it
started can slip away. What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, cast
from wsgiref.simple_server import WSGIServer

from mfm_core.errors import ConfigError, MfmError, RunFailed, system_refusal
from mfm_core.whole_file import write_whole
from server.metrics import ServerFigures
from server.register import Register
from server.services import Service
from server.superlink import (
    SERVER_APP,
    Door,
    Host,
    check_host,
    chosen_door,
    end_started,
    is_healthy,
    lay_out,
    read_processes,
    recipes,
)
from server.unwatched import Unwatched
from strategies.code_hash import bundle_folder
from strategies.exposition import serve
from strategies.health import Pulse, is_serving, quiet_address
from strategies.processes import adopt_orphans, descendants, end, observe, reap

log = logging.getLogger("mfm.supervisor")

START_LIMIT_S = 120.0
TICK_S = 0.5
REGISTER_AGAIN_S = 30.0
"""Pause before sites that could not be registered are tried again."""


@contextlib.contextmanager
def only_one(host: Host) -> Iterator[None]:
    """Hold the folder's lock.

    Raises:
        ConfigError: another supervisor holds it.
    """
    host.link.mkdir(parents=True, exist_ok=True)
    with (host.link / "lock").open("w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = read_processes(host).get("supervisor", {}).get("pid", "unknown")
            reason = f"is running already (process {pid}); `mfm-server stop` ends it"
            raise ConfigError(str(host.folder), [reason]) from None
        yield


class Supervisor:
    """Runs one consortium folder until it is told to stop."""

    def __init__(self, host: Host) -> None:
        self.host = replace(host, health=quiet_address())
        self._shown: WSGIServer | None = None
        self.services: tuple[Service, ...] = ()
        self.ready = False
        self.problems: tuple[str, ...] = ()
        self._ending = False
        self._began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._written: dict[str, Any] = {}
        self._register = Register(
            host.folder / "sites", host.nodes, host.database, host.flower, lambda: self._ending
        )
        self._unwatched = Unwatched(host.folder, host.logs / "resume.log")
        self._register_at = 0.0
        self._pulses = {
            "superlink": Pulse(self._superlink_answers),
            "gateway": Pulse(self._gateway_answers),
        }
        self._certificate = 0

    def run(self) -> None:
        """Start everything, watch it, and end everything at SIGTERM, SIGINT or SIGHUP.

        Raises:
            ConfigError: the folder is in use, incomplete, or a port is taken.
            RunFailed: the SuperLink or the gateway does not come up.
        """
        with only_one(self.host):
            left = end_started(self.host)
            if left:
                log.warning("ended what an earlier supervisor left behind: %s", ", ".join(left))
            check_host(self.host)
            lay_out(self.host)
            adopt_orphans()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, self._end)
            try:
                self._start()
                while not self._ending:
                    self.tick()
                    time.sleep(TICK_S)
            finally:
                self._stop()

    def _end(self, number: int, frame: FrameType | None) -> None:
        log.info("told to stop (%s)", signal.Signals(number).name)
        self._ending = True

    def _start(self) -> None:
        self._certificate = self._stamp()
        self._show_figures()
        self.services = tuple(Service(recipe) for recipe in recipes(self.host))
        link, executor, gateway = self.services
        link.start()
        self._write()
        self._await(link, self.host.superlink)
        executor.start()
        gateway.start()
        self._write()
        self._await(gateway, self.host.listen)
        if self._ending:
            return
        self._update_register()
        self.ready = True
        self._write()
        _tell_systemd("READY=1")
        door = chosen_door(self.host)
        log.info("ready: %s (%s), SuperLink %s", self.host.listen, door, self.host.superlink)

    def _show_figures(self) -> None:
        if self.host.metrics is not None:
            self._shown = serve(self.host.metrics, ServerFigures(self.host).collector)
            log.info("figures for Prometheus: http://%s/metrics", self.host.metrics)

    def _await(self, service: Service, address: str) -> None:
        stop_at = time.monotonic() + START_LIMIT_S
        authority = self.host.authority / "ca.crt"
        while not self._ending and not is_healthy(address, authority):
            if not service.alive or time.monotonic() > stop_at:
                raise RunFailed(
                    f"the {service.recipe.name} did not come up at {address}: "
                    f"{service.say() or 'it said nothing'}; see {service.recipe.log}"
                )
            time.sleep(0.2)

    def tick(self) -> None:
        """Look once at everything."""
        for service in self.services:
            service.watch()
        waited_for = [s.process.pid for s in self.services if s.process is not None]
        reap([*waited_for, *self._unwatched.pids])
        self._unwatched.look()
        self._renew()
        self._probe()
        if time.monotonic() >= self._register_at and (self.problems or self._register.changed()):
            self._update_register()
        self._write()

    def _update_register(self) -> None:
        try:
            problems = self._register.update()
        except (RunFailed, OSError) as error:
            problems = (f"the list of sites could not be brought to Flower: {error}",)
        for text in set(problems) - set(self.problems):
            log.warning("%s", text)
        self.problems = problems
        self._register_at = time.monotonic() + (REGISTER_AGAIN_S if problems else 0.0)

    def _stamp(self) -> int:
        with contextlib.suppress(OSError):
            return (self.host.authority / "server.crt").stat().st_mtime_ns
        return self._certificate

    def _renew(self) -> None:
        """Start SuperLink and gateway again when the server certificate was replaced."""
        if self._stamp() == self._certificate:
            return
        self._certificate = self._stamp()
        log.info("the server certificate was replaced: SuperLink and gateway start again")
        for service in (self.services[0], self.services[2]):
            service.stop()
            service.start()

    def _probe(self) -> None:
        """End what runs and does not answer; `watch` starts it again."""
        for service in self.services:
            pulse = self._pulses.get(service.recipe.name)
            if pulse is not None and pulse.is_lost(service.alive):
                log.warning("%s has long not answered; it is ended", service.recipe.name)
                service.stop(patience_s=0.0)

    def _superlink_answers(self) -> bool:
        health, authority = str(self.host.health), self.host.authority / "ca.crt"
        return is_serving(health) and is_healthy(self.host.superlink, authority)

    def _gateway_answers(self) -> bool:
        """Ask the SuperLink through the gateway; a silent SuperLink is not the gateway's fault."""
        behind = self._pulses["superlink"].answers
        return not behind or is_healthy(self.host.listen, self.host.authority / "ca.crt")

    def _write(self) -> None:
        """Write processes.json if it would say anything new."""
        own = observe("supervisor", os.getpid())
        services = [
            {
                **service.process.to_dict(),
                "starts": service.starts,
                "alive": service.alive,
                "answers": pulse.answers
                if (pulse := self._pulses.get(service.recipe.name))
                else None,
            }
            for service in self.services
            if service.process is not None
        ]
        known = {row["pid"] for row in services}
        tasks = (pid for pid in descendants(os.getpid()) if pid not in known)
        below = (observe(_task_name(pid), pid) for pid in tasks)
        content = {
            "supervisor": own.to_dict() if own else None,
            "listen": self.host.listen,
            "superlink": self.host.superlink,
            "health": self.host.health,
            "metrics": self.host.metrics,
            "gateway": chosen_door(self.host),
            "started_at": self._began,
            "ready": self.ready,
            "services": services,
            "tasks": [process.to_dict() for process in below if process and process.alive],
            "problems": list(self.problems),
        }
        if content != self._written:
            write_whole(self.host.processes, json.dumps(content, indent=1).encode())
            self._written = content

    def _stop(self) -> None:
        _tell_systemd("STOPPING=1")
        self._unwatched.stop()
        if self._shown is not None:
            self._shown.shutdown()
            self._shown.server_close()
        for service in reversed(self.services):
            service.stop()
        rest = [observe("task", pid) for pid in descendants(os.getpid())]
        end([process for process in rest if process is not None])
        reap(())
        self.host.processes.unlink(missing_ok=True)
        log.info("stopped")


def _task_name(pid: int) -> str:
    """Return what a process that Flower started does."""
    with contextlib.suppress(OSError):
        if b"flwr-serverapp" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return SERVER_APP
    return "task"


def _tell_systemd(text: str) -> None:
    """Tell systemd how far the service is, where it asks to be told (Type=notify)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    place = "\0" + address[1:] if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.sendto(text.encode(), place)


def supervisor_command(host: Host) -> tuple[list[str], dict[str, str]]:
    """Return command and environment of a supervisor in a process of its own.

    It loads neither torch nor Flower, so it takes a tenth of the memory of the command line.
    """
    words = [str(host.folder), host.listen, host.superlink, host.door, host.metrics or ""]
    command = [sys.executable, "-P", "-m", "server.supervisor", *words]
    return command, {**os.environ, "PYTHONPATH": str(bundle_folder())}


def main() -> None:
    """Run a supervisor for FOLDER LISTEN SUPERLINK DOOR METRICS, as `mfm-server start` does."""
    folder, listen, superlink, door, metrics = sys.argv[1:]
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    log.setLevel(logging.INFO)
    try:
        host = Host(Path(folder), listen, superlink, cast(Door, door), metrics or None)
        Supervisor(host).run()
    except MfmError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(system_refusal(error), file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
