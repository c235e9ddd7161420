"""`mfm-client outbox`: see what waits to leave, and let it go or not.

What crosses the hospital's boundary: an approved message, by the process that holds it.
"""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

commands = typer.Typer(help="Messages that wait for a person (limits.manual).")

ConfigFile = Annotated[Path, typer.Option("--config", help="The site's settings, site.yaml.")]
Name = Annotated[str, typer.Argument(help="Name of the message, as `outbox list` shows it.")]


@commands.command("list")
def list_held(
    config: ConfigFile = Path("site.yaml"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """List the messages that wait, with everything they hold."""
    from client.config import load_site_config
    from client.held import held_messages

    waiting = held_messages(load_site_config(config).state_folder)
    if as_json:
        rows = [{"name": held.name, "since": held.since, **held.facts} for held in waiting]
        print(json.dumps(rows, indent=2))
        return
    if not waiting:
        print("Nothing waits.")
        return
    table = Table("message", "since", "images", "bytes", "array", "shape", "norm")
    for held in waiting:
        first = [held.name, held.since, str(held.facts["images"]), f"{held.facts['bytes']:,}"]
        for array in held.facts["arrays"]:
            shape = " x ".join(str(side) for side in array["shape"])
            table.add_row(*first, array["name"], shape, f"{array['norm']:.4g}")
            first = [""] * 4
    Console().print(table)
    print(f"The numbers themselves: {waiting[0].arrays.parent}")


@commands.command()
def approve(name: Name, config: ConfigFile = Path("site.yaml")) -> None:
    """Let a message leave; your name goes into the ledger."""
    _decide(name, config, True)
    print(f"{name}: approved")


@commands.command()
def reject(name: Name, config: ConfigFile = Path("site.yaml")) -> None:
    """Keep a message here; the coordinator is told that this site refused."""
    _decide(name, config, False)
    print(f"{name}: rejected")


def _decide(name: str, config: Path, approved: bool) -> None:
    from client.config import load_site_config
    from client.held import decide

    decide(load_site_config(config).state_folder, name, approved, getpass.getuser())
