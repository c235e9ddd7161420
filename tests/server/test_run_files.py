"""A run's files are read as far as they are whole, without torch and without Flower."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from server.run_files import PROGRESS, RESULTS, ROUNDS, read_ending, read_lines, read_object


def test_what_is_damaged_or_cut_off_is_left_out(tmp_path: Path) -> None:
    assert read_lines(tmp_path) == [] and read_object(tmp_path / PROGRESS) == {}
    (tmp_path / ROUNDS).write_text('{"round": 1}\n{"rou')
    (tmp_path / PROGRESS).write_text("[1]")
    assert read_lines(tmp_path) == [{"round": 1}] and read_object(tmp_path / PROGRESS) == {}
    assert read_ending(tmp_path) is None


def test_a_run_has_ended_once_it_says_so_and_has_results(tmp_path: Path) -> None:
    (tmp_path / PROGRESS).write_text(json.dumps({"phase": "done", "message": "m"}))
    assert read_ending(tmp_path) is None
    (tmp_path / RESULTS).write_text(json.dumps({"status": "complete"}))
    ending = read_ending(tmp_path)
    assert ending is not None and (ending.status, ending.message) == ("complete", "m")


def test_the_supervisor_loads_neither_torch_nor_flower() -> None:
    script = "import sys, server.supervisor; print({'torch', 'flwr'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
