from __future__ import annotations

from pathlib import Path

import pytest

from simulation.__main__ import call


@pytest.mark.parametrize("command", ["pretrain", "transfer"])
def test_a_missing_file_is_an_error_in_words(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call([command, str(tmp_path / "absent.yaml")]) == 1
    said = capsys.readouterr().err
    assert "cannot be read" in said and "Traceback" not in said
