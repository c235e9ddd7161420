"""A private Flower SuperLink for one run: own home, own port, empty working directory.

Why not `flwr run` with `:local:`: that leaves a SuperLink behind whose working directory comes
before the bundle on the workers' import path, so another checkout's `client` and `server` would
run silently (measured with flwr 1.41). Nothing crosses a hospital's boundary here.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mfm_core.errors import RunFailed
from simulation import guard

START_LIMIT_S = 90.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def find_free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_command(name: str) -> str:
    """Return the path of a Flower command, first beside this Python.

    Raises:
        RunFailed: Flower's simulation extra is not installed, or lies where Ray cannot start it.
    """
    if any(letter.isspace() for letter in sys.executable):
        raise RunFailed(
            f"{sys.executable}: Ray cannot start workers from a folder with a space in its name; "
            "move the clone, then remove .venv and set it up again"
        )
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise RunFailed(
            f"{name} not found; install the simulation extra: pip install .[simulation]"
        )
    return found


def describe_environment(home: Path, temporary: Path) -> dict[str, str]:
    """Return the environment of every engine process: quiet, offline, one thread each."""
    commands = str(Path(sys.executable).parent)
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RAY_ADDRESS")}
    return {
        **inherited,
        "PATH": f"{commands}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "RAY_TMPDIR": str(temporary),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(512 * 2**20),
        "PYTHONWARNINGS": "ignore",
    }


@dataclass(frozen=True)
class Federation:
    """How many virtual hospitals a run has and how many run at once."""

    sites: int
    workers: int

    def as_options(self) -> str:
        """Return the text of `flwr run --federation-config`."""
        return (
            f"num-supernodes={self.sites} client-resources-num-cpus=1 "
            f"client-resources-num-gpus=0.0 init-args-num-cpus={self.workers}"
        )


def _as_toml(value: str | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class Engine:
    """Starts a private SuperLink on entering; on leaving ends all processes and its workspace."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.token = secrets.token_hex(16)
        self.workspace = Path(tempfile.mkdtemp(prefix="mfm-"))
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What every process of the engine sees."""
        return describe_environment(self.workspace / "home", self.workspace / "ray")

    def __enter__(self) -> Self:
        for name in ("home", "ray", "empty"):
            (self.workspace / name).mkdir()
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _start(self) -> None:
        port = find_free_port()
        (self.workspace / "home" / "config.toml").write_text(
            '[superlink]\ndefault = "private"\n'
            f'[superlink.private]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        command = [find_command("flower-superlink"), "--insecure", "--simulation"]
        command += ["--isolation", "subprocess", "--disable-runtime-dependency-installation"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        starter = [sys.executable, "-I", str(Path(guard.__file__)), self.token, str(self.workspace)]
        with (self.logs / "superlink.log").open("ab") as log:
            self._guard = subprocess.Popen(
                starter + command,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_until_healthy(f"http://127.0.0.1:{port}/health")

    def _wait_until_healthy(self, address: str) -> None:
        stop_at = time.monotonic() + START_LIMIT_S
        while time.monotonic() < stop_at:
            self.check_alive()
            try:
                with _OPENER.open(address, timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise RunFailed(f"Flower's SuperLink did not start in {START_LIMIT_S:.0f} s; {self._see()}")

    def _see(self) -> str:
        return f"see {self.logs / 'superlink.log'}"

    def check_alive(self) -> None:
        """Raise RunFailed when the SuperLink ended by itself."""
        if self._guard is None or self._guard.poll() is not None:
            raise RunFailed(f"Flower's SuperLink ended by itself; {self._see()}")

    def submit(
        self, app: Path, federation: Federation, settings: Mapping[str, str | bool]
    ) -> subprocess.Popen[bytes]:
        """Start `flwr run` for an app folder; the process ends when the run has ended."""
        command = [find_command("flwr"), "run", str(app), "private", "--stream"]
        command += ["--federation-config", federation.as_options()]
        command += ["--run-config", " ".join(f"{k}={_as_toml(v)}" for k, v in settings.items())]
        with (self.logs / "flower.log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.workspace / "empty",
                env={**self.environment, guard.MARK: self.token, "COLUMNS": "200"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def keep_worker_logs(self) -> None:
        """Copy what the workers printed to `logs/workers/`, for the reader of a failure."""
        target = self.logs / "workers"
        target.mkdir(exist_ok=True)
        for source in (self.workspace / "ray").glob("ray/session_2*/logs/worker-*"):
            if source.is_file() and source.stat().st_size:
                shutil.copyfile(source, target / source.name)

    def stop(self) -> None:
        """End every process of the engine; safe to call twice."""
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait()
        guard.end_marked(self.token)
        shutil.rmtree(self.workspace, ignore_errors=True)
