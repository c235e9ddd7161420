"""The command `federations` of `mfm-simulate`.

What crosses a hospital's boundary: in the federations what a study sends.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

DEFAULT = Path(__file__).parent / "studies" / "federations.yaml"


def federations(
    comparison: Annotated[Path, typer.Argument(help="Comparison file (YAML).")] = DEFAULT,
    data: Annotated[
        Path, typer.Option("--data", help="Folder that image paths are relative to.")
    ] = Path("."),
    out: Annotated[Path, typer.Option("--out", help="Folder of run folders.")] = Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin every run anew.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare ways to federate on the same hospitals: one table, one picture."""
    from simulation.__main__ import parse_settings
    from simulation.federations import ComparisonOrder, load_comparison, run_comparison
    from simulation.progress import choose_display

    config, members = load_comparison(comparison, parse_settings(settings))
    order = ComparisonOrder(config, members, data, out, fresh)
    with choose_display(quiet=as_json) as display:
        table = run_comparison(order, display)
    if as_json:
        print(json.dumps(table, indent=1))
        return
    print((order.folder / "table.md").read_text(encoding="utf-8"))
    print(f"Tables and picture: {order.folder}")
