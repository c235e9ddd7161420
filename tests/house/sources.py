"""The project's own files, read once for every rule of the house."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("mfm_core", "strategies", "server", "client", "simulation")


def modules(*packages: str) -> list[Path]:
    """Return every Python file of the given packages (all five when none is given)."""
    chosen = packages or PACKAGES
    return sorted(path for package in chosen for path in (ROOT / package).rglob("*.py"))


def tracked() -> list[Path]:
    """Return the files git keeps or would keep: tracked, and new ones that are not ignored."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "-co", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    paths = (ROOT / name for name in listed.split("\0") if name)
    return [path for path in paths if path.is_file()]


def tree(path: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each imported module's full name and line; relative ones start with a dot."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), node.lineno


def top(name: str) -> str:
    """Return the first part of a dotted name."""
    return name.split(".", 1)[0]


def foreign(name: str) -> bool:
    """Tell whether a module comes from neither the standard library nor this project."""
    return top(name) not in sys.stdlib_module_names and top(name) not in PACKAGES


def place(path: Path, line: int) -> str:
    """Return file:line, relative to the root."""
    return f"{path.relative_to(ROOT)}:{line}"
