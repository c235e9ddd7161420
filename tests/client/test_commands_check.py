import json
from pathlib import Path

import pytest

from client.__main__ import call
from client.folder import Folder
from mfm_core.config import dump_yaml
from tests.client.hospital_folder import make_hospital, make_kit, settings


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return make_hospital(tmp_path / "north", make_kit(tmp_path / "kit"))


def test_exit_code_follows_the_worst_line(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["check", str(folder.root), "--offline", "--part", "settings", "--part", "keys"]
    assert call(asked) == 0
    told = capsys.readouterr().out
    assert told.count("ok  ") >= 3 and "ready" in told.splitlines()[-1]
    folder.key.chmod(0o644)
    assert call(asked) == 1
    assert "chmod 600" in capsys.readouterr().out


def test_json_lists_every_problem(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder.root / "images" / "manifest.csv"
    path.write_text(path.read_text().replace("png,", "jpg,"))
    assert call(["check", str(folder.root), "--part", "data", "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["worst"] == "fail" and len(content["findings"][0]["details"]) == 48


def test_a_part_that_does_not_exist_is_wrong_use(folder: Folder) -> None:
    assert call(["check", str(folder.root), "--part", "weather"]) == 2


def test_what_is_no_hospital_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check", str(tmp_path)]) == 1
    assert "mfm-client init" in capsys.readouterr().err


def test_a_dry_run_prints_the_table_and_a_refused_exchange_is_code_1(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["check", str(folder.root), "--dry-run", "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "class.count" in told and "Nothing was sent" in told and str(tmp_path / "out") in told
    assert not folder.dry_run.exists()
    dump_yaml(settings(allowed_kinds=["hello"]), folder.site_file)
    assert call(["check", str(folder.root), "--dry-run", "--json"]) == 1
    done = json.loads(capsys.readouterr().out)
    assert {row["outcome"] for row in done} == {"leaves", "refused", "not made"}
    assert not (folder.root / "state" / "outbox.jsonl").exists()


def test_a_dry_run_of_images_that_cannot_be_used_names_every_problem_once(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder.root / "images" / "manifest.csv"
    path.write_text(path.read_text().replace("png,", "jpg,"))
    assert call(["check", str(folder.root), "--dry-run"]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n  - row ") == 48 and "Traceback" not in said.err
    assert "What would leave" not in said.out


def test_a_proxy_is_passed_over_for_loopback_as_the_node_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    kit = make_kit(tmp_path / "kit", address="127.0.0.1:9")
    folder = make_hospital(tmp_path / "north", kit)
    assert call(["check", str(folder.root), "--part", "network", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert next(row["level"] for row in found if row["part"] == "proxy") == "ok"
