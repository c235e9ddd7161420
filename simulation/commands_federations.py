"""The command `federations` of `mfm-simulate`.

What crosses a hospital's boundary: in the federations what a study sends.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from simulation.options import (
    AsJson,
    DataFolder,
    Fresh,
    OneProcess,
    OutFolder,
    Settings,
    parse_settings,
)

DEFAULT = Path(__file__).parent / "studies" / "federations.yaml"


def federations(
    comparison: Annotated[Path, typer.Argument(help="Comparison file (YAML).")] = DEFAULT,
    data: DataFolder = Path("."),
    out: OutFolder = Path("runs"),
    fresh: Fresh = False,
    one_process: OneProcess = False,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Compare ways to federate on the same hospitals: one table, one picture."""
    from simulation.federations import load_comparison, run_comparison
    from simulation.progress import choose_display
    from simulation.study import Place

    config, members = load_comparison(comparison, parse_settings(settings))
    place = Place(data, out / config.name, fresh, one_process)
    with choose_display(quiet=as_json) as display:
        table = run_comparison(config, members, place, display)
    if as_json:
        print(json.dumps(table, indent=1))
        return
    print((place.folder / "table.md").read_text(encoding="utf-8"))
    print(f"Tables and picture: {place.folder}")
