"""Runs a prepared folder's federation on Flower's own engine and follows it to its end.

A virtual hospital that crashes or hangs is a failure with its name, never a shorter average:
every line of rounds.jsonl is read, there are hard limits of time, and whatever happens every
process of the engine is ended. What crosses a hospital's boundary: nothing here.
"""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mfm_core.config import canonical_hash, load_yaml
from mfm_core.errors import CheckpointError, ConfigError, RunFailed
from simulation import guard
from simulation.config import LimitConfig
from simulation.engine import Engine, Federation
from simulation.progress import Display, Step, read_progress
from strategies.bundle import stage_bundle
from strategies.config import RunConfig

LOOK_EVERY_S = 0.25
ENDED = ("ok", "rejected:", "refused:")
"""Outcomes after which a virtual hospital is alive; every other one is a failure."""


@dataclass(frozen=True)
class RunFolder:
    """Where a study's federated run keeps its files."""

    path: Path

    @property
    def logs(self) -> Path:
        """Folder of logs/flower.log, logs/superlink.log and, after a failure, logs/workers/."""
        return self.path / "logs"

    @property
    def finished(self) -> bool:
        """Whether the federated run has ended with a model."""
        return (self.path / "server.json").is_file()

    @property
    def resumable(self) -> bool:
        """Whether a state of an unfinished run is there."""
        return any((self.path / "state").glob("state-*.safetensors"))

    def server_results(self) -> dict[str, Any]:
        """Return server.json.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        try:
            content = json.loads((self.path / "server.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise CheckpointError(f"{self.path / 'server.json'}: {error}; run the study") from None
        return dict(content)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep a run folder to ourselves; end what a killed predecessor left.

    Raises:
        ConfigError: another process is at work in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            reason = "another mfm-simulate is at work in this folder; wait for it or stop it"
            raise ConfigError(str(folder), [reason]) from None
        _end_predecessor(folder / "engine.json")
        yield


def _end_predecessor(record: Path) -> None:
    if record.is_file():
        token = str(read_progress(record).get("token", ""))
        if re.fullmatch(r"[0-9a-f]{32}", token):
            guard.end_marked(token)
        record.unlink()


@dataclass
class Watch:
    """Reads what the server writes and refuses silence and broken hospitals."""

    folder: RunFolder
    limits: LimitConfig
    started: float = field(default_factory=time.monotonic)
    first_word: float | None = None
    _seen: dict[str, Any] = field(default_factory=dict)
    _changed: float = field(default_factory=time.monotonic)
    _read: int = 0

    def look(self) -> Step | None:
        """Return the newest step, None before the server's first word.

        Raises:
            RunFailed: a hospital crashed or is silent, or a limit of time has passed.
        """
        for line in self._new_lines():
            self._check(line)
        now, progress = time.monotonic(), read_progress(self.folder.path / "progress.json")
        if progress != self._seen:
            self._seen, self._changed = progress, now
            self.first_word = self.first_word or now
        self._check_time(now)
        if not progress:
            return None
        text = str(progress.get("message", ""))
        if progress.get("phase") == "train":
            text = f"round {progress.get('round')}/{progress.get('rounds')} {text}"
        else:
            text = f"{progress.get('phase')} {text}"
        done, total = float(progress.get("step", 0)), float(progress.get("steps", 1))
        return Step("federated training", done, total, text.strip())

    @property
    def done(self) -> bool:
        """Whether the server has written every result: it says so last of all."""
        return self._seen.get("phase") == "done"

    def failure(self) -> str:
        """Return the server's own last words on a failure, or an empty text."""
        if self._seen.get("phase") == "failed":
            return str(self._seen.get("message", ""))
        return ""

    def _new_lines(self) -> list[dict[str, Any]]:
        path = self.folder.path / "rounds.jsonl"
        if not path.is_file():
            return []
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        new, self._read = whole[self._read :], max(self._read, len(whole))
        return [json.loads(line) for line in new.splitlines()]

    def skip_known(self) -> None:
        """Leave out the lines of an earlier part of the run."""
        self._new_lines()

    def _check(self, line: dict[str, Any]) -> None:
        outcomes: dict[str, str] = line.get("sites", {})
        broken = {n: o for n, o in outcomes.items() if not o.startswith(ENDED)}
        if broken:
            names = ", ".join(f"{name} ({outcome})" for name, outcome in broken.items())
            where = str(line.get("phase"))
            where += f" round {line['round']}" if line.get("phase") == "train" else ""
            raise RunFailed(f"{where}: no usable answer of hospital {names}")

    def _check_time(self, now: float) -> None:
        limits = self.limits
        if self.first_word is None and now - self.started > limits.start_s:
            raise RunFailed(f"the server said nothing for {limits.start_s} s (limits.start_s)")
        if now - self._changed > limits.phase_s + 30:
            raise RunFailed(
                f"no progress for {limits.phase_s + 30} s (limits.phase_s), last: "
                f"{self._seen.get('phase')} {self._seen.get('message', '')}"
            )
        if now - self.started > limits.total_s:
            raise RunFailed(f"still running after {limits.total_s} s (limits.total_s)")


def run_federation(
    folder: RunFolder, federation: Federation, limits: LimitConfig, display: Display
) -> float:
    """Run or resume the federation of a prepared folder; return the seconds of engine start-up.

    Raises:
        RunFailed: it ended without a model; the message says why and where the logs are.
    """
    run = load_yaml(folder.path / "run.yaml", RunConfig)
    (folder.path / "progress.json").unlink(missing_ok=True)
    watch = Watch(folder, limits)
    if folder.resumable:
        watch.skip_known()
    else:
        (folder.path / "rounds.jsonl").unlink(missing_ok=True)
    display.show(Step("federated training", 0, run.rounds, "starting Flower and Ray"))
    try:
        _run_engine(folder, run, federation, watch, display)
    finally:
        (folder.path / "engine.json").unlink(missing_ok=True)
    if folder.server_results().get("config_hash") != canonical_hash(run):
        raise RunFailed(f"{folder.path}: server.json belongs to another run")
    return (watch.first_word or time.monotonic()) - watch.started


def _run_engine(
    folder: RunFolder, run: RunConfig, federation: Federation, watch: Watch, display: Display
) -> None:
    settings: dict[str, str | bool] = {
        "server-config": str(folder.path.resolve() / "consortium.yaml"),
        "sites-folder": str(folder.path.resolve() / "sites"),
        "resume": folder.resumable,
    }
    with Engine(folder.logs) as engine:
        record = json.dumps({"token": engine.token})
        (folder.path / "engine.json").write_text(record, encoding="utf-8")
        try:
            app = stage_bundle(run, engine.workspace / "app")
            flower = engine.submit(app, federation, settings)
            _follow(flower, engine, watch, display)
            if not folder.finished:
                reason = watch.failure() or f"Flower ended with code {flower.returncode}"
                raise RunFailed(reason)
        except RunFailed as error:
            engine.keep_worker_logs()
            raise RunFailed(f"{error}; logs are in {folder.logs}") from None


def _follow(
    flower: subprocess.Popen[bytes], engine: Engine, watch: Watch, display: Display
) -> None:
    """Return when the server is done or Flower has ended; Flower's own end takes seconds more."""
    while True:
        ended = flower.poll() is not None
        step = watch.look()
        if step is not None:
            display.show(step)
        if ended or watch.done:
            return
        engine.check_alive()
        time.sleep(LOOK_EVERY_S)
