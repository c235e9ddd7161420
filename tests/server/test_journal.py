"""The ledger never tells of a round the state has not seen; a kill at any moment is survived."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from mfm_core.errors import CheckpointError, ConfigError
from server.journal import GROUPS, RunFolder
from server.run_files import ROUNDS, read_lines
from strategies.aggregation import ServerState
from strategies.plan import Step
from strategies.strategy import RunState


def make(folder: Path) -> RunFolder:
    return RunFolder(folder, "c" * 64, "d" * 64, rounds=9)


def state(done: int, size: int = 8) -> RunState:
    weights = np.full(size, done, dtype=np.float32)
    return RunState(done, weights, ServerState(done, np.zeros(0), np.zeros(0)))


def finish(journal: RunFolder, done: int, size: int = 8) -> None:
    journal.write({"round": done})
    journal.keep(state(done, size))


def test_resume_cuts_the_ledger_back_to_the_state(tmp_path: Path) -> None:
    journal = make(tmp_path)
    finish(journal, 1)
    finish(journal, 2)
    journal.write({"round": 3})
    with (tmp_path / ROUNDS).open("a") as file:
        file.write('{"round": 4, "half')
    found = make(tmp_path).open(resume=True)
    assert found is not None and found.done == 2
    assert [line["round"] for line in read_lines(tmp_path)] == [1, 2]


def test_a_torn_newest_state_takes_the_ledger_back_with_it(tmp_path: Path) -> None:
    journal = make(tmp_path)
    finish(journal, 1)
    finish(journal, 2)
    newest = max((tmp_path / "state").iterdir())
    newest.write_bytes(newest.read_bytes()[:50])
    found = make(tmp_path).open(resume=True)
    assert found is not None and found.done == 1
    assert [line["round"] for line in read_lines(tmp_path)] == [1]


def test_a_changed_ledger_is_refused(tmp_path: Path) -> None:
    journal = make(tmp_path)
    finish(journal, 1)
    (tmp_path / ROUNDS).write_text('{"round": 7}\n')
    with pytest.raises(CheckpointError, match=r"rounds\.jsonl"):
        make(tmp_path).open(resume=True)


def test_the_group_of_an_opened_exchange_outlives_a_resume_and_a_start_without_state(
    tmp_path: Path,
) -> None:
    step, names = Step("train", 2), ("a", "b", "c")
    make(tmp_path).hold(step, names)
    make(tmp_path).hold(Step("evaluate"), names[:2])
    journal = make(tmp_path)
    assert journal.open(resume=False) is None
    assert (journal.held(step), journal.held(Step("train", 1))) == (names, None)
    other = RunFolder(tmp_path, "e" * 64, "d" * 64, rounds=9)
    assert other.held(step) is None, "of another run"
    (tmp_path / GROUPS).write_text("{")
    with pytest.raises(CheckpointError, match="one group only"):
        journal.held(step)


def test_begin_and_refuse_to_overwrite(tmp_path: Path) -> None:
    journal = make(tmp_path)
    journal.write({"round": 1})
    assert make(tmp_path).open(resume=True) is None
    assert read_lines(tmp_path) == []
    finish(journal, 1)
    with pytest.raises(ConfigError, match="resume=true"):
        make(tmp_path).open(resume=False)


def test_kill_9_at_random_moments(tmp_path: Path) -> None:
    """A child writes lines and states as fast as it can and is killed, twelve times over."""
    generator, reached = np.random.default_rng(0), 0
    for _ in range(12):
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            journal = make(tmp_path)
            found = journal.open(resume=True)
            for done in range((found.done if found else 0) + 1, 100_000):
                finish(journal, done, size=60_000)
                os.write(tell, b".")
            os._exit(0)
        os.close(tell)
        os.read(told, 1)  # it has finished one; from here on it may be anywhere
        time.sleep(float(generator.uniform(0.0, 0.1)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told)
        found = make(tmp_path).open(resume=True)
        done = found.done if found else 0
        assert done > reached
        assert [line["round"] for line in read_lines(tmp_path)] == list(range(1, done + 1))
        assert found is None or np.array_equal(found.weights, state(done, 60_000).weights)
        reached = done
