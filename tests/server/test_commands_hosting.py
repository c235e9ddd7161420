"""start, stop, run, resume and status of a folder: what they refuse and what they print."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mfm_core.config import dump_yaml
from server import commands_hosting, hosted_run
from server.folder import Folder, create_folder
from server.hosted_run import kit_problems
from server.run_files import SUBMISSION
from server.superlink import Host
from strategies.processes import observe
from tests.server.hospitals import RUN
from tests.server.test_commands import call
from tests.server.test_follow import (
    CONFIG,
    FakeEngine,
    _fast,  # noqa: F401
    ends,
    ledger,
    progress,
    says,
)

SETTINGS = "name: North Sea\naddress: localhost:8443\nlisten: 127.0.0.1:1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = create_folder(tmp_path / "c", SETTINGS, "", ("North Sea", "localhost"))
    dump_yaml(RUN, made.run)
    for name in ("north", "south"):
        site(made, name, "admitted")
    return made


def site(folder: Folder, name: str, status: str) -> None:
    content = {"name": name, "public_key": f"key-{name}", "status": status}
    (folder.sites / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def hosted(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The folder as if it ran: this process is its supervisor, and Flower is scripted."""
    own = observe("supervisor", os.getpid())
    assert own is not None
    content = {"supervisor": own.to_dict(), "ready": True, "services": []}
    (folder.superlink / "processes.json").write_text(json.dumps(content))
    engine = FakeEngine(folder.runs / RUN.name)
    monkeypatch.setattr(Host, "flower", engine)
    return engine


def test_stop_of_a_folder_that_does_not_run(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "stop", str(folder.root)) == 0
    assert "nothing was running" in capsys.readouterr().out


def test_start_detached_passes_on_why_it_did_not(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder.authority / "server.crt").write_text("no certificate")
    text = SETTINGS.replace("127.0.0.1:1", "203.0.113.1:8443")
    folder.consortium.write_text(text)
    assert call(monkeypatch, "start", str(folder.root), "--detach") == 3
    assert "listen: 203.0.113.1:8443 is taken" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "resume"])
def test_nothing_is_submitted_to_a_consortium_that_does_not_run(
    folder: Folder,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if command == "resume":
        (folder.runs / "tiny").mkdir()
        dump_yaml(RUN, folder.runs / "tiny" / "run.yaml")
    assert call(monkeypatch, command, str(folder.root)) == 1
    assert "mfm-server start" in capsys.readouterr().err


def test_no_such_run_names_those_there_are(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "resume", str(folder.root), "--name", "other") == 1
    assert "runs here: none" in capsys.readouterr().err


def test_a_run_shows_its_hashes_and_ends_with_the_names_of_the_missing(
    folder: Folder,
    hosted: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    site(folder, "east", "suspended")
    hosted.steps += [says("running"), ends("done", "degraded", north="ok", south="no-reply")]
    assert call(monkeypatch, "run", str(folder.root)) == 0
    out = capsys.readouterr().out
    submission = json.loads((folder.runs / RUN.name / SUBMISSION).read_text())
    assert submission["run_hash"] in out and submission["bundle_hash"] in out
    assert "sites north, south" in out and "quorum 2" in out
    assert "tiny is degraded" in out and "missing: south (train 3 no-reply)" in out
    assert call(monkeypatch, "resume", str(folder.root)) == 0
    assert "tiny is degraded" in capsys.readouterr().out and hosted.submitted == [False]


def test_a_failed_run_is_exit_code_3_and_can_be_gone_on_with(
    folder: Folder,
    hosted: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hosted.steps += [ends("failed"), says("finished:failed"), ends("done")]
    assert call(monkeypatch, "run", str(folder.root)) == 3
    assert "tiny failed: words" in capsys.readouterr().err
    assert call(monkeypatch, "resume", str(folder.root)) == 0
    assert "tiny is complete" in capsys.readouterr().out and hosted.submitted == [False, True]


def test_ctrl_c_stops_the_watching_and_resume_watches_again(
    folder: Folder,
    hosted: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(place: Path) -> str:
        raise KeyboardInterrupt

    hosted.steps += [interrupt, says("running"), ends("done")]
    assert call(monkeypatch, "run", str(folder.root)) == 0
    assert "the run goes on" in capsys.readouterr().out
    assert call(monkeypatch, "resume", str(folder.root)) == 0
    assert "tiny is complete" in capsys.readouterr().out and hosted.submitted == [False]


def test_one_run_at_a_time(
    folder: Folder,
    hosted: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepared = hosted_run.prepare(folder.runs / "first", RUN, CONFIG)
    hosted_run.Follower(prepared, hosted, lambda *_: None)
    (prepared.folder / SUBMISSION).write_text(json.dumps({"flower_runs": ["0"]}))
    hosted.steps.append(says("running"))
    assert call(monkeypatch, "run", str(folder.root)) == 1
    assert "first is under way" in capsys.readouterr().err and hosted.submitted == []


def test_a_site_with_an_old_kit_is_named(folder: Folder) -> None:
    prepared = hosted_run.prepare(folder.runs / "tiny", RUN, CONFIG)
    good = {"run_hash": prepared.run_hash, "bundle_hash": prepared.bundle_hash}
    kits = {"north": good, "south": {**good, "bundle_hash": "0" * 64}, "gone": {"run_hash": "1"}}
    for name, kit in kits.items():
        (folder.kits / name).mkdir()
        (folder.kits / name / "kit.json").write_text(json.dumps(kit))
    (line,) = kit_problems(folder.kits, {"north": "", "south": "", "new": ""}, prepared)
    assert "kit of south names another bundle" in line


def test_status_of_a_folder(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = folder.runs / "tiny"
    place.mkdir()
    progress(place, "train", "asked 2 sites")
    ledger(place, north="ok", south="error:2")
    (folder.sites / "west.json").write_text("{")
    assert call(monkeypatch, "status", str(folder.root), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == "stopped" and found["consortium"] == "North Sea"
    assert [row["file"] for row in found["certificates"]] == ["ca.crt", "server.crt"]
    assert {row["name"]: row["status"] for row in found["sites"]} == {
        "north": "admitted", "south": "admitted", "west": "damaged",
    }  # fmt: skip
    (run,) = found["runs"]
    assert run["status"] == "running" and run["missing"] == {"south": ["train 3 error:2"]}
    assert call(monkeypatch, "status", str(folder.root)) == 0
    out = capsys.readouterr().out
    assert "North Sea: stopped" in out and "tiny" in out and "asked 2 sites" in out


def test_status_warns_of_a_certificate_that_ends(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("server.certificates.WARN_DAYS", 1000)
    assert call(monkeypatch, "status", str(folder.root)) == 0
    assert "warning: server.crt ends in" in capsys.readouterr().out


def test_the_commands_stand_in_one_app() -> None:
    names = {command.callback.__name__ for command in commands_hosting.app.registered_commands}  # type: ignore[union-attr]
    assert names == {"start", "stop", "run", "resume", "status"}
