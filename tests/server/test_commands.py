"""`mfm-server status` tells how far a run is, and why it cannot when it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server import __main__ as commands
from server.journal import RunFolder
from strategies.plan import Step


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["mfm-server", *words])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    return int(ended.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    journal = RunFolder(tmp_path, "c" * 64, "d" * 64, rounds=5)
    journal.report(Step("train", 2), 1, 9, "north: ok; 1 to come")
    sites = {"north": "ok", "south": "rejected:nan"}
    journal.write({"phase": "train", "round": 1, "seconds": 2.5, "sites": sites})
    return tmp_path


def test_for_people(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "status", str(folder)) == 0
    out = capsys.readouterr().out
    assert "running: train, step 1 of 9; north: ok; 1 to come" in out
    assert "south rejected:nan" in out


def test_for_programs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "status", str(folder), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "running" and found["progress"]["round"] == 2
    assert found["exchanges"][0]["sites"]["south"] == "rejected:nan"


def test_no_run_is_a_refusal_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "status", str(tmp_path / "nowhere")) == 1
    assert "not a run folder" in capsys.readouterr().err


def test_wrong_use_is_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "status") == 2


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"phase": "done"}', "\xff"])
def test_a_damaged_file_is_a_refusal_without_a_traceback(
    folder: Path, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("rounds.jsonl", "progress.json"):
        (folder / name).write_bytes(text.encode("latin-1") + b"\n")
        if name == "rounds.jsonl" and not text:
            continue
        assert call(monkeypatch, "status", str(folder)) == 1
        assert str(folder) in capsys.readouterr().err
