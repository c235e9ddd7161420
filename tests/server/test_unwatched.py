"""A run that nobody follows is taken up again, once, and never one that is followed or over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from server import follow, journal, unwatched
from server.unwatched import Followed, Unwatched, is_followed, is_open


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a submitted run; every look counts and no pause is made."""
    monkeypatch.setattr(unwatched, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(unwatched, "UNWATCHED_S", 0.0)
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text("{}")
    progress(folder, "train")
    return folder


def progress(folder: Path, phase: str) -> None:
    (folder / "progress.json").write_text(json.dumps({"phase": phase}))


class Taken(Unwatched):
    """Starts a command that ends at once, and counts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, folder / "words")
        self.started: list[str] = []

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        self.started.append(name)
        return subprocess.Popen([sys.executable, "-c", "pass"])

    def look_and_wait(self) -> None:
        self.look()
        for known in self._tries.values():
            if known.child is not None:
                known.child.wait()


def test_the_names_are_those_of_the_run_folder() -> None:
    assert (unwatched.PROGRESS, unwatched.ROUNDS) == (journal.PROGRESS, journal.ROUNDS)
    assert follow.SUBMISSION == unwatched.SUBMISSION


def test_a_run_that_nobody_follows_is_resumed_until_it_gets_nowhere(
    run: Path, tmp_path: Path
) -> None:
    keeper = Taken(tmp_path)
    keeper.look_and_wait()
    assert keeper.started == ["tiny"]
    (run / "rounds.jsonl").write_text("a line more\n")
    keeper.look_and_wait()
    assert keeper.started == ["tiny", "tiny"]
    keeper.look_and_wait()
    keeper.look_and_wait()
    assert keeper.started == ["tiny", "tiny"]


@pytest.mark.parametrize("phase", ["done", "failed"])
def test_a_run_that_is_over_is_left_alone(run: Path, tmp_path: Path, phase: str) -> None:
    progress(run, phase)
    keeper = Taken(tmp_path)
    keeper.look_and_wait()
    assert keeper.started == [] and not is_open(run)


def test_a_run_that_was_never_submitted_is_left_alone(run: Path, tmp_path: Path) -> None:
    (run / "submission.json").unlink()
    keeper = Taken(tmp_path)
    keeper.look_and_wait()
    assert keeper.started == []


def test_a_followed_run_is_left_alone_until_its_follower_is_killed(
    run: Path, tmp_path: Path
) -> None:
    script = (
        f"from server.unwatched import Followed; from pathlib import Path\n"
        f"mark = Followed(Path({str(run)!r})); print(mark.take(), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        keeper, own = Taken(tmp_path), Followed(run)
        keeper.look_and_wait()
        assert keeper.started == [] and is_followed(run) and not own.take()
        other.kill()
        other.wait()
    keeper.look_and_wait()
    assert keeper.started == ["tiny"] and own.take() and own.take()


def test_a_run_is_left_for_a_while_to_whoever_is_about_to_resume_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unwatched, "UNWATCHED_S", 60.0)
    keeper = Taken(tmp_path)
    keeper.look_and_wait()
    assert keeper.started == []
