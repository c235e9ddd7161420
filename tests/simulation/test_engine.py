"""The private engine: whatever happens to a run, nothing of it is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mfm_core.errors import RunFailed
from simulation import engine, guard
from simulation.config import LimitConfig
from simulation.engine import Engine, Federation
from simulation.progress import SilentDisplay
from simulation.runner import RunFolder, Watch, _follow
from tests.simulation.samples import write_toy_app

ROOT = Path(__file__).parents[2]

START = """\
import sys, time
from pathlib import Path
from simulation.engine import Engine, Federation
with Engine(Path(sys.argv[2])) as engine:
    settings = {"server-config": sys.argv[3]}
    flower = engine.submit(Path(sys.argv[1]), Federation(2, 2), settings)
    print(engine.token, engine.workspace, flush=True)
    flower.wait()
    time.sleep(600)
"""


def wait_until(condition, limit_s: float) -> bool:
    stop_at = time.monotonic() + limit_s
    while time.monotonic() < stop_at:
        if condition():
            return True
        time.sleep(0.1)
    return bool(condition())


def test_a_study_killed_with_sigkill_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    app = write_toy_app(tmp_path)
    arguments = [str(app), str(tmp_path / "logs"), str(tmp_path / "consortium.yaml")]
    study = subprocess.Popen(
        [sys.executable, "-c", START, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert study.stdout is not None
    token, folder = study.stdout.readline().split()
    with study.stdout:
        # SuperLink, SuperExec, flwr-simulation, flwr run and Ray's own
        assert wait_until(lambda: len(list(guard.find_marked(token))) >= 6, 60)
        study.send_signal(signal.SIGKILL)
        study.wait()
    assert wait_until(lambda: not list(guard.find_marked(token)), 20)
    assert wait_until(lambda: not Path(folder).exists(), 20)


def test_a_superlink_that_cannot_start_is_a_failure_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "find_command", lambda name: "/bin/false")
    logs = tmp_path / "logs"
    with pytest.raises(RunFailed, match=r"ended by itself; see .*superlink\.log"), Engine(logs):
        pass


def test_a_missing_simulation_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RunFailed, match="install the simulation extra"):
        engine.find_command("flower-superlink")


def test_a_folder_with_a_space_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(Path("a clone", ".venv", "bin", "python")))
    with pytest.raises(RunFailed, match="move the clone"):
        engine.find_command("flwr")


def test_the_engines_environment_hides_the_callers_import_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/another/checkout")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:1")
    environment = engine.describe_environment(tmp_path, tmp_path)
    assert "PYTHONPATH" not in environment
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert "127.0.0.1" in environment["NO_PROXY"]


def test_end_marked_ends_processes_in_sessions_of_their_own() -> None:
    token = "test" + os.urandom(8).hex()
    code = "import time; time.sleep(100)"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, guard.MARK: token},
            start_new_session=True,
        )
        for _ in range(2)
    ]
    assert wait_until(lambda: len(list(guard.find_marked(token))) == 2, 10)
    ended = [process.pid for process in processes]
    assert sorted(guard.find_marked(token)) == sorted(ended)
    for process in processes:
        assert process.poll() is None
    guard.end_marked(token, limit_s=1.0)
    assert all(process.wait(10) == -signal.SIGKILL for process in processes)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "outcome"), [("crash", "error:"), ("hang", "no-reply")])
def test_a_broken_virtual_hospital_is_a_failure_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, outcome: str
) -> None:
    monkeypatch.setenv("TOY_MODE", mode)
    watch = Watch(RunFolder(tmp_path), LimitConfig())
    with Engine(tmp_path / "logs") as running:
        settings = {"server-config": str(tmp_path / "consortium.yaml")}
        flower = running.submit(write_toy_app(tmp_path), Federation(2, 2), settings)
        with pytest.raises(RunFailed, match=rf"train round 2: .*hospital \d+ \({outcome}"):
            _follow(flower, running, watch, SilentDisplay())
        token = running.token
    assert not list(guard.find_marked(token))
    assert not running.workspace.exists()
