"""What `mfm-client audit --privacy` prints: tables with n, 95 % intervals and limits.

What crosses the hospital's boundary: nothing; the tables are read where they are printed.
"""

from __future__ import annotations

import json
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from client.leak_audit import Leaks
from mfm_core.leak_page import Sheet, about, headline, sheets

LOG_WIDTH = 190
"""Columns of a table in a file or a pipe; the widest has nine of them."""


def print_leaks(done: Leaks, as_json: bool) -> None:
    """Print the audit as JSON, or as tables for people."""
    content = done.content
    if as_json:
        paths = {"gate_file": str(done.gate_file), "page": str(done.page)}
        print(json.dumps({**content, **paths}, indent=2, ensure_ascii=False))
        return
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, width=LOG_WIDTH)
    console.print(f"Leak audit of {escape(content['site'])}.", soft_wrap=True)
    for line in about(content):
        console.print(escape(line), soft_wrap=True)
    for sheet in sheets(content):
        console.print(_table(sheet))
        console.print(escape(sheet.note), soft_wrap=True)
    console.print(f"\n[bold]{escape(headline(content))}[/bold]", soft_wrap=True)
    console.print(f"Page (stays here): {escape(str(done.page))}", soft_wrap=True)
    console.print(
        f"For the release gate: {escape(str(done.gate_file))}. Nothing was sent; hand this file to "
        "the coordinator if you decide to. It holds figures of the release, no patient.",
        soft_wrap=True,
    )


def _table(sheet: Sheet) -> Table:
    table = Table(title=f"\n{sheet.title}", title_justify="left")
    for number, name in enumerate(sheet.head):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in sheet.rows:
        table.add_row(*(escape(cell) for cell in row))
    return table
