"""Following a run: broken hospitals, silence, locks, leavings of a killed predecessor."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mfm_core.errors import CheckpointError, ConfigError, RunFailed
from simulation import guard
from simulation.config import LimitConfig
from simulation.runner import RunFolder, Watch, hold

LINE = {"phase": "train", "round": 4, "sites": {"north": "ok", "south": "ok"}}


def write_line(folder: Path, **more: object) -> None:
    with (folder / "rounds.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({**LINE, **more}) + "\n")


def write_progress(folder: Path, step: int, phase: str = "train") -> None:
    content = {"phase": phase, "round": 2, "rounds": 5, "step": step, "steps": 9, "message": "m"}
    (folder / "progress.json").write_text(json.dumps(content), encoding="utf-8")


def test_progress_becomes_a_step(tmp_path: Path) -> None:
    watch = Watch(RunFolder(tmp_path), LimitConfig())
    assert watch.look() is None
    write_progress(tmp_path, 3)
    step = watch.look()
    assert step is not None
    assert (step.done, step.total, step.message) == (3.0, 9.0, "round 2/5 m")
    assert watch.first_word is not None


@pytest.mark.parametrize("outcome", ["error:0", "error:internal", "no-reply", "not-sent"])
def test_a_broken_hospital_fails_the_run_by_name(tmp_path: Path, outcome: str) -> None:
    watch = Watch(RunFolder(tmp_path), LimitConfig())
    write_line(tmp_path)
    watch.look()
    write_line(tmp_path, sites={"north": "ok", "south": outcome})
    with pytest.raises(RunFailed, match=rf"train round 4: .* south \({outcome}\)"):
        watch.look()


@pytest.mark.parametrize("outcome", ["rejected:nan", "refused:limit"])
def test_a_hospital_that_is_alive_is_the_quorums_business(tmp_path: Path, outcome: str) -> None:
    write_line(tmp_path, sites={"north": "ok", "south": outcome})
    assert Watch(RunFolder(tmp_path), LimitConfig()).look() is None


def test_half_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    watch = Watch(RunFolder(tmp_path), LimitConfig())
    text = json.dumps({**LINE, "sites": {"south": "no-reply"}}) + "\n"
    (tmp_path / "rounds.jsonl").write_text(text[:20], encoding="utf-8")
    watch.look()
    (tmp_path / "rounds.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(RunFailed, match="south"):
        watch.look()


def test_lines_of_an_earlier_part_are_not_judged_again(tmp_path: Path) -> None:
    write_line(tmp_path, sites={"south": "no-reply"})
    watch = Watch(RunFolder(tmp_path), LimitConfig())
    watch.skip_known()
    watch.look()
    write_line(tmp_path, round=5, sites={"north": "no-reply"})
    with pytest.raises(RunFailed, match=r"round 5: .*north"):
        watch.look()


def test_hard_limits_of_time(tmp_path: Path) -> None:
    folder, limits = RunFolder(tmp_path), LimitConfig(start_s=10, phase_s=10, total_s=100)
    long_ago = time.monotonic() - 11
    with pytest.raises(RunFailed, match="said nothing for 10 s"):
        Watch(folder, limits, started=long_ago).look()
    write_progress(tmp_path, 1)
    silent = Watch(folder, limits)
    silent.look()
    silent._changed -= 50
    with pytest.raises(RunFailed, match=r"no progress for 40 s .*train"):
        silent.look()
    with pytest.raises(RunFailed, match="still running after 100 s"):
        Watch(folder, limits, started=time.monotonic() - 101).look()


def test_the_servers_last_words_are_kept(tmp_path: Path) -> None:
    watch = Watch(RunFolder(tmp_path), LimitConfig())
    write_progress(tmp_path, 1)
    watch.look()
    assert watch.failure() == ""
    write_progress(tmp_path, 1, phase="failed")
    watch.look()
    assert watch.failure() == "m"


def test_two_studies_cannot_hold_one_folder(tmp_path: Path) -> None:
    refused = pytest.raises(ConfigError, match="another mfm-simulate")
    with hold(tmp_path / "run"), refused, hold(tmp_path / "run"):
        pass
    with hold(tmp_path / "run"):
        pass


def test_holding_a_folder_ends_what_a_killed_predecessor_left(tmp_path: Path) -> None:
    token = os.urandom(16).hex()
    left = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(100)"],
        env={**os.environ, guard.MARK: token},
        start_new_session=True,
    )
    (tmp_path / "engine.json").write_text(json.dumps({"token": token}), encoding="utf-8")
    while not list(guard.find_marked(token)):
        time.sleep(0.05)
    with hold(tmp_path):
        assert left.wait(10) != 0
    assert not (tmp_path / "engine.json").exists()


def test_run_folder_tells_finished_from_resumable(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not folder.finished and not folder.resumable
    with pytest.raises(CheckpointError, match="run the study"):
        folder.server_results()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "state-000001.safetensors").touch()
    assert folder.resumable
    (tmp_path / "server.json").write_text('{"status": "complete"}', encoding="utf-8")
    assert folder.finished and folder.server_results() == {"status": "complete"}
