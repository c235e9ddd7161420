from pathlib import Path

import pytest

from client.__main__ import call
from tests.client.hospital_folder import make_kit


def test_init_then_join_tells_the_next_step_each_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path.resolve() / "north")
    assert call(["init", place, "--name", "north", "--contact", "it@north.example"]) == 0
    told = capsys.readouterr().out
    assert "request.json" in told and "SHA256:" in told and f"join KIT {place}" in told
    assert "PRIVATE" not in told
    assert call(["join", str(make_kit(tmp_path / "kit")), place]) == 0
    told = capsys.readouterr().out
    assert "site.yaml" in told and f"mfm-client check {place};" in told
    assert call(["init", place, "--name", "north"]) == 1
    assert "already holds a key" in capsys.readouterr().err


def test_a_refused_kit_is_code_1_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path / "north")
    assert call(["init", place, "--name", "north"]) == 0
    assert call(["join", str(make_kit(tmp_path / "kit", "south")), place]) == 1
    assert "'south'" in capsys.readouterr().err
    assert not (tmp_path / "north" / "kit").exists()


def test_another_authority_is_taken_with_replace_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path / "north")
    assert call(["init", place, "--name", "north"]) == 0
    assert call(["join", str(make_kit(tmp_path / "one")), place]) == 0
    assert call(["join", str(make_kit(tmp_path / "two")), place]) == 1
    assert "--replace" in capsys.readouterr().err
    assert call(["join", str(make_kit(tmp_path / "two")), place, "--replace"]) == 0
    assert "left as it is; accept run and bundle there" in capsys.readouterr().out


def test_a_name_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["init", "somewhere"]) == 2
    assert "--name" in capsys.readouterr().err
