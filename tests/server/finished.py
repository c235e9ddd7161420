"""One tiny finished run per test process, and releases of it."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from server.app import run_federation
from server.card_config import CardConfig
from server.finished_run import read_finished
from server.release import Release, release_run
from tests.server.hospitals import RUN, consortium, lay_out, make_grid


@functools.cache
def _kept() -> Path:
    home = Path(tempfile.mkdtemp(prefix="finished-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    folder = lay_out(home / "federation", run=RUN)
    run_federation(make_grid(folder), consortium(folder, "out"), resume=False)
    shutil.copy(folder / "run.yaml", folder / "out")
    return folder / "out"


def finished_run(place: Path) -> Path:
    """Return a fresh copy of the folder of a small finished run, below `place`."""
    return Path(shutil.copytree(_kept(), place / "finished"))


@functools.cache
def _released() -> Path:
    home = Path(tempfile.mkdtemp(prefix="released-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    done = release_of(_kept(), home)
    assert done.folder is not None
    return done.folder


def release_of(folder: Path, place: Path, people: CardConfig | None = None) -> Release:
    """Release a run folder below `place`."""
    return release_run(read_finished(folder), people or CardConfig(), place, {})


def released(place: Path) -> Path:
    """Return a fresh copy of a release of the small run, below `place`."""
    return Path(shutil.copytree(_released(), place / "release"))
