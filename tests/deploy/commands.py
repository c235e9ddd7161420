"""Every `mfm-*` command line that a file shows, and whether the program would take it."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import typer

from tests.house.help_text import COMMANDS

PACKAGE = {command: package for package, command in COMMANDS.items()}
FENCED = re.compile(r"^ *```\w*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")
STARTS = re.compile(rf"(?:^|\s|/bin/)((?:{'|'.join(PACKAGE)})\s.*)$")


def command_lines(path: Path) -> Iterator[str]:
    """Yield the command lines of a Markdown page or of a settings file."""
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        inline = INLINE.findall(FENCED.sub("", text))
        blocks = "\n".join(FENCED.findall(text)).splitlines()
        candidates = [*(" ".join(span.split()) for span in inline), *blocks]
    else:
        joined = re.sub(r"\{\{.*?\}\}", "1", re.sub(r"\\\n[# ]*", "", text))
        candidates = [line.lstrip("# ") for line in joined.splitlines()]
    for line in candidates:
        for part in [] if "systemctl" in line else line.split(";"):
            if found := STARTS.search(part.rstrip()):
                yield re.split(r"\s{2,}|,? then |`", found[1])[0]


@cache
def _program(name: str) -> click.Command:
    return typer.main.get_command(importlib.import_module(f"{PACKAGE[name]}.__main__").app)


def refusal(line: str) -> str:
    """Return why a program would refuse a command line; empty when it would take it.

    A line of command names alone, as in running text, must only exist.
    """
    name, *words = shlex.split(line)
    command = _program(name)
    context = click.Context(command, info_name=name)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            return f"{line}: {words[0]} is no command of {context.command_path}"
        command, context = found, click.Context(found, context, words[0])
        words = words[1:]
    if not words or words == ["--help"]:
        return ""
    try:
        command.make_context(context.info_name, words, parent=context.parent)
    except click.ClickException as error:
        return f"{line}: {error.format_message()}"
    return ""
