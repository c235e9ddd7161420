"""A consortium of real processes on loopback: what a coordinator and its hospitals would run.

`Consortium` makes the coordinator's folder (own authority, TLS, secret) and one folder per hospital
(own key, request, kit, settings) with the product's own functions, starts the product's own
commands, and ends all of it when the `with` block ends, however it ends. Should this process be
killed, the kernel ends what it started. Ports are free ones that the kernel chose; Flower's home
lies in the folders. Start it from the main thread: the kernel's signal is bound to the thread.
What crosses a hospital's boundary: what the product's own node sends, to a coordinator on the same
machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from client import node
from client.config import SiteConfig
from client.folder import Folder as SiteFolder
from client.keys import create_site
from client.kit import join_kit
from client.ledger import OutboxReading, read_outbox
from client.secret import keep_secret
from mfm_core.config import DataConfig, dump_yaml, load_yaml
from mfm_core.errors import ConfigError, RunFailed
from mfm_core.public_pictures import PUBLIC_FILE
from server import superlink
from server.commands_hosting import find_host
from server.folder import Folder, create_folder
from server.hosted_status import read_hosted
from server.hosting import HostingConfig
from server.membership import admit
from server.run_files import ROUNDS, Ending, read_ending, read_lines
from server.supervisor import supervisor_command
from strategies.code_hash import bundle_folder
from strategies.config import RunConfig
from strategies.processes import (
    Process,
    descendants,
    end,
    ended_with_parent,
    observe,
    wait_until_gone,
)

SERVER = "server"
NAME = "loopback"
START_LIMIT_S, RUN_LIMIT_S, END_PATIENCE_S = 180.0, 1800.0, 40.0
_ROLES = (("flwr-serverapp", "serverapp"), ("client.child", "worker"))
"""Words of a command line and the role of the process that has them."""


@dataclass(frozen=True)
class Hospital:
    """What one hospital brings.

    Attributes:
        data: where its images lie, and which columns hold what; paths absolute.
        limits: what its site.yaml says differently from the template, e.g. {"min_cell_count": 1}.
        secret: its own secret; None draws one. A simulation's hospital has a known one, without
            which the bootstrap differs.
    """

    data: DataConfig
    limits: Mapping[str, object] = field(default_factory=dict)
    secret: bytes | None = None


class Consortium:
    """One coordinator and its hospitals on this machine; use it in a `with` statement.

    Args:
        folder: everything lies below it; must not hold a consortium.
        run: what was agreed.
        hospitals: by name.
        hosting: what consortium.yaml says differently, e.g. {"deadline_s": 60}.
        public: folder of the public pictures, where the run names some.
    """

    def __init__(
        self,
        folder: Path,
        run: RunConfig,
        hospitals: Mapping[str, Hospital],
        hosting: Mapping[str, object] | None = None,
        public: Path | None = None,
    ) -> None:
        self.folder, self.agreed = folder.resolve(), run
        self.names = tuple(hospitals)
        self._hospitals, self._hosting = dict(hospitals), dict(hosting or {})
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._public = public

    def __enter__(self) -> Self:
        """Make the folders; nothing runs yet."""
        listen, link = free_addresses(2)
        settings = HostingConfig.model_validate(
            {"name": NAME, "address": listen, "listen": listen, "superlink": link, **self._hosting}
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        files = [self.folder / name for name in (".hosting.yaml", ".run.yaml")]
        for part, file in zip((settings, self.agreed), files, strict=True):
            dump_yaml(part, file)
        texts = [file.read_text(encoding="utf-8") for file in files]
        made = create_folder(self.coordinator, texts[0], texts[1], (NAME, "127.0.0.1"))
        for file in files:
            file.unlink()
        if self._public is not None and self.agreed.privacy.public_pictures is not None:
            shutil.copyfile(self._public / PUBLIC_FILE, self.coordinator / PUBLIC_FILE)
        for name in self.names:
            self._make_site(made, name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """End everything that was started for these folders, and nothing else."""
        self.close()

    def _make_site(self, coordinator: Folder, name: str) -> None:
        hospital = self._hospitals[name]
        folder = create_site(self.hospital(name).root, name)
        admit(coordinator, folder.request)
        join_kit(folder, coordinator.kits / f"{name}.zip")
        found = load_yaml(folder.site_file, SiteConfig)
        limits = {**found.limits.model_dump(), **hospital.limits}
        content = {**found.model_dump(), "data": hospital.data.model_dump(), "limits": limits}
        dump_yaml(SiteConfig.model_validate(content), folder.site_file)
        if hospital.secret is not None:
            keep_secret(folder.root / found.state_folder, hospital.secret)

    @property
    def coordinator(self) -> Path:
        """Return the coordinator's folder."""
        return self.folder / SERVER

    @property
    def host(self) -> superlink.Host:
        """Return where the coordinator's processes run."""
        return find_host(self.coordinator)[0]

    def hospital(self, name: str) -> SiteFolder:
        """Return the folder of a hospital."""
        return SiteFolder(self.folder / "hospitals" / name)

    def run_folder(self, name: str | None = None) -> Path:
        """Return the coordinator's folder of a run; the agreed run's own name when None."""
        return self.coordinator / "runs" / (name or self.agreed.name)

    def log_of(self, what: str) -> Path:
        """Return what a command printed: "server", a hospital, or "run NAME"."""
        return self.folder / "logs" / f"{what.replace(' ', '-')}.log"

    def start(self) -> None:
        """Start the coordinator, then all hospitals at once; return when all are connected."""
        self.start_server()
        self.start_sites(self.names)

    def start_server(self) -> None:
        """Start SuperLink, SuperExec and gateway under their supervisor; return when ready.

        Raises:
            RunFailed: it does not come up; its words are in the text.
        """
        host = self.host
        command, environment = supervisor_command(host)
        child = self._spawn(SERVER, command, environment)

        def ready() -> bool:
            found = superlink.read_processes(host)
            return bool(found.get("ready")) and found["supervisor"]["pid"] == child.pid

        self.await_start(SERVER, ready)

    def stop_server(self) -> None:
        """End the coordinator's processes as `mfm-server stop` does."""
        superlink.stop_host(self.host)
        self._reap(SERVER)

    def start_site(self, name: str) -> None:
        """Start a hospital's node; return when its SuperNode was let in."""
        self.start_sites((name,))

    def start_sites(self, names: Iterable[str]) -> None:
        """Start the nodes of several hospitals at once; return when all were let in.

        Raises:
            RunFailed: one ended again, or is not connected in time.
        """
        chosen = tuple(names)
        for name in chosen:
            command = self._product("client", "start", str(self.hospital(name).root))
            self._spawn(name, command)
        for name in chosen:
            self.await_start(name, partial(self._is_connected, name))

    def _is_connected(self, name: str) -> bool:
        return node.read_node(self.hospital(name)).connected

    def stop_site(self, name: str) -> None:
        """End a hospital's node as `mfm-client stop` does."""
        node.stop_node(self.hospital(name))
        self._reap(name)

    def submit(self, name: str | None = None, *, show: bool = False) -> subprocess.Popen[bytes]:
        """Start `mfm-server run` and return its process, which follows the run to its end.

        Args:
            name: of the run's folder; the agreed run's own when None.
            show: let it print here instead of into its log.
        """
        return self._follow("run", name, show)

    def run(
        self, name: str | None = None, *, show: bool = False, limit_s: float = RUN_LIMIT_S
    ) -> int:
        """Return the exit code of `mfm-server run`: 0 there is a model, 3 the run failed.

        Raises:
            RunFailed: it has not ended in time.
        """
        return self.wait(self.submit(name, show=show), limit_s)

    def resume(
        self, name: str | None = None, *, show: bool = False, limit_s: float = RUN_LIMIT_S
    ) -> int:
        """Return the exit code of `mfm-server resume`, which goes on with a run or watches it."""
        return self.wait(self._follow("resume", name, show), limit_s)

    def wait(self, following: subprocess.Popen[bytes], limit_s: float = RUN_LIMIT_S) -> int:
        """Return the exit code of a process from `submit`.

        Raises:
            RunFailed: it has not ended in time.
        """
        try:
            return following.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"the run has not ended in {limit_s:.0f} s") from None

    def _follow(self, command: str, name: str | None, show: bool) -> subprocess.Popen[bytes]:
        run = name or self.agreed.name
        words = self._product("server", command, str(self.coordinator), "--name", run)
        self._reap(f"run {run}")
        return self._spawn(f"run {run}", words, show=show)

    def status(self) -> dict[str, Any]:
        """Return what `mfm-server status --json` prints."""
        return read_hosted(self.host, NAME)

    def rounds(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the coordinator's ledger of a run, one line per exchange."""
        return read_lines(self.run_folder(name))

    def ending(self, name: str | None = None) -> Ending | None:
        """Return how a run ended, None while it has not."""
        return read_ending(self.run_folder(name))

    def ledger(self, site: str, run: str | None = None) -> OutboxReading:
        """Return a hospital's ledger, checked, and against the coordinator's where there is one."""
        witness = self.run_folder(run) / ROUNDS
        return read_outbox(self.hospital(site).site_file, witness if witness.is_file() else None)

    def processes(self, name: str = SERVER) -> dict[str, int]:
        """Return role to process id of what runs now.

        "server": supervisor, superlink, superexec, gateway and, during a run, serverapp. A
        hospital: supervisor, supernode, runner and, once it has worked, worker.
        """
        known = self._recorded(name)
        roles = {process.name: process.pid for process in known if process.name != "task"}
        for process in known:
            for pid in (process.pid, *descendants(process.pid)):
                words = command_line(pid)
                roles |= {role: pid for part, role in _ROLES if part in words}
        return roles

    def _recorded(self, name: str) -> tuple[Process, ...]:
        if name != SERVER:
            return node.started_processes(self.hospital(name))
        supervisor = superlink.find_supervisor(self.host)
        return (*((supervisor,) if supervisor else ()), *superlink.find_started(self.host))

    def await_start(self, what: str, check: Callable[[], bool]) -> None:
        """Return once `check` holds.

        Raises:
            RunFailed: the process ended, or it takes too long; its last words are in the text.
        """
        child, stop_at = self._children[what], time.monotonic() + START_LIMIT_S
        while not check():
            if child.poll() is not None or time.monotonic() > stop_at:
                said = self.log_of(what).read_text(encoding="utf-8", errors="replace")
                raise RunFailed(f"{what} did not start: {said.strip()[-2000:] or 'no word'}")
            time.sleep(0.1)

    def _product(self, package: str, *words: str) -> list[str]:
        return [sys.executable, "-P", "-m", package, *words]

    def _spawn(
        self,
        what: str,
        command: list[str],
        environment: Mapping[str, str] | None = None,
        *,
        show: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a command that ends with this process; what it prints goes to its log."""
        earlier = self._children.get(what)
        if earlier is not None and earlier.poll() is None:
            raise ConfigError(what, [f"runs already (process {earlier.pid})"])
        log = self.log_of(what)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            child = subprocess.Popen(
                ended_with_parent(command),
                cwd=bundle_folder(),
                env={**(environment or os.environ), "PYTHONPATH": str(bundle_folder())},
                stdin=subprocess.DEVNULL,
                stdout=None if show else out,
                stderr=None if show else subprocess.STDOUT,
                start_new_session=True,
            )
        self._children[what] = child
        return child

    def _reap(self, what: str) -> None:
        """Wait for a child that was told to end."""
        child = self._children.pop(what, None)
        if child is not None:
            end([found for found in (observe(what, child.pid),) if found], END_PATIENCE_S)
            child.wait()

    def close(self) -> None:
        """End everything that was started here, whatever state it is in."""
        children = list(self._children.items())
        started = [found for name, child in children if (found := observe(name, child.pid))]
        recorded = [process for name in (*self.names, SERVER) for process in self._recorded(name)]
        below = [
            found
            for process in (*started, *recorded)
            for pid in descendants(process.pid)
            if (found := observe("task", pid))
        ]
        for process in (*started, *recorded, *below):
            process.send(signal.SIGCONT)  # a suspended process would not hear SIGTERM
        for of_server in (False, True):  # the nodes first, they talk to it
            told = [process for process in started if (process.name == SERVER) == of_server]
            for process in told:
                process.send(signal.SIGTERM)
            wait_until_gone(told, END_PATIENCE_S)
        end([*started, *recorded, *below], 0.0)
        for _, child in children:
            child.wait()
        self._children.clear()


def free_addresses(count: int) -> tuple[str, ...]:
    """Return that many different loopback host:port that were free a moment ago."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return tuple(f"127.0.0.1:{probe.getsockname()[1]}" for probe in probes)
    finally:
        for probe in probes:
            probe.close()


def command_line(pid: int) -> str:
    """Return the command line of a process, empty when it is gone."""
    try:
        content = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return content.replace(b"\0", b" ").decode(errors="replace")
