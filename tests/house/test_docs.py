"""Documentation is part of the product: what it leaves out or gets wrong fails here."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from tests.house.help_text import COMMANDS, with_blocks
from tests.house.sources import PACKAGES, ROOT, modules

PAGES = (
    *("README.md", "ARCHITECTURE.md", "DECISIONS.md", "SECURITY.md", "CONTRIBUTING.md"),
    "CHANGELOG.md",
)
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")


def documents() -> list[Path]:
    return [*(ROOT / page for page in PAGES), *(ROOT / name / "README.md" for name in PACKAGES)]


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


def test_every_page_exists_and_its_links_lead_somewhere() -> None:
    wrong = []
    for page in documents():
        if not page.is_file():
            wrong.append(f"{page.relative_to(ROOT)} is missing")
            continue
        for target in LINK.findall(page.read_text("utf-8")):
            if not (page.parent / target).exists():
                wrong.append(f"{page.relative_to(ROOT)} links to {target}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is(package: str) -> None:
    silent = [
        path.relative_to(ROOT)
        for path in modules(package)
        if path.name != "__init__.py" and '"""' not in path.read_text("utf-8")[:300]
    ]
    assert not silent
