"""Files with one key at the top: what is refused, and that every problem is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from mfm_core.config import Part
from mfm_core.errors import ConfigError
from simulation.one_key import read_one_key


class Shape(Part):
    """What stands below the key."""

    sides: int = Field(ge=3)
    name: str = "any"


def written(folder: Path, text: str) -> Path:
    path = folder / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_settings_are_laid_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "shape: {sides: 3}\n")
    found, beside = read_one_key(path, "shape", Shape, {"shape.sides": "5"})
    assert (found.sides, beside) == (5, [])


def test_a_key_beside_it_is_a_problem_and_what_is_right_is_returned(tmp_path: Path) -> None:
    found, beside = read_one_key(
        written(tmp_path, "shape: {sides: 4}\nrun: {}\n"), "shape", Shape, None
    )
    assert found.sides == 4 and beside == ["run: stands beside shape; put it below it"]


def test_all_problems_are_said_at_once_and_a_missing_key_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_one_key(
            written(tmp_path, "shape: {sides: 2, hue: red}\nrun: {}\n"), "shape", Shape, {}
        )
    text = str(caught.value)
    assert "shape.sides" in text and "shape.hue" in text and "run: stands beside shape" in text
    with pytest.raises(ConfigError, match="the one key shape"):
        read_one_key(written(tmp_path, "run: {}\n"), "shape", Shape, {})
