"""Options that several commands of `mfm-simulate` share, and the reading of `--set`.

What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def parse_settings(settings: list[str] | None) -> dict[str, str]:
    """Return dotted keys and values of --set.

    Raises:
        typer.BadParameter: an entry has no '='.
    """
    pairs = [text.partition("=") for text in settings or []]
    if wrong := [key for key, equals, _ in pairs if not equals or not key]:
        raise typer.BadParameter(f"--set {wrong[0]}: expected KEY=VALUE, e.g. run.rounds=5")
    return {key.strip(): value for key, _, value in pairs}
