"""`mfm-client intake` from the command line: options, exit codes, output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.commands_intake import app
from mfm_core.errors import DataError
from tests.client.archive import put, rich

RUN = CliRunner()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    put(tmp_path / "source" / "a.dcm", rich(1, "PID-1"))
    other = rich(2, "PID-2")
    other.Modality = "CR"
    put(tmp_path / "source" / "b.dcm", other)
    return tmp_path / "source"


def test_counts_are_printed_and_the_secret_lies_beside_the_output(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "hospital" / "intake"
    done = RUN.invoke(app, [str(source), "--out", str(out), "--modality", "cr", "--json"])
    assert done.exit_code == 0, done.output
    counts = json.loads(done.stdout)
    assert (counts["images"], counts["left_out"]) == (1, {"modality": 1})
    assert (out / "manifest.csv").is_file()
    secret = tmp_path / "hospital" / "state" / "secret.key"
    assert secret.stat().st_mode & 0o077 == 0


def test_attributes_can_be_chosen(source: Path, tmp_path: Path) -> None:
    options = ["--out", str(tmp_path / "out"), "--attribute", "sex", "--attribute", "modality"]
    assert RUN.invoke(app, [str(source), *options]).exit_code == 0
    head = (tmp_path / "out" / "manifest.csv").read_text().partition("\n")[0]
    assert head == "file,label,patient_id,sex,modality"


def test_nothing_left_is_exit_code_1(source: Path, tmp_path: Path) -> None:
    done = RUN.invoke(app, [str(source), "--out", str(tmp_path / "out"), "--modality", "MG"])
    assert done.exit_code == 1
    assert "left out: 2 files, of a modality that was not asked for" in done.output


def test_a_wrong_folder_is_refused(tmp_path: Path) -> None:
    done = RUN.invoke(app, [str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, DataError)
