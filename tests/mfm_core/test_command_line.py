"""How a command ends: its exit code, and what is said on standard error."""

from __future__ import annotations

from collections.abc import Callable

import click
import pytest
import typer

from mfm_core.command_line import Interrupted, run_command
from mfm_core.errors import ConfigError, RunFailed

FULL = OSError(28, "No space left on device", "disk/file")


def app_that(act: Callable[[], object]) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(act)
    return app


def throw(error: BaseException) -> object:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("a.yaml", ["is wrong"]), 1, "a.yaml: 1 problem\n  - is wrong\n"),
        (RunFailed("no model"), 3, "no model\n"),
        (click.BadParameter("expected x"), 2, "Error: Invalid value: expected x\n"),
        (FULL, 3, "disk/file: No space left on device; free some space\n"),
        (Interrupted(), 3, "Stopped here.\n"),
        (click.Abort(), 3, "Stopped here.\n"),
        (typer.Exit(1), 1, ""),
        (typer.Exit(), 0, ""),
    ],
    ids=lambda part: type(part).__name__,
)
def test_an_error_on_purpose_ends_in_plain_words(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_command(app_that(lambda: throw(error)), "mfm-x", [], "Stopped here.")
    told = capsys.readouterr()
    assert found == code and told.out == ""
    assert told.err.lstrip("\n").endswith(said) and "Traceback" not in told.err


def test_a_defect_shows_where_and_asks_for_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(app_that(lambda: 1 // 0), "mfm-x", []) == 3
    told = capsys.readouterr().err
    assert "ZeroDivisionError" in told and "defect of mfm-x" in told


def test_a_command_that_ends_well_is_code_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(app_that(lambda: print("done")), "mfm-x", []) == 0
    assert capsys.readouterr() == ("done\n", "")
