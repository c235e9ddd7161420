"""What people read: every reason with its number, and no name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.intake import Intake, Request, Row
from client.intake_reasons import REASONS
from client.intake_words import intake_lines, print_intake


def done(root: Path) -> Intake:
    rows = [Row(f"Family{i}.dcm", "normal", "a" * 20, "s", {"view": "PA"}) for i in range(3)]
    left = [(f"Family{i}.txt", reason, "") for i, reason in enumerate(REASONS)]
    found = Intake(root, rows, left, unused=(4, 5))
    found.withheld["view"] = 1
    return found


def test_every_reason_is_said_with_its_number(tmp_path: Path) -> None:
    text = "\n".join(intake_lines(done(tmp_path), Request(tmp_path, tmp_path, tmp_path)))
    assert [words for words in REASONS.values() if f"left out: 1 file, {words}" not in text] == []
    assert "3 of 19 files" in text
    assert "1 patients" in text
    assert "view: 1 images with a value" in text
    assert "Family" not in text and "For site.yaml" in text


def test_without_an_image_nothing_is_offered_for_the_settings(tmp_path: Path) -> None:
    text = "\n".join(intake_lines(Intake(tmp_path), Request(tmp_path, tmp_path, tmp_path)))
    assert "For site.yaml" not in text and text.endswith("check the folder and what was left out.")


def test_lines_without_image_matter_only_with_a_table(tmp_path: Path) -> None:
    plain = Request(tmp_path, tmp_path, tmp_path)
    table = Request(tmp_path, tmp_path, tmp_path, labels=tmp_path / "l.csv")
    assert "label table" not in "\n".join(intake_lines(done(tmp_path), plain))
    text = "\n".join(intake_lines(done(tmp_path), table))
    assert "label table: 2 lines name no image" in text
    assert "spreadsheets" not in text
    nothing = Intake(tmp_path, unused=(2,))
    assert "spreadsheets" in "\n".join(intake_lines(nothing, table))


def test_json_holds_the_same_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_intake(done(tmp_path), Request(tmp_path, tmp_path, tmp_path), as_json=True)
    assert json.loads(capsys.readouterr().out) == done(tmp_path).summary()
