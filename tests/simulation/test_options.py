"""The options that commands share, and what is said of wrong ones."""

from __future__ import annotations

import pytest
import typer

from mfm_core.errors import ConfigError
from simulation.__main__ import STUDIES, app
from simulation.config import load_study
from simulation.options import COMMANDS, parse_settings


def test_settings_are_keys_and_values() -> None:
    assert parse_settings(["a.b=1", "c = x=y "]) == {"a.b": "1", "c": " x=y "}
    assert parse_settings(None) == {}


@pytest.mark.parametrize("entry", ["nothing", "=1"])
def test_an_entry_without_key_or_value_is_refused(entry: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected KEY=VALUE"):
        parse_settings(["a=1", entry])


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("bias", "run"),
        ("table1", "run"),
        ("federations", "federations"),
        ("few_labels", "few-labels"),
        ("transfer", "transfer"),
        ("mimeta", "pretrain"),
    ],
)
def test_a_file_of_another_kind_is_sent_to_its_command(name: str, command: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study(STUDIES / f"{name}.yaml")
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].endswith(f"`mfm-simulate {command}` takes")


def test_every_command_that_a_file_is_sent_to_exists() -> None:
    names = {one.name or one.callback.__name__.replace("_", "-") for one in app.registered_commands}
    assert set(COMMANDS.values()) <= names
