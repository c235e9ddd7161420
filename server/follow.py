"""A run from its submission to its end: complete, degraded or failed, never anything between.

Submitting writes the effective settings and the staged app into the run's folder and hands the app
to Flower. Following reads what the ServerApp writes (progress.json, rounds.jsonl) and asks Flower
only when nothing moves. A ServerApp that ended without saying why (killed, or out of memory) is
started again from its last state, twice at most without a finished exchange between; one that
failed in words is not. Flower misses it after a minute; here it is missed when its process is gone.
What crosses a hospital's boundary: the app bundle and run.yaml, towards it.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from mfm_core.config import canonical_hash, dump_yaml
from mfm_core.errors import ConfigError, RunFailed
from mfm_core.public_pictures import read_public, write_public
from server.config import ConsortiumConfig
from server.flower import FlowerRun
from server.hosting import write_consortium
from server.journal import write_json
from server.run_files import (
    PROGRESS,
    ROUNDS,
    RUN_FILE,
    STATES,
    SUBMISSION,
    Ending,
    missing_sites,
    read_ending,
    read_lines,
    read_object,
    read_submission,
)
from server.start import released_start
from strategies.bundle import bundle_hash, stage_bundle
from strategies.config import RunConfig
from strategies.plan import plan_of

BUNDLE = "bundle"

LOOK_S = 1.0
ASK_S = 15.0
"""Flower is asked about a run only when nothing has moved for so long: a call takes seconds."""

PENDING_LIMIT_S = 600.0
RESTARTS = 2
"""Times in a row, without a finished exchange between, that a dead server app is started again."""


class Engine(Protocol):
    """The part of `server.flower.Flower` that is needed here."""

    def run(self, app: Path, settings: Mapping[str, str | bool]) -> int:
        """Submit an app and return the run's id."""

    def find_run(self, run_id: int) -> FlowerRun:
        """Return what Flower knows of a run."""

    def runs(self) -> Sequence[FlowerRun]:
        """Return every run that Flower knows."""

    def stop(self, run_id: int) -> None:
        """Stop a run."""


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to be submitted.

    Attributes:
        folder: its run folder.
        app: the staged app.
        run_hash: identity of the agreed run.
        bundle_hash: SHA-256 (hex) of the bundle Flower will build from `app`.
        settings: the effective consortium file.
        run: the agreed run.
    """

    folder: Path
    app: Path
    run_hash: str
    bundle_hash: str
    settings: Path
    run: RunConfig


def prepare(
    folder: Path,
    run: RunConfig,
    config: ConsortiumConfig,
    *,
    resume: bool = False,
    public: Path | None = None,
) -> Prepared:
    """Write run.yaml, consortium.yaml, public pictures and the staged app into a run's folder.

    Args:
        folder: the run's folder, made here.
        run: the agreed run.
        config: the effective settings, from `server.hosting.consortium_of`.
        resume: go on in a folder that holds a state.
        public: folder of the public pictures, where the run names some; None: they are there.

    Raises:
        ConfigError: the folder holds a run already, or the public pictures are not the agreed ones.
        MfmError: a new run cannot start from the released weights that it agreed on.
    """
    if not resume and any((folder / STATES).glob("state-*.safetensors")):
        reason = "holds this run already; go on with `mfm-server resume`, or choose --name"
        raise ConfigError(str(folder), [reason])
    if not resume:
        released_start(run, config.pretrained)
    pictures = read_public(public or folder, run.privacy.public_pictures, run.image)
    folder.mkdir(parents=True, exist_ok=True)
    if public is not None and pictures is not None:
        write_public(folder, pictures)
    dump_yaml(run, folder / RUN_FILE)
    settings = write_consortium(config, folder)
    app = stage_bundle(run, folder / BUNDLE)
    return Prepared(folder, app, canonical_hash(run), bundle_hash(app), settings, run)


def submit(prepared: Prepared, engine: Engine, *, resume: bool) -> int:
    """Hand a run to Flower, note it in submission.json and return Flower's run id.

    That it is handed over is noted before, so that a run whose coordinator's command is killed in
    between is one that nobody follows (`server.unwatched`), and found again by `find_lost`.
    progress.json is written anew first, so that nobody takes the end of an earlier start for the
    end of this one.

    Raises:
        RunFailed: Flower did not take it.
    """
    _note(prepared, "submitted", "handed to Flower")
    known = [str(number) for number in read_submission(prepared.folder).get("flower_runs", [])]
    _write_submission(prepared, known, handing=True)
    settings: dict[str, str | bool] = {"server-config": str(prepared.settings), "resume": resume}
    try:
        run_id = engine.run(prepared.app, settings)
    except RunFailed as error:
        _note(prepared, "failed", str(error))
        raise
    _write_submission(prepared, [*known, str(run_id)], handing=False)
    return run_id


def find_lost(prepared: Prepared, engine: Engine) -> int | None:
    """Return the start of a run that Flower took and nobody noted, and note it; None without one.

    Raises:
        RunFailed: Flower does not answer.
    """
    content = read_submission(prepared.folder)
    if not content.get("handing"):
        return None
    known = [str(number) for number in content.get("flower_runs", [])]
    lost = [
        found.run_id
        for found in engine.runs()
        if found.bundle_hash == prepared.bundle_hash
        and not found.finished
        and str(found.run_id) not in known
    ]
    if not lost:
        return None
    _write_submission(prepared, [*known, str(lost[0])], handing=False)
    return lost[0]


def _write_submission(prepared: Prepared, runs: Sequence[str], *, handing: bool) -> None:
    content = {
        "run": prepared.folder.name,
        "run_hash": prepared.run_hash,
        "bundle_hash": prepared.bundle_hash,
        "flower_runs": list(runs),
        "handing": handing,
        "submitted_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    write_json(prepared.folder / SUBMISSION, content)


def _note(prepared: Prepared, phase: str, text: str) -> None:
    run = prepared.run
    content = {"phase": phase, "round": 0, "rounds": run.rounds, "step": 0, "message": text}
    write_json(prepared.folder / PROGRESS, {**content, "steps": len(plan_of(run))})


def last_flower_run(folder: Path) -> int | None:
    """Return Flower's id of a run's last start, None when there was none."""
    runs = read_submission(folder).get("flower_runs") or [None]
    return None if runs[-1] is None else int(runs[-1])


@dataclass(frozen=True)
class Seen:
    """What was last seen of a run: its progress, and the ledger lines already told."""

    stamp: int
    lines: int
    progress: Mapping[str, Any] = field(default_factory=dict)


class Follower:
    """Follows one run until it ends.

    Args:
        prepared: the run.
        engine: Flower.
        tell: called with every new ledger line and with None and the newest progress.
        hosted: tells whether the consortium still runs.
        app_runs: tells whether a ServerApp's process is there.

    Attributes:
        mends: tells whether this process, and no other, starts a dead ServerApp again.
    """

    def __init__(
        self,
        prepared: Prepared,
        engine: Engine,
        tell: Callable[[dict[str, Any] | None, Mapping[str, Any]], None],
        hosted: Callable[[], bool] = lambda: True,
        app_runs: Callable[[], bool] = lambda: True,
    ) -> None:
        self.prepared, self.engine, self.tell, self.hosted = prepared, engine, tell, hosted
        self.app_runs = app_runs
        self.mends: Callable[[], bool] = lambda: True
        self.restarts = 0
        self._app_seen = False
        self._seen = Seen(-1, 0)

    @property
    def folder(self) -> Path:
        """Return the run's folder."""
        return self.prepared.folder

    def start(self, *, resume: bool) -> Ending:
        """Submit the run and follow it to its end.

        Raises:
            RunFailed: Flower did not take it, or the consortium was stopped.
        """
        with contextlib.suppress(OSError, ValueError):
            self._seen = Seen(-1, len(read_lines(self.folder)))
        return self.follow(submit(self.prepared, self.engine, resume=resume))

    def follow(self, run_id: int) -> Ending:
        """Follow a run that Flower has; return its ending.

        Raises:
            RunFailed: the consortium was stopped meanwhile.
        """
        begun = moved = time.monotonic()
        while True:
            if self._look():
                moved = time.monotonic()
                if (ending := read_ending(self.folder)) is not None:
                    return ending
            if time.monotonic() - moved > ASK_S or self._app_is_gone():
                ending, run_id = self._ask(run_id, time.monotonic() - begun)
                if ending is not None:
                    return ending
                moved = time.monotonic()
            time.sleep(LOOK_S)

    def _app_is_gone(self) -> bool:
        """Tell whether the ServerApp was seen running and does not run any more."""
        runs = self.app_runs()
        self._app_seen = self._app_seen or runs
        return self._app_seen and not runs

    def _look(self) -> bool:
        """Tell what is new; return whether progress.json moved."""
        for line in self._new_lines():
            self.restarts = self.restarts if line.get("phase") == "hello" else 0
            self.tell(line, self._seen.progress)
        try:
            stamp = (self.folder / PROGRESS).stat().st_mtime_ns
        except OSError:
            return False
        if stamp == self._seen.stamp:
            return False
        self._seen = replace(self._seen, stamp=stamp, progress=read_object(self.folder / PROGRESS))
        self.tell(None, self._seen.progress)
        return True

    def _new_lines(self) -> Iterator[dict[str, Any]]:
        if not (self.folder / ROUNDS).is_file():
            return
        with contextlib.suppress(OSError, ValueError):
            lines = read_lines(self.folder)
            known = min(self._seen.lines, len(lines))  # a resumed run cuts its ledger back
            self._seen = replace(self._seen, lines=len(lines))
            yield from lines[known:]

    def _ask(self, run_id: int, waited_s: float) -> tuple[Ending | None, int]:
        """Ask Flower why nothing moves; return an ending, or the id of the run to go on with."""
        if not self.hosted():
            raise RunFailed(
                "the consortium was stopped; `mfm-server start`, then `mfm-server resume` goes on "
                "from the last finished exchange"
            )
        try:
            found = self.engine.find_run(run_id)
        except RunFailed:
            return None, run_id  # the SuperLink may be starting again
        if found.status == "pending" and waited_s > PENDING_LIMIT_S:
            self.engine.stop(run_id)
            text = "Flower did not start the server app; see superlink/logs/superexec.log"
            return Ending("failed", text), run_id
        gone = not found.finished and self._app_is_gone()
        if not found.finished and not gone:
            return None, run_id
        self._look()
        if (ending := read_ending(self.folder)) is not None:
            return ending, run_id
        if gone:
            with contextlib.suppress(RunFailed):  # Flower may just have missed it, too
                self.engine.stop(run_id)
            found = replace(found, details="its process is gone")
        return self._ended_silently(found)

    def _ended_silently(self, found: FlowerRun) -> tuple[Ending | None, int]:
        if not self.mends():
            return None, last_flower_run(self.folder) or found.run_id
        stopped = found.status.endswith("stopped")
        if stopped or self.restarts >= RESTARTS:
            how = "was stopped" if stopped else f"ended {self.restarts + 1} times without a word"
            text = f"the server app {how} ({found.details or found.status}); resume the run"
            _note(self.prepared, "failed", text)
            return Ending("failed", text, missing_sites(self.folder)), found.run_id
        self.restarts += 1
        text = f"the server app ended ({found.details or found.status}); it goes on from its state"
        self.tell(None, {"phase": "restart", "message": text})
        self._app_seen = False
        return None, submit(self.prepared, self.engine, resume=True)
