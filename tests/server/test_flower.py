"""The `flwr` command as it is called: its words become values or a refusal, never a traceback."""

from __future__ import annotations

import json
import os
import stat
import sys
import tomllib
from pathlib import Path

import pytest

from mfm_core.errors import RunFailed
from server import flower
from server.flower import Flower, flower_environment, write_connection


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for `flwr` that prints answer.txt and notes its arguments and files."""
    path = tmp_path / "flwr"
    program = (
        f"#!{sys.executable}\nimport json, pathlib, sys\nhere = pathlib.Path({str(tmp_path)!r})\n"
        "words = sys.argv[1:]\n"
        "words = [open(w).read() if w.endswith('.pub') else w for w in words]\n"
        "(here / 'words.json').write_text(json.dumps(words))\n"
        "print((here / 'answer.txt').read_text())\n"
    )
    path.write_text(program)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(flower, "find_command", lambda name: str(path))
    return tmp_path


def answer(folder: Path, content: object) -> Flower:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "answer.txt").write_text(text)
    return Flower(folder / "home", folder)


def words(folder: Path) -> list[str]:
    return list(json.loads((folder / "words.json").read_text()))


def test_a_key_is_registered_under_its_name(command: Path) -> None:
    engine = answer(command, {"success": True, "node-id": 12})
    assert engine.register("north", "ecdsa-sha2-nistp384 AAAA\n") == 12
    assert words(command)[2:6] == ["ecdsa-sha2-nistp384 AAAA\n", "consortium", "--name", "north"]


def test_unregistered_nodes_are_left_out(command: Path) -> None:
    row = {"created-at": "a", "online-at": "b", "offline-at": "c"}
    states = ("online", "offline", "registered", "unregistered")
    rows = [{"node-id": str(n), "status": s, **row} for n, s in enumerate(states)]
    nodes = answer(command, {"success": True, "nodes": rows}).nodes()
    assert [(n.node_id, n.status, n.since) for n in nodes] == [
        (0, "online", "b"), (1, "offline", "c"), (2, "registered", "a"),
    ]  # fmt: skip


def test_settings_reach_flower_as_toml(command: Path) -> None:
    engine = answer(command, {"success": True, "run-id": "77"})
    odd = 'a folder/with "quotes" and \\'
    assert engine.run(command, {"server-config": odd, "resume": True}) == 77
    text = words(command)[words(command).index("--run-config") + 1]
    assert tomllib.loads(text.replace(" resume", "\nresume")) == {
        "server-config": odd,
        "resume": True,
    }


def test_a_run_is_found_with_its_state(command: Path) -> None:
    row = {"run-id": "77", "status": "finished:failed", "status-details": "no", "fab-hash": "ab"}
    found = answer(command, {"success": True, "runs": [row]}).find_run(77)
    assert found.finished and found.details == "no"


@pytest.mark.parametrize(
    "said",
    ["", "no json at all", "[]", {"success": False, "error-message": "Public key already in use"}],
)
def test_a_refusal_is_in_words(command: Path, said: object) -> None:
    with pytest.raises(RunFailed, match=r"flwr supernode unregister: \S") as caught:
        answer(command, said).unregister(3)
    if isinstance(said, dict):
        assert "already in use" in str(caught.value)


def test_no_answer_is_a_refusal(command: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (command / "flwr").write_text("#!/bin/sh\nexec sleep 30\n")
    monkeypatch.setattr(flower, "CALL_LIMIT_S", 0.2)
    with pytest.raises(RunFailed, match="no answer"):
        Flower(command, command).stop(1)


def test_processes_are_quiet_private_and_keep_loopback_off_the_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("NO_PROXY", "intranet")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    found = flower_environment(tmp_path)
    assert "PYTHONPATH" not in found and found["FLWR_HOME"] == str(tmp_path)
    assert found["FLWR_TELEMETRY_ENABLED"] == "0" and found["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert found["NO_PROXY"].split(",") == ["intranet", "127.0.0.1", "localhost"]
    assert found["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_the_connection_is_read_back_by_toml(tmp_path: Path) -> None:
    authority = tmp_path / 'odd "name' / "ca.crt"
    write_connection(tmp_path / "home", "127.0.0.1:8000", authority)
    found = tomllib.loads((tmp_path / "home" / "config.toml").read_text())["superlink"]
    assert found["default"] == "consortium"
    assert found["consortium"]["root-certificates"] == str(authority)
