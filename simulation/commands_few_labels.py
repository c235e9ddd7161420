"""The command `few-labels` of `mfm-simulate`.

What crosses a hospital's boundary: nothing; a researcher holds all the images.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def few_labels(
    study: Annotated[Path, typer.Argument(help="Study file (YAML).", show_default=False)],
    data: Annotated[
        Path, typer.Option("--data", help="Folder that the study's image paths are relative to.")
    ] = Path("."),
    out: Annotated[Path, typer.Option("--out", help="Folder of run folders.")] = Path("runs"),
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Draw AUC against the share of labels, and what a hospital without labels gains."""
    from simulation.__main__ import parse_settings
    from simulation.few_labels import run_few_labels
    from simulation.few_labels_config import load_few_labels
    from simulation.few_labels_table import draw_curve, make_tables
    from simulation.progress import choose_display

    config = load_few_labels(study, parse_settings(settings))
    folder = out / config.name
    with choose_display(quiet=as_json) as display:
        results = run_few_labels(config, data, folder, display)
    tables = make_tables(results)
    (folder / "table.md").write_text(tables, encoding="utf-8")
    draw_curve(results, folder / "curve.png")
    if as_json:
        print(json.dumps([asdict(result) for result in results], indent=1))
        return
    print(tables)
    print(f"Table and picture: {folder}")
