"""The commands `start`, `stop` and `status` of a hospital's node.

What crosses the hospital's boundary: what the started programs send (`client.node`); `status`
asks the server for its certificate, without saying who asks.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from client.commands_folder import HospitalFolder

app = typer.Typer()


@app.command()
def start(
    folder: HospitalFolder = Path(),
    detach: Annotated[
        bool, typer.Option("--detach", help="In the background; return once connected.")
    ] = False,
) -> None:
    """Run this hospital's node: SuperNode and runner, kept running until `stop` or SIGTERM."""
    from client.folder import open_folder
    from client.node import run_node, start_detached
    from client.node_words import text_of_node

    opened = open_folder(folder)
    if detach:
        print(text_of_node(start_detached(opened)))
        return
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    run_node(opened)


@app.command()
def stop(folder: HospitalFolder = Path()) -> None:
    """End this hospital's node and nothing else; a message in hand is given half a minute."""
    from client.folder import open_folder
    from client.node import stop_node

    ended = stop_node(open_folder(folder, joined=False))
    print(f"Ended: {', '.join(ended)}" if ended else "Nothing was running.")


@app.command()
def status(
    folder: HospitalFolder = Path(),
    last: Annotated[int, typer.Option(min=0, help="Messages of the ledger to show.")] = 5,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not ask the server for its certificate.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    healthy: Annotated[
        bool, typer.Option("--healthy", help="Only tell whether all is up: exit code 0 or 1.")
    ] = False,
) -> None:
    """Show the node's processes, what left last, and the days left of the certificates.

    Exit code 1 if the node does not run. With --healthy the processes are asked and nothing else
    is loaded, which suits a container's health check; a server that is away is no ill of the node.
    """
    if healthy:
        _show_health(folder / "node" / "processes.json")
        return
    from client.folder import open_folder
    from client.node_words import read_status, text_of

    found = read_status(open_folder(folder), last, offline=offline)
    print(json.dumps(found.to_dict(), indent=1) if as_json else text_of(found))
    if not found.node.running:
        raise typer.Exit(1)


def _show_health(record: Path) -> None:
    from strategies.health import read_ills

    ills = read_ills(record)
    print("\n".join(ills) or "healthy")
    if ills:
        raise typer.Exit(1)
