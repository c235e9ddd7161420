"""The options that commands share, and what is said of wrong ones."""

from __future__ import annotations

import pytest
import typer

from simulation.options import parse_settings


def test_settings_are_keys_and_values() -> None:
    assert parse_settings(["a.b=1", "c = x=y "]) == {"a.b": "1", "c": " x=y "}
    assert parse_settings(None) == {}


@pytest.mark.parametrize("entry", ["nothing", "=1"])
def test_an_entry_without_key_or_value_is_refused(entry: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected KEY=VALUE"):
        parse_settings(["a=1", entry])
