"""Flower's own command line, asked for JSON: register sites, start, list and stop runs.

The `flwr` command is Flower's public face; its Control API is not. One call takes one to two
seconds, so callers ask rarely. What Flower says is passed on in words; it never ends a program
with a traceback. What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfm_core.errors import RunFailed
from strategies.processes import ended_with_parent

CONNECTION = "consortium"
"""Name of the SuperLink in the private config.toml."""

CALL_LIMIT_S = 90.0
_INHERITED = ("PYTHONPATH", "RAY_ADDRESS", "FLWR_SUPERGRID_API_URL")


def find_command(name: str) -> str:
    """Return the path of a Flower command, first beside this Python.

    Raises:
        RunFailed: Flower is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise RunFailed(f"{name} not found; install the project into this Python: pip install .")
    return found


def flower_environment(home: Path) -> dict[str, str]:
    """Return the environment of Flower's processes: private home, quiet, offline.

    NO_PROXY names loopback: with HTTP_PROXY set, Flower would send even its local calls there.
    """
    commands = str(Path(sys.executable).parent)
    inherited = {k: v for k, v in os.environ.items() if k not in _INHERITED}
    spared = ",".join(filter(None, [os.environ.get("NO_PROXY", ""), "127.0.0.1,localhost"]))
    return {
        **inherited,
        "PATH": f"{commands}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "NO_PROXY": spared,
        "no_proxy": spared,
        "PYTHONUNBUFFERED": "1",
    }


def write_connection(home: Path, address: str, authority: Path) -> None:
    """Write the private config.toml that the `flwr` command reads.

    Args:
        home: FLWR_HOME.
        address: host:port of the SuperLink.
        authority: ca.crt.
    """
    home.mkdir(parents=True, exist_ok=True)
    text = (
        f"[superlink]\ndefault = {as_toml(CONNECTION)}\n[superlink.{CONNECTION}]\n"
        f"address = {as_toml(address)}\nroot-certificates = {as_toml(str(authority))}\n"
    )
    (home / "config.toml").write_text(text, encoding="utf-8")


def as_toml(value: str | bool) -> str:
    """Return a value as Flower's run config and config.toml want it."""
    if isinstance(value, bool):
        return str(value).lower()
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@dataclass(frozen=True)
class Node:
    """A registered SuperNode.

    Attributes:
        node_id: Flower's number for it.
        status: "registered" (never seen), "online" or "offline".
        since: text of the time of the last change, UTC.
    """

    node_id: int
    status: str
    since: str


@dataclass(frozen=True)
class FlowerRun:
    """A run as Flower knows it.

    Attributes:
        run_id: Flower's number for it.
        status: pending, starting, running, or finished:completed, :failed, :stopped.
        details: Flower's words on how it ended.
        bundle_hash: SHA-256 (hex) of its bundle.
    """

    run_id: int
    status: str
    details: str
    bundle_hash: str

    @property
    def finished(self) -> bool:
        """Tell whether Flower has ended it."""
        return self.status.startswith("finished")


class Flower:
    """The `flwr` command of one consortium.

    Args:
        home: its FLWR_HOME, with the config.toml of `write_connection`.
        empty: an empty folder to run it in.
    """

    def __init__(self, home: Path, empty: Path) -> None:
        self.home, self.empty = home, empty

    def register(self, name: str, public_key: str) -> int:
        """Register a site's key under its name and return the node id.

        Raises:
            RunFailed: the key is in use or damaged, or nothing answers.
        """
        with tempfile.TemporaryDirectory(prefix="mfm-key-") as folder:
            path = Path(folder) / "node.pub"
            path.write_text(public_key.strip() + "\n", encoding="ascii")
            words = ("supernode", "register", str(path), CONNECTION, "--name", name)
            return int(self._call(*words)["node-id"])

    def unregister(self, node_id: int) -> None:
        """Take a node's right to connect away, at once.

        Raises:
            RunFailed: it is not registered, or nothing answers.
        """
        self._call("supernode", "unregister", str(node_id), CONNECTION)

    def nodes(self) -> tuple[Node, ...]:
        """Return the registered nodes; unregistered ones are left out.

        Raises:
            RunFailed: nothing answers.
        """
        rows = self._call("supernode", "list", CONNECTION)["nodes"]
        changed = {"online": "online-at", "offline": "offline-at"}
        return tuple(
            Node(
                int(row["node-id"]),
                row["status"],
                str(row.get(changed.get(row["status"], "created-at"), "")),
            )
            for row in rows
            if row["status"] in ("registered", "online", "offline")
        )

    def run(self, app: Path, settings: Mapping[str, str | bool]) -> int:
        """Submit an app folder and return Flower's run id.

        Raises:
            RunFailed: it was not taken.
        """
        text = " ".join(f"{key}={as_toml(value)}" for key, value in settings.items())
        return int(self._call("run", str(app), CONNECTION, "--run-config", text)["run-id"])

    def find_run(self, run_id: int) -> FlowerRun:
        """Return what Flower knows of a run.

        Raises:
            RunFailed: it knows none, or nothing answers.
        """
        (row,) = self._call("list", CONNECTION, "--run-id", str(run_id))["runs"]
        return _run_of(row)

    def runs(self) -> tuple[FlowerRun, ...]:
        """Return every run that Flower knows.

        Raises:
            RunFailed: nothing answers.
        """
        return tuple(_run_of(row) for row in self._call("list", CONNECTION)["runs"])

    def stop(self, run_id: int) -> None:
        """Stop a run.

        Raises:
            RunFailed: it has ended already, or nothing answers.
        """
        self._call("stop", str(run_id), CONNECTION)

    def _call(self, *words: str) -> dict[str, Any]:
        command: Sequence[str] = [find_command("flwr"), *words, "--format", "json"]
        if words[0] == "run":
            command = ended_with_parent(command)  # nothing is handed over for a dead coordinator
        try:
            done = subprocess.run(
                command,
                cwd=self.empty,
                env=flower_environment(self.home),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=CALL_LIMIT_S,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise RunFailed(f"flwr {words[0]}: no answer in {CALL_LIMIT_S:.0f} s") from None
        return _read_answer(words, done.stdout, done.stderr)


def _run_of(row: Mapping[str, Any]) -> FlowerRun:
    return FlowerRun(int(row["run-id"]), row["status"], row["status-details"], row["fab-hash"])


def _read_answer(words: tuple[str, ...], out: str, error: str) -> dict[str, Any]:
    """Return the JSON object that a call printed.

    Raises:
        RunFailed: it printed none, or one that says no.
    """
    content: Any = None
    with contextlib.suppress(json.JSONDecodeError):
        content = json.loads(out[max(out.find("{"), 0) :])
    if isinstance(content, dict) and content.get("success"):
        return content
    said = content.get("error-message", "") if isinstance(content, dict) else ""
    heard = next((text for text in (said, error, out) if text.strip()), "it said nothing")
    text = " ".join(heard.split())[-400:]
    raise RunFailed(f"flwr {' '.join(words[:2])}: {text}")


def free_keys(database: Path) -> int:
    """Let the keys of unregistered nodes be registered again; return how many there were.

    Flower keeps a node's key for ever and refuses it afterwards ("already in use", flwr 1.41), so
    that a suspended hospital could never come back without a new key. The row stays as history;
    only its key is emptied, in one short transaction beside the running SuperLink.
    """
    if not database.is_file():
        return 0
    with contextlib.closing(sqlite3.connect(database, timeout=20.0)) as connection, connection:
        found = connection.execute(
            "UPDATE node SET public_key = NULL "
            "WHERE status = 'unregistered' AND public_key IS NOT NULL"
        )
        return found.rowcount
