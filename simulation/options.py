"""Options that several commands of `mfm-simulate` share, the reading of `--set`, kinds of files.

What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

StudyFile = Annotated[Path, typer.Argument(help="Study file (YAML).", show_default=False)]
DataFolder = Annotated[
    Path, typer.Option("--data", help="Folder that the study's paths are relative to.")
]
OutFolder = Annotated[Path, typer.Option("--out", help="Folder of run folders.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin anew; empties the folder.")]
OneProcess = Annotated[
    bool,
    typer.Option("--one-process", help="Federate without Flower's engine: same bits, quicker."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, nothing else.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. run.rounds=5; repeatable."),
]

COMMANDS = {
    "grid": "run",
    "table": "run",
    "comparison": "federations",
    "few_labels": "few-labels",
    "transfer": "transfer",
    "pretraining": "pretrain",
}
"""Files that are no single study: their one key at the top, and the command that takes them."""


def other_command(content: Mapping[str, Any]) -> list[str]:
    """Return what to do with a file of another kind that was given as a study; empty: none is."""
    return [
        f"is no single study: it holds a {key}, which `mfm-simulate {command}` takes"
        for key, command in COMMANDS.items()
        if key in content
    ]


def parse_settings(settings: list[str] | None) -> dict[str, str]:
    """Return dotted keys and values of --set.

    Raises:
        typer.BadParameter: an entry has no '='.
    """
    pairs = [text.partition("=") for text in settings or []]
    if wrong := [key for key, equals, _ in pairs if not equals or not key]:
        raise typer.BadParameter(f"--set {wrong[0]}: expected KEY=VALUE, e.g. run.rounds=5")
    return {key.strip(): value for key, _, value in pairs}
