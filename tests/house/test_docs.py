"""Documentation is part of the product: what it leaves out or gets wrong fails here."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

import click
import pytest
import typer
from pydantic import BaseModel

from tests.house.help_text import COMMANDS, with_blocks
from tests.house.sources import PACKAGES, ROOT, modules

PAGES = (
    *("README.md", "ARCHITECTURE.md", "DECISIONS.md", "SECURITY.md", "CONTRIBUTING.md"),
    "CHANGELOG.md",
)
HOSTING = ("deploy/README.md", "deploy/RUNBOOK.md", "mfm_core/RESULTS.md")
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)#?([^)\s]*)\)")
CODE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`|^(?: {3,4})?(\S*mfm-\S+ .*)$", re.MULTILINE)
COMMAND = re.compile(r"(?:^|/| mfm )(mfm-(?:client|server|simulate)) ([^#;]+)")


def documents() -> list[Path]:
    pages = (*PAGES, *HOSTING)
    return [*(ROOT / page for page in pages), *(ROOT / name / "README.md" for name in PACKAGES)]


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings, as links spell them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in headings}


def commands_of(page: Path) -> Iterator[tuple[str, str]]:
    """Return program and words of every command line that a page shows, help texts left out."""
    text = re.sub(r"<!-- help.*?/help -->", "", page.read_text("utf-8"), flags=re.DOTALL)
    for span, line in CODE.findall(text):
        if found := COMMAND.search(" ".join((span or line).split())):
            yield found[1], found[2]


def wrong_words(command: click.Command, words: str) -> list[str]:
    """Return the subcommand or the options of a command line that do not exist."""
    rest = words.split()
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0).split("|")[0].rstrip(",.:")
        if name not in command.commands:
            return [name]
        command = command.commands[name]
    known = {name for given in command.params for name in (*given.opts, *given.secondary_opts)}
    options = [word.split("=")[0].rstrip("],.:") for word in rest if word.startswith("--")]
    return [option for option in options if option not in {*known, "--help"}]


def config_parts() -> list[type[BaseModel]]:
    """Return every configuration part of the project."""
    parts: dict[str, type[BaseModel]] = {}
    for path in modules():
        text = path.read_text("utf-8")
        if path.stem == "__main__" or not ("BaseModel" in text or "Part)" in text):
            continue
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for name, found in inspect.getmembers(module, inspect.isclass):
            if issubclass(found, BaseModel) and found.__module__ == module.__name__:
                parts[f"{found.__module__}.{name}"] = found
    return list(parts.values())


@pytest.mark.parametrize("package", PACKAGES)
def test_readme_shows_the_real_files_and_help(package: str) -> None:
    readme = (ROOT / package / "README.md").read_text("utf-8")
    assert with_blocks(package, readme) == readme, "run: make docs"


def test_every_command_is_named_in_the_first_readme() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert [name for name in COMMANDS.values() if name not in text] == []


@pytest.mark.parametrize(("package", "command"), COMMANDS.items())
def test_command_is_installed(package: str, command: str) -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts", name=command)
    assert [script.value for script in scripts] == [f"{package}.__main__:main"]
    assert callable(next(iter(scripts)).load())


def test_every_config_field_is_described() -> None:
    readmes = "\n".join(page.read_text("utf-8") for page in documents() if page.is_file())
    missing = []
    for part in config_parts():
        for name, field in part.model_fields.items():
            nested = inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel)
            chosen = (
                get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
            )
            if not (field.description or nested or chosen or f"`{name}`" in readmes):
                missing.append(f"{part.__module__}.{part.__name__}.{name}")
    assert not missing, "no description and in no README: " + ", ".join(missing)


def test_every_command_that_a_page_shows_exists() -> None:
    programs = {
        name: typer.main.get_command(importlib.import_module(f"{package}.__main__").app)
        for package, name in COMMANDS.items()
    }
    shown = [(page, *one) for page in documents() for one in commands_of(page)]
    assert len(shown) > 100
    wrong = {
        f"{page.relative_to(ROOT)}: {program} {words}": found
        for page, program, words in shown
        if (found := wrong_words(programs[program], words))
    }
    assert wrong == {}


def test_a_command_that_does_not_exist_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("`mfm-client fly` and\n    mfm-client status SITE --healthy --sideways\n")
    command = typer.main.get_command(importlib.import_module("client.__main__").app)
    found = [wrong_words(command, words) for _, words in commands_of(page)]
    assert found == [["fly"], ["--sideways"]]


def test_every_page_exists_and_its_links_lead_somewhere() -> None:
    wrong = []
    for page in documents():
        if not page.is_file():
            wrong.append(f"{page.relative_to(ROOT)} is missing")
            continue
        for target, anchor in LINK.findall(page.read_text("utf-8")):
            path = page.parent / target if target else page
            if not path.exists() or (anchor and anchor not in anchors(path)):
                wrong.append(f"{page.relative_to(ROOT)} links to {target}#{anchor}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is(package: str) -> None:
    silent = [
        path.relative_to(ROOT)
        for path in modules(package)
        if path.name != "__init__.py" and '"""' not in path.read_text("utf-8")[:300]
    ]
    assert not silent
