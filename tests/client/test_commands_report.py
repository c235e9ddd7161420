from pathlib import Path

import pytest

from client.__main__ import call
from tests.server.hospitals import lay_out


def test_before_a_run_the_command_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(tmp_path)
    assert call(["report", "--config", str(tmp_path / "sites" / "0.yaml")]) == 1
    said = capsys.readouterr()
    assert "Take part in a run" in said.err and said.out == ""


def test_the_command_hands_over_every_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        "client.report.write_page", lambda wanted, show: seen.append(wanted) or tmp_path / "page"
    )
    names = ("config", "results", "model", "atlas", "out")
    options = [part for name in names for part in (f"--{name}", name)]
    assert call(["report", *options]) == 0
    assert [str(getattr(seen[0], name)) for name in names] == list(names)
    said = capsys.readouterr()
    assert said.out.strip() == str(tmp_path / "page") and "must not leave" in said.err
