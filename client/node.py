"""The hospital's node: Flower's SuperNode and the site's own runner, kept running together.

The SuperNode holds the connection to the coordinator and runs nothing itself (`--isolation
process`); the runner takes its messages over loopback under a secret of their own. One supervisor
per folder, held by a lock; `node/processes.json` says what it started, by id and start time.
What crosses the hospital's boundary: what the SuperNode and the runner send; nothing here.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from client.config import load_site_config
from client.folder import Folder
from client.keys import key_problems, write_private
from client.kit import read_kit
from client.supervisor import Pace, Program, Service, supervise
from mfm_core.errors import ConfigError, RunFailed
from mfm_core.whole_file import write_whole
from strategies.code_hash import bundle_folder
from strategies.exposition import serve
from strategies.health import quiet_address
from strategies.processes import Process, observe, read_process, wait_until_gone

LOOPBACK = "127.0.0.1,localhost,::1"
CONNECTED = "SuperNode ID:"
"""What a SuperNode writes once its SuperLink has let it in (flwr 1.41)."""

PROCESSES, LOCK = "processes.json", "lock"
DETACH_LIMIT_S, STOP_LIMIT_S = 60.0, 90.0
log = logging.getLogger("mfm.node")


def run_node(folder: Folder, pace: Pace | None = None) -> None:
    """Keep the node running in the foreground until SIGTERM, SIGINT or SIGHUP.

    Raises:
        ConfigError: not ready to start, or running already.
        RunFailed: a program cannot be kept running; says which and why.
    """
    pace = pace or Pace()
    check_ready(folder)
    with only_one(folder):
        if left := end_left_over(folder):
            log.warning("ended what an earlier node left behind: %s", ", ".join(left))
        address = f"127.0.0.1:{free_port()}"
        started = programs(folder, address, os.environ, quiet_address())
        services = [Service(program, pace) for program in started]
        record = _Record(folder, address, services)
        told: list[str] = []

        def end(number: int, frame: FrameType | None) -> None:
            told.append(signal.Signals(number).name)
            log.info("told to stop (%s)", told[-1])

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, end)
        try:
            with showing_figures(folder):
                supervise(services, pace, record.write, lambda: bool(told))
        finally:
            record.supervised = False
            record.write()


@contextlib.contextmanager
def showing_figures(folder: Folder) -> Iterator[None]:
    """Show figures to Prometheus where site.yaml names an address.

    Raises:
        ConfigError: the address is taken.
    """
    config = load_site_config(folder.site_file)
    if config.metrics is None:
        yield
        return
    from client.metrics import ClientFigures

    figures = ClientFigures(folder, config.state_folder)
    try:
        server = serve(config.metrics, figures.collector)
    except OSError as error:
        reason = f"{config.metrics} is taken ({error.strerror}); choose another port, or leave out"
        raise ConfigError("metrics", [reason]) from None
    log.info("figures for this hospital's Prometheus: http://%s/metrics", config.metrics)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class _Record:
    """Keeps processes.json equal to what is running."""

    def __init__(self, folder: Folder, address: str, services: Sequence[Service]) -> None:
        self.supervised = True
        self._path, self._address, self._services = folder.node / PROCESSES, address, services
        self._began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._written: dict[str, Any] = {}

    def write(self) -> None:
        """Write the file if it would say anything new."""
        own = observe("supervisor", os.getpid()) if self.supervised else None
        content = {
            "supervisor": own.to_dict() if own else None,
            "started_at": self._began,
            "address": self._address,
            "health": next((s.program.health for s in self._services if s.program.health), None),
            "services": [service.to_dict() for service in self._services],
        }
        if content != self._written:
            write_whole(self._path, json.dumps(content, indent=1).encode())
            self._written = content


def check_ready(folder: Folder) -> None:
    """Return if the node can be started.

    Raises:
        ConfigError: keys, kit or settings are not in order; everything is listed.
    """
    problems = key_problems(folder)
    for read in (lambda: read_kit(folder.kit), lambda: load_site_config(folder.site_file)):
        try:
            read()
        except ConfigError as error:
            problems += [f"{error.subject}: {problem}" for problem in error.problems]
    if not folder.authority.is_file():
        problems.append(f"{folder.authority} is missing; join the kit again")
    if problems:
        raise ConfigError("the node cannot start", problems)


def programs(
    folder: Folder, address: str, around: Mapping[str, str], health: str | None = None
) -> tuple[Program, ...]:
    """Return SuperNode and runner.

    Args:
        folder: the hospital's.
        address: loopback host:port on which the SuperNode offers its messages to the runner.
        around: the environment to start from.
        health: loopback host:port for the SuperNode's gRPC health service; None starts none.
    """
    if not folder.secret.is_file():
        folder.node.mkdir(parents=True, exist_ok=True)
        write_private(folder.secret, secrets.token_bytes(32))
    host, _, port = address.rpartition(":")
    environment = node_environment(folder, around)
    supernode = (
        *(sys.executable, "-P", str(Path(__file__).with_name("supernode.py"))),
        *("--root-certificates", str(folder.authority)),
        *("--superlink", read_kit(folder.kit).address),
        *("--auth-supernode-private-key", str(folder.key)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(folder.secret)),
        *("--host", host, "--port", port),
        *(("--health-server-address", health) if health else ()),
    )
    runner = (sys.executable, "-m", "client.runner", str(folder.site_file), address)
    logs = folder.node / "logs"
    empty = folder.node / "home"
    empty.mkdir(parents=True, exist_ok=True)
    return (
        Program("supernode", supernode, logs / "supernode.log", empty, environment, health),
        Program(
            "runner",
            (*runner, str(folder.secret)),
            logs / "runner.log",
            bundle_folder(),
            environment,
        ),
    )


def node_environment(folder: Folder, around: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the node's programs: no telemetry, no proxy for loopback."""
    own = Path(sys.executable).parent
    return {
        **around,
        **proxy_exemptions(around),
        "FLWR_HOME": str(folder.node / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{own}{os.pathsep}{around.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
    }


def proxy_exemptions(around: Mapping[str, str]) -> dict[str, str]:
    """Return NO_PROXY with loopback in it, under both its names."""
    given = around.get("NO_PROXY") or around.get("no_proxy") or ""
    exempt = ",".join(dict.fromkeys([*filter(None, given.split(",")), *LOOPBACK.split(",")]))
    return {"NO_PROXY": exempt, "no_proxy": exempt}


def free_port() -> int:
    """Return a port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def only_one(folder: Folder) -> Iterator[None]:
    """Hold the folder's lock.

    Raises:
        ConfigError: another node holds it.
    """
    folder.node.mkdir(parents=True, exist_ok=True)
    with (folder.node / LOCK).open("w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            reason = "the node is running already; `mfm-client stop` ends it"
            raise ConfigError(str(folder.root), [reason]) from None
        yield


def read_processes(folder: Folder) -> dict[str, Any]:
    """Return processes.json, {} where there is none or it is damaged."""
    try:
        content = json.loads((folder.node / PROCESSES).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def started_processes(folder: Folder) -> tuple[Process, ...]:
    """Return those processes of the node that still run, the supervisor first."""
    content = read_processes(folder)
    rows = [content.get("supervisor"), *content.get("services", [])]
    return tuple(found for row in rows if (found := read_process(row)) and found.alive)


def end_left_over(folder: Folder) -> tuple[str, ...]:
    """End what a supervisor left behind that was killed; return the names."""
    left = tuple(found for found in started_processes(folder) if found.name != "supervisor")
    for process in left:
        process.send(signal.SIGTERM)
    for process in wait_until_gone(left, 10.0):
        process.send(signal.SIGKILL)
    wait_until_gone(left, 5.0)
    return tuple(process.name for process in left)


def stop_node(folder: Folder, limit_s: float = STOP_LIMIT_S) -> tuple[str, ...]:
    """End the node and nothing else; return the names of what was running.

    Raises:
        RunFailed: something still runs.
    """
    running = started_processes(folder)
    supervisor = [process for process in running if process.name == "supervisor"]
    for process in supervisor:
        process.send(signal.SIGTERM)
    for process in wait_until_gone(supervisor, limit_s):
        process.send(signal.SIGKILL)
    wait_until_gone(supervisor, 5.0)
    end_left_over(folder)
    if still := [process for process in running if process.alive]:
        names = ", ".join(f"{process.name} ({process.pid})" for process in still)
        raise RunFailed(f"still running: {names}; run as the user who started the node")
    return tuple(process.name for process in running)


@dataclass(frozen=True)
class NodeStatus:
    """How a node is.

    Attributes:
        running: whether its supervisor runs.
        started_at: when that began, ISO 8601; empty when it does not run.
        connected: whether the SuperNode was let in since its last start.
        services: per program name, pid, alive, state, reason, starts, answers (its health check).
    """

    running: bool
    started_at: str
    connected: bool
    services: tuple[dict[str, Any], ...]


def read_node(folder: Folder) -> NodeStatus:
    """Return how the node of a folder is, from its record and the processes themselves."""
    content = read_processes(folder)
    supervisor = read_process(content.get("supervisor"))
    running = supervisor is not None and supervisor.alive
    services, connected = [], False
    for row in content.get("services", []):
        process = read_process(row)
        alive = process is not None and process.alive
        shown = {
            key: row.get(key) for key in ("name", "pid", "state", "reason", "starts", "answers")
        }
        services.append({**shown, "alive": alive})
        if row.get("name") == "supernode" and alive:
            connected = CONNECTED in _text_from(Path(row["log"]), int(row.get("log_from", 0)))
    started = str(content.get("started_at", "")) if running else ""
    return NodeStatus(running, started, connected, tuple(services))


def _text_from(path: Path, offset: int) -> str:
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(offset)
        return file.read(1_000_000).decode("utf-8", errors="replace")
    return ""


def start_detached(folder: Folder, limit_s: float = DETACH_LIMIT_S) -> NodeStatus:
    """Start the node in the background; return once it is connected or after `limit_s`.

    Raises:
        ConfigError: not ready to start, or running already.
        RunFailed: it ended again; its last words are in the text.
    """
    check_ready(folder)
    with only_one(folder):
        pass
    words = folder.node / "logs" / "node.log"
    words.parent.mkdir(parents=True, exist_ok=True)
    with words.open("ab") as output:
        begun = output.tell()
        child = subprocess.Popen(
            [sys.executable, "-m", "client", "start", str(folder.root)],
            cwd=bundle_folder(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    stop_at = time.monotonic() + limit_s
    while time.monotonic() < stop_at:
        time.sleep(0.2)
        if child.poll() is not None:
            raise RunFailed(f"the node ended again:\n{_text_from(words, begun)[-2000:]}")
        found = read_node(folder)
        if found.connected:
            return found
    return read_node(folder)
