"""The real --help of every command, and the block of it that stands in each package's README.

`python -m tests.house.help_text` (or `make docs`) writes the blocks; a test keeps them equal.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import click
import typer

from tests.house.sources import ROOT

COMMANDS = {"client": "mfm-client", "server": "mfm-server", "simulation": "mfm-simulate"}
BEGIN = "<!-- help: written by make docs -->"
END = "<!-- /help -->"
WIDTH = 96


def _walk(command: click.Command, context: click.Context) -> Iterator[str]:
    if hasattr(command, "rich_markup_mode"):
        command.rich_markup_mode = None  # plain text, the same on every terminal
    yield command.get_help(context)
    for name, child in sorted(getattr(command, "commands", {}).items()):
        if not child.hidden:
            yield from _walk(child, click.Context(child, context, name, terminal_width=WIDTH))


def help_block(package: str) -> str:
    """Return the README block of a package: the help of its command and every subcommand."""
    app = importlib.import_module(f"{package}.__main__").app
    command = typer.main.get_command(app)
    context = click.Context(command, info_name=COMMANDS[package], terminal_width=WIDTH)
    texts = (text.rstrip() for text in _walk(command, context))
    pages = "\n\n".join("\n".join(line.rstrip() for line in text.splitlines()) for text in texts)
    return f"{BEGIN}\n\n```text\n{pages}\n```\n\n{END}"


def written_block(package: str) -> str:
    """Return the block that stands in a package's README; empty when there is none."""
    text = (ROOT / package / "README.md").read_text(encoding="utf-8")
    begin, end = text.find(BEGIN), text.find(END)
    return text[begin : end + len(END)] if 0 <= begin < end else ""


def write_blocks() -> None:
    """Put the real help into every README; a README without a block gets one at its end."""
    for package in COMMANDS:
        path = ROOT / package / "README.md"
        text, old, new = (
            path.read_text(encoding="utf-8"),
            written_block(package),
            help_block(package),
        )
        text = text.replace(old, new) if old else f"{text.rstrip()}\n\n## Commands\n\n{new}\n"
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_blocks()
