from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mfm_core.errors import ConfigError
from server.__main__ import app
from tests.server.finished import finished_run, released
from tests.server.test_leak_audit import ATTACK

LEAKY = {**ATTACK, "tpr_at_1_fpr": 0.5, "tpr_interval": [0.4, 0.6]}


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a consortium's folder with one finished run."""
    folder = tmp_path_factory.mktemp("consortium") / "folder"
    made = invoke("init", folder, "--name", "North Sea", "--address", "fl.example.org:8443")
    assert made.exit_code == 0, made.output
    shutil.move(finished_run(folder.parent), folder / "runs" / "tiny")
    return folder


def test_a_consortium_releases_and_the_receiver_verifies(consortium: Path) -> None:
    with (consortium / "card.yaml").open("a") as file:
        file.write("contact: trials@example.org\n")
    done = invoke("release", consortium)
    assert done.exit_code == 0, done.output
    (folder,) = (consortium / "releases").iterdir()
    assert str(folder) in done.output.replace("\n", "") and "not done" in done.output
    assert "trials@example.org" in (folder / "model_card.html").read_text()
    found = invoke("verify", folder)
    assert found.exit_code == 0 and "whole and of one piece" in found.output
    (folder / "metrics.json").write_text("{}")
    found = invoke("verify", folder)
    assert found.exit_code == 1 and "metrics.json: was changed" in found.output


def test_a_gate_ends_with_code_1_and_a_table(consortium: Path, tmp_path: Path) -> None:
    (consortium / "runs" / "tiny" / "leak_audit.json").write_text(json.dumps({"attacks": [LEAKY]}))
    try:
        out = tmp_path / "out"
        done = invoke("release", consortium, "--name", "tiny", "--out", out)
        assert done.exit_code == 1 and not out.exists()
        assert "fail" in done.output and "held back by: leak_tpr" in done.output
        told = invoke("release", consortium, "--out", out, "--json")
        content = json.loads(told.stdout)
        assert told.exit_code == 1 and content["released"] is False and not out.exists()
        assert [g["gate"] for g in content["gates"] if g["blocks"]] == ["leak_tpr"]
        done = invoke("release", consortium, "--out", out, "--accept", "leak_tpr=attack = on toys")
        assert done.exit_code == 0 and "attack = on toys" in done.output
        assert invoke("verify", out).exit_code == 0
    finally:
        os.unlink(consortium / "runs" / "tiny" / "leak_audit.json")


def test_json_tells_where_and_what(consortium: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = invoke("release", consortium / "runs" / "tiny", "--out", out, "--json")
    content = json.loads(done.stdout)
    assert done.exit_code == 0 and content["folder"] == str(out)
    found = json.loads(invoke("verify", out, "--json").stdout)
    assert found["ok"] is True and found["release_id"] == content["release_id"]
    assert found["facts"]["status"] == "complete" and found["problems"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--accept", "ssim"], "expected GATE=REASON"),
        (["--accept", "ssim=a", "--accept", "ssim=b"], "stands twice"),
        (["--accept", "ssim=because"], "does not hold the release back"),
        (["--name", "other"], "runs here: tiny"),
    ],
)
def test_wrong_use_is_refused(consortium: Path, words: list[str], said: str) -> None:
    before = sorted((consortium / "releases").glob("*"))
    done = invoke("release", consortium, *words)
    assert isinstance(done.exception, ConfigError) and said in str(done.exception)
    assert sorted((consortium / "releases").glob("*")) == before


def test_verify_prints_every_problem_as_json_too(tmp_path: Path) -> None:
    folder = released(tmp_path)
    (folder / "run.yaml").unlink()
    (folder / "more").touch()
    done = invoke("verify", folder, "--json")
    content = json.loads(done.stdout)
    assert done.exit_code == 1 and content["ok"] is False
    assert {"run.yaml: is missing", "more: no file of a release; take it away"} <= {
        *content["problems"]
    }
