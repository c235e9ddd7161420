import json
from pathlib import Path

import pytest

from client.__main__ import call
from client.folder import Folder
from client.node import PROCESSES
from tests.client.hospital_folder import make_hospital, make_kit


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return make_hospital(tmp_path / "north", make_kit(tmp_path / "kit"), images=4)


def test_status_of_a_node_that_does_not_run_is_code_1(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["status", str(folder.root), "--offline"]) == 1
    assert "does not run" in capsys.readouterr().out
    assert call(["status", str(folder.root), "--offline", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["node"]["running"] is False


def test_stop_where_nothing_runs_says_so(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["stop", str(folder.root)]) == 0
    assert "Nothing was running" in capsys.readouterr().out


@pytest.mark.parametrize("how", [[], ["--detach"]])
def test_start_is_refused_before_anything_runs(
    folder: Folder, how: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder.key.chmod(0o644)
    assert call(["start", str(folder.root), *how]) == 1
    assert "chmod 600" in capsys.readouterr().err
    assert not (folder.node / PROCESSES).exists()
