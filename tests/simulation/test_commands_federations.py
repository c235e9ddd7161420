"""The command shows the table of a comparison, or JSON and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simulation import federations
from simulation.__main__ import call
from tests.simulation.test_federations import results, small_comparison


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found = results(0.7, {"a": 0.9}, {"a": 0.5})
    monkeypatch.setattr(federations, "finished_results", lambda study: found)
    (tmp_path / "small").mkdir()
    return ["federations", str(small_comparison(tmp_path)), "--out", str(tmp_path)]


def test_the_table_and_where_it_is(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(arguments) == 0
    text = capsys.readouterr().out
    assert "| own_norms | 0.700 | 0.900 | 0.900 |" in text
    assert f"Tables and picture: {tmp_path / 'small'}" in text


def test_json_is_the_table(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*arguments, "--json"]) == 0
    table: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert table["comparison"] == "small" and len(table["rows"]) == 4


def test_a_file_that_is_no_comparison_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("run: {}\n")
    assert call(["federations", str(path)]) == 1
    assert "comparison" in capsys.readouterr().err
