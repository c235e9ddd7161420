from __future__ import annotations

from pathlib import Path

import pytest
import typer

from simulation.__main__ import call
from simulation.commands_pretraining import pairs_of


def test_settings_are_keys_and_values() -> None:
    assert pairs_of(["a.b=1", "c = x=y "]) == {"a.b": "1", "c": " x=y "}
    with pytest.raises(typer.BadParameter, match="expected KEY=VALUE"):
        pairs_of(["nothing"])


@pytest.mark.parametrize("command", ["pretrain", "transfer"])
def test_a_missing_file_is_an_error_in_words(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call([command, str(tmp_path / "absent.yaml")]) == 1
    said = capsys.readouterr().err
    assert "cannot be read" in said and "Traceback" not in said
