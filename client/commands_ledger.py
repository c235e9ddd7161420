"""`mfm-client ledger`: everything that has left, whether the list is whole, what the server has.

What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

commands = typer.Typer(invoke_without_command=True)

SITE = Path("site.yaml")
ConfigFile = Annotated[Path, typer.Option("--config", help="The site's settings, site.yaml.")]
Witness = Annotated[
    Path | None,
    typer.Option("--witness", help="Compare with the coordinator's rounds.jsonl."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@commands.callback()
def ledger(
    context: typer.Context,
    config: ConfigFile = SITE,
    witness: Witness = None,
    as_json: AsJson = False,
) -> None:
    """List everything that has left this site, and check the list and the server's receipts.

    `ledger verify` prints problems only. Exit code 1 when there are some.
    """
    if context.invoked_subcommand is None:
        _show(config, witness, as_json, whole=True)


@commands.command()
def verify(config: ConfigFile = SITE, witness: Witness = None, as_json: AsJson = False) -> None:
    """Find every edited, missing or reordered line, and every wrong receipt.

    Exit code 1 when there are some.
    """
    _show(config, witness, as_json, whole=False)


def _show(config: Path, witness: Path | None, as_json: bool, *, whole: bool) -> None:
    from client.ledger import read_outbox, table_of

    read = read_outbox(config, witness)
    wrong = list(read.received.problems)
    if as_json:
        rows = [{**line, "received": read.received.of(line)} for line in read.lines]
        found = {"problems": read.problems, "receipt_problems": wrong, "bytes": read.bytes}
        content = {**({"lines": rows} if whole else {}), **found}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        print(table_of(read, rows=whole))
    if read.problems or wrong:
        raise typer.Exit(1)
