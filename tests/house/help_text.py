"""The generated blocks of the package READMEs: the table of files and the real --help texts.

Beside them, the tables of SECURITY.md that the evidence pack shows (`client/threats.md`).
`python -m tests.house.help_text` (or `make docs`) writes them; a test keeps them equal.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator

import click
import typer

from client.threats import FILE as THREATS
from client.threats import tables_of
from tests.house.sources import PACKAGES, ROOT, modules, tree

COMMANDS = {"client": "mfm-client", "server": "mfm-server", "simulation": "mfm-simulate"}
WIDTH = 96


def _walk(command: click.Command, context: click.Context) -> Iterator[str]:
    if hasattr(command, "rich_markup_mode"):
        command.rich_markup_mode = None  # plain text, the same on every terminal
    for parameter in command.params:
        if str(parameter.default).startswith(f"{ROOT}/"):  # the same in every checkout
            parameter.default = str(parameter.default).removeprefix(f"{ROOT}/")
    yield command.get_help(context)
    for name, child in sorted(getattr(command, "commands", {}).items()):
        if not child.hidden:
            yield from _walk(child, click.Context(child, context, name, terminal_width=WIDTH))


def help_text(package: str) -> str:
    """Return the help of a package's command and every subcommand."""
    app = importlib.import_module(f"{package}.__main__").app
    command = typer.main.get_command(app)
    context = click.Context(command, info_name=COMMANDS[package], terminal_width=WIDTH)
    texts = (text.rstrip() for text in _walk(command, context))
    pages = "\n\n".join("\n".join(line.rstrip() for line in text.splitlines()) for text in texts)
    pages = pages.replace("\\[", "[")
    return f"```text\n{pages}\n```"


def file_table(package: str) -> str:
    """Return a table of a package's modules with the first line of each docstring."""
    rows = ["| file | holds |", "| --- | --- |"]
    for path in modules(package):
        text = (ast.get_docstring(tree(path)) or "").partition("\n")[0]
        if path.name != "__init__.py":
            rows.append(f"| `{path.name}` | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def blocks(package: str) -> dict[str, str]:
    """Return the generated blocks of a package's README by name."""
    found = {"files": file_table(package)}
    return found | ({"help": help_text(package)} if package in COMMANDS else {})


def with_blocks(package: str, readme: str) -> str:
    """Return a README with its generated blocks renewed.

    Raises:
        ValueError: the README lacks the marks of a block.
    """
    for name, content in blocks(package).items():
        begin, end = f"<!-- {name}: written by make docs -->", f"<!-- /{name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(readme):
            raise ValueError(f"{package}/README.md: put {begin} and {end} where {name} belongs")
        block = f"{begin}\n\n{content}\n\n{end}"
        readme = pattern.sub(lambda _, block=block: block, readme)
    return readme


def write_blocks() -> None:
    """Renew the blocks of every package's README."""
    for package in PACKAGES:
        path = ROOT / package / "README.md"
        readme = path.read_text(encoding="utf-8")
        path.write_text(with_blocks(package, readme), encoding="utf-8")
    security = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    THREATS.write_text(tables_of(security), encoding="utf-8")


if __name__ == "__main__":
    write_blocks()
