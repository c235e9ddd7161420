"""A federated study on Flower's real engine: from a study file to its report, and after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mfm_core.checkpoint import load_model
from simulation import guard
from strategies.code_hash import code_hash
from tests.simulation.samples import write_study

ROOT = Path(__file__).parents[2]
BASELINES = {"kinds": ["local", "nearest_neighbour"]}


def command(study: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "simulation", "run", str(study), "--out", str(out), *more]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


def run(study: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a study from a working directory that is not the project's."""
    return subprocess.run(
        command(study, out, *more),
        cwd=study.parent,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def results_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "tiny" / "results.json").read_text(encoding="utf-8"))


def lines_of(out: Path) -> list[dict[str, Any]]:
    text = (out / "tiny" / "rounds.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_study_runs_from_its_file_to_its_report(tmp_path: Path) -> None:
    study, out = write_study(tmp_path, baselines=BASELINES), tmp_path / "all runs"
    done = run(study, out)
    assert done.returncode == 0, done.stderr
    results, folder = results_of(out), out / "tiny"
    assert results["status"] == "complete"
    assert results["code_hash"] == code_hash()
    assert (results["sites"], results["rounds"], results["site_names"]) == (
        2,
        2,
        ["north", "south"],
    )
    assert results["n_test"] == sum(h["test"] for h in results["hospitals"])
    assert [line["phase"] for line in lines_of(out)].count("train") == 2
    assert all(set(line["sites"].values()) == {"ok"} for line in lines_of(out))
    assert sorted(b["name"] for b in results["baselines"]) == [
        "1-nearest neighbour on 32 px pixels",
        "north alone",
        "south alone",
    ]
    assert [row["class"] for row in results["explanations"]][-1] == "all classes"
    assert results["timing"]["federation"] > results["timing"]["of which engine start"] > 0
    load_model(folder / "final.safetensors", results["config_hash"])
    assert (folder / "report.html").stat().st_size > 10_000
    assert "Report:" in done.stdout and "federated training" in done.stderr
    assert not (folder / "engine.json").exists()

    started = (folder / "results.json").stat().st_mtime_ns
    again = run(study, out)
    assert again.returncode == 0 and "was finished already" in again.stdout
    assert (folder / "results.json").stat().st_mtime_ns == started
    other = run(study, out, "--set", "run.seed=1")
    assert other.returncode == 1 and "holds another study" in other.stderr


def start(study: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(study, out),
        cwd=study.parent,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_round(out: Path, number: int, limit_s: float = 200) -> None:
    stop_at = time.monotonic() + limit_s
    while time.monotonic() < stop_at:
        try:
            if any(line["round"] >= number for line in lines_of(out)):
                return
        except (OSError, json.JSONDecodeError):
            pass
        time.sleep(0.05)
    pytest.fail(f"round {number} did not come within {limit_s} s")


def token_of(out: Path) -> str:
    content = json.loads((out / "tiny" / "engine.json").read_text(encoding="utf-8"))
    return str(content["token"])


def assert_nothing_left(token: str) -> None:
    stop_at = time.monotonic() + 20
    while list(guard.find_marked(token)) and time.monotonic() < stop_at:
        time.sleep(0.1)
    assert not list(guard.find_marked(token))


LONGER = {"baselines": {"kinds": []}}


def write_longer(folder: Path) -> Path:
    """Write a study of six rounds that are long enough to be interrupted."""
    folder.mkdir()
    path = write_study(folder, **LONGER)
    text = path.read_text(encoding="utf-8")
    text = text.replace("rounds: 2", "rounds: 6").replace(
        "steps_per_round: 2", "steps_per_round: 8"
    )
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of an uninterrupted run with two workers."""
    folder = tmp_path_factory.mktemp("whole")
    study = write_longer(folder / "study")
    done = run(study, folder / "runs", "--set", "workers=2")
    assert done.returncode == 0, done.stderr
    return results_of(folder / "runs")


@pytest.mark.slow
def test_a_run_killed_with_sigkill_twice_resumes_to_the_same_hash(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    study, out = write_longer(tmp_path / "study"), tmp_path / "runs"
    for number in (1, 3):
        process = start(study, out)
        wait_for_round(out, number)
        token = token_of(out)
        process.kill()
        process.communicate()
        assert_nothing_left(token)
    done = run(study, out)
    assert done.returncode == 0, done.stderr
    results = results_of(out)
    assert results["final_hash"] == whole["final_hash"]
    assert [line["round"] for line in lines_of(out) if line["phase"] == "train"] == [*range(1, 7)]
    assert results["pooled"] == whole["pooled"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_says_so_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    study, out = write_longer(tmp_path / "study"), tmp_path / "runs"
    process = start(study, out)
    wait_for_round(out, 1)
    token = token_of(out)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "Interrupted" in output and "Traceback" not in output
    assert_nothing_left(token)
    assert not (out / "tiny" / "engine.json").exists()


@pytest.mark.slow
def test_the_number_of_workers_does_not_change_the_result(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    study, out = write_longer(tmp_path / "study"), tmp_path / "runs"
    done = run(study, out, "--set", "workers=1")
    assert done.returncode == 0, done.stderr
    assert results_of(out)["final_hash"] == whole["final_hash"]


@pytest.mark.slow
def test_a_hospital_that_breaks_in_the_middle_ends_the_run_with_code_3(tmp_path: Path) -> None:
    study, out = write_longer(tmp_path / "study"), tmp_path / "runs"
    process = start(study, out)
    wait_for_round(out, 1)
    token = token_of(out)
    workers = [pid for pid in guard.find_marked(token) if "ClientAppActor" in name_of(pid)]
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 3, output
    assert "error:" in output and "logs are in" in output
    assert_nothing_left(token)


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
