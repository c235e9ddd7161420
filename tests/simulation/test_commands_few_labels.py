"""The command `few-labels`: one call from file to table and picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulation.__main__ import call
from tests.simulation.test_few_labels_config import few_labels_content, write


def test_one_command_gives_table_and_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = few_labels_content(shares=[1.0], pretrain_steps=1)
    path = write(tmp_path, content)
    command = ["few-labels", str(path), "--out", str(tmp_path / "runs"), "--json"]
    assert call(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in found} >= {"head", "lora", "all", "semi", "local"}
    folder = tmp_path / "runs" / "few"
    assert "macro AUC" in (folder / "table.md").read_text()
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_wrong_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, few_labels_content(shares=[2.0]))
    assert call(["few-labels", str(path)]) != 0
    assert "few_labels.shares" in capsys.readouterr().err
