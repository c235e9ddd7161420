"""What a consortium folder runs: SuperLink, SuperExec and gateway, and how each is started.

The SuperLink listens on loopback only, with TLS, node authentication, a persistent database,
`--isolation process` behind a secret and no installation of anything at run time; the SuperExec
starts the ServerApp; the gateway is the one port that hospitals reach. `server.supervisor` keeps
them running; `stop` ends what `superlink/processes.json` names and nothing else.
What crosses a hospital's boundary: nothing here; the gateway passes Flower's messages.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import shutil
import signal
import socket
import ssl
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

from mfm_core.errors import ConfigError
from server.certificates import write_secret
from server.flower import Flower, find_command, flower_environment, write_connection
from server.gateway import nginx_text
from server.services import Recipe
from strategies.code_hash import bundle_folder
from strategies.processes import (
    Process,
    descendants,
    end,
    observe,
    read_process,
    send_signal,
    split_address,
    wait_until_gone,
)

Door = Literal["auto", "nginx", "builtin"]

PROCESSES = "processes.json"
STOP_LIMIT_S = 60.0
SECRET_BYTES = 32
KEPT_APPS = 2
"""Unpacked bundles that stay: those of the last runs."""

SERVER_APP = "serverapp"
"""Name of the process of a run's ServerApp in processes.json."""


@dataclass(frozen=True)
class Host:
    """Where a consortium runs.

    Attributes:
        folder: the consortium folder, absolute.
        listen: host:port of the gateway.
        superlink: host:port of the SuperLink, on loopback.
        door: which gateway; auto takes nginx where it is installed.
        metrics: IP:port on loopback for Prometheus; None serves none.
        health: host:port on loopback for the SuperLink's gRPC health service; None starts none.
    """

    folder: Path
    listen: str = "0.0.0.0:8443"
    superlink: str = "127.0.0.1:8000"
    door: Door = "auto"
    metrics: str | None = None
    health: str | None = None

    @property
    def link(self) -> Path:
        """Return the folder of everything that runs."""
        return self.folder / "superlink"

    @property
    def home(self) -> Path:
        """Return FLWR_HOME."""
        return self.link / "home"

    @property
    def empty(self) -> Path:
        """Return the working directory of Flower's processes, in which nothing may lie."""
        return self.link / "empty"

    @property
    def logs(self) -> Path:
        """Return the folder of what the processes print."""
        return self.link / "logs"

    @property
    def database(self) -> Path:
        """Return the SuperLink's SQLite file."""
        return self.link / "state.db"

    @property
    def authority(self) -> Path:
        """Return the folder of ca.crt, server.crt and server.key."""
        return self.folder / "authority"

    @property
    def secret(self) -> Path:
        """Return the file of the secret between SuperLink and SuperExec."""
        return self.folder / "superexec.secret"

    @property
    def processes(self) -> Path:
        """Return processes.json."""
        return self.link / PROCESSES

    @property
    def nodes(self) -> Path:
        """Return nodes.json."""
        return self.link / "nodes.json"

    @property
    def flower(self) -> Flower:
        """Return the `flwr` command of this consortium."""
        return Flower(self.home, self.empty)


def find_nginx() -> str | None:
    """Return the path of nginx, which distributions put outside a user's PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def chosen_door(host: Host) -> Literal["nginx", "builtin"]:
    """Return the gateway that will serve."""
    if host.door == "auto":
        return "nginx" if find_nginx() else "builtin"
    return host.door


def check_host(host: Host) -> None:
    """Refuse what cannot work before anything is started.

    Raises:
        ConfigError: all problems at once.
    """
    problems = [
        f"{path.relative_to(host.folder)} is missing; run `mfm-server init`, or restore a copy"
        for path in (host.authority / name for name in ("ca.crt", "server.crt", "server.key"))
        if not path.is_file()
    ]
    address = split_address(host.superlink)[0]
    if not _is_loopback(address):
        problems.append(
            f"superlink: {host.superlink} is not loopback; whoever reaches the SuperLink can start "
            "code on every hospital, so it must be 127.0.0.1:PORT"
        )
    if host.door == "nginx" and not find_nginx():
        problems.append("gateway: nginx is not installed; install it, or set gateway: builtin")
    wanted = {"listen": host.listen, "superlink": host.superlink, "metrics": host.metrics}
    problems += [
        f"{name}: {text} is taken ({reason}); stop what listens there, or change {name}"
        for name, text in wanted.items()
        if text is not None and (reason := why_taken(text))
    ]
    if problems:
        raise ConfigError(str(host.folder), problems)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def why_taken(text: str) -> str:
    """Return why nothing can listen at IP:port; empty when it can."""
    host, port = split_address(text)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            return error.strerror or str(error)
    return ""


def lay_out(host: Host) -> None:
    """Make the folders, the secret and the private Flower configuration."""
    for path in (host.home, host.empty, host.logs, host.link / "gateway"):
        path.mkdir(parents=True, exist_ok=True)
    host.link.chmod(0o700)
    if not host.secret.is_file():
        write_secret(host.secret, secrets.token_bytes(SECRET_BYTES))
    write_connection(host.home, host.superlink, host.authority / "ca.crt")


def prune_apps(home: Path, kept: int = KEPT_APPS) -> tuple[str, ...]:
    """Remove bundles that Flower unpacked for earlier runs, and return their names.

    It unpacks one at the start of every run where it is not there, so none is ever missing.

    Args:
        home: FLWR_HOME; no run may be starting in it.
        kept: how many of the newest stay.
    """
    found = [path for path in (home / "apps").glob("*") if path.is_dir()]
    newest_first = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    for path in newest_first[kept:]:
        shutil.rmtree(path, ignore_errors=True)
    return tuple(path.name for path in newest_first[kept:] if not path.exists())


def recipes(host: Host) -> tuple[Recipe, ...]:
    """Return how SuperLink, SuperExec and gateway are started, in this order."""
    environment = flower_environment(host.home)
    secret = ["--superexec-auth-secret-file", str(host.secret)]
    address, port = split_address(host.superlink)
    link = [
        find_command("flower-superlink"),
        *("--ssl-ca-certfile", str(host.authority / "ca.crt")),
        *("--ssl-certfile", str(host.authority / "server.crt")),
        *("--ssl-keyfile", str(host.authority / "server.key")),
        *("--host", address, "--port", str(port)),
        *("--database", str(host.database), "--isolation", "process", *secret),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        *(("--health-server-address", host.health) if host.health else ()),
    ]
    executor = [
        find_command("flower-superexec"),
        *("--runtime-api-address", host.superlink),
        *("--root-certificates", str(host.authority / "ca.crt"), *secret),
    ]
    return (
        Recipe("superlink", link, environment, host.empty, host.logs / "superlink.log"),
        Recipe("superexec", executor, environment, host.empty, host.logs / "superexec.log"),
        _gateway(host, environment),
    )


def _gateway(host: Host, environment: dict[str, str]) -> Recipe:
    work = host.link / "gateway"
    if chosen_door(host) == "builtin":
        words = [sys.executable, "-P", "-m", "server.gateway", host.listen, host.superlink]
        environment = {**environment, "PYTHONPATH": str(bundle_folder())}
        command = [*words, str(host.authority)]
    else:
        text = nginx_text(host.listen, host.superlink, host.authority, work)
        (work / "nginx.conf").write_text(text, encoding="utf-8")
        command = [str(find_nginx()), "-p", str(work), "-c", str(work / "nginx.conf")]
        command += ["-e", str(work / "error.log")]
    return Recipe("gateway", command, environment, work, host.logs / "gateway.log")


def is_healthy(address: str, authority: Path, limit_s: float = 5.0) -> bool:
    """Tell whether `GET /health` is answered over a TLS connection that the authority vouches for.

    Args:
        address: host:port; the addresses of all interfaces are asked on loopback.
        authority: ca.crt.
        limit_s: longest wait, seconds.
    """
    host, port = split_address(address)
    name = {"0.0.0.0": "127.0.0.1", "::": "localhost"}.get(host, host)
    shown = f"[{name}]" if ":" in name else name
    try:
        context = ssl.create_default_context(cafile=str(authority))
        with httpx.Client(verify=context, trust_env=False, timeout=limit_s) as client:
            return client.get(f"https://{shown}:{port}/health").status_code == 200
    except (httpx.HTTPError, OSError):
        return False


def read_processes(host: Host) -> dict[str, Any]:
    """Return processes.json; empty when nothing was started, or it is damaged."""
    try:
        content = json.loads(host.processes.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def find_supervisor(host: Host) -> Process | None:
    """Return the supervisor that runs now, None when none does."""
    found = read_process(read_processes(host).get("supervisor"))
    return found if found is not None and found.alive else None


def find_started(host: Host) -> tuple[Process, ...]:
    """Return every recorded process, the supervisor apart, that still runs."""
    content = read_processes(host)
    rows = [*content.get("services", []), *content.get("tasks", [])]
    known = [read_process(row) for row in rows]
    return tuple(process for process in known if process is not None and process.alive)


def end_started(host: Host) -> tuple[str, ...]:
    """End what an earlier supervisor left behind; return the names."""
    left = find_started(host)
    end(left)
    return tuple(process.name for process in left)


def stop_host(host: Host) -> tuple[str, ...]:
    """End everything that was started for this folder, and nothing else; return the names."""
    supervisor, names = find_supervisor(host), [process.name for process in find_started(host)]
    if supervisor is not None:
        below = _observe_all(descendants(supervisor.pid))
        send_signal(supervisor, signal.SIGTERM)
        if wait_until_gone([supervisor], STOP_LIMIT_S):
            send_signal(supervisor, signal.SIGKILL)
        names.append("supervisor")
        end(below, patience_s=0.0)
    end_started(host)
    host.processes.unlink(missing_ok=True)
    return tuple(names)


def _observe_all(pids: Iterable[int]) -> tuple[Process, ...]:
    found = (observe("task", pid) for pid in pids)
    return tuple(process for process in found if process is not None)
