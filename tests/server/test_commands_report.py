from pathlib import Path

from typer.testing import CliRunner

from mfm_core.errors import ConfigError
from server.__main__ import app


def test_the_command_writes_the_page_and_names_it(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text('{"status": "failed"}', encoding="utf-8")
    out = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(out)])
    assert done.exit_code == 0 and done.stdout.strip() == str(out)
    assert "ended without a model" in out.read_text(encoding="utf-8")


def test_a_folder_without_a_run_is_a_refusal(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert isinstance(done.exception, ConfigError) and "not a run folder" in str(done.exception)
