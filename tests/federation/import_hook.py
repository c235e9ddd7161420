"""Lets the real import of some modules happen, then changes them: the piece of all hooks.

Copied beside a hook into a Python environment of the test's own (`striking.armed_python`), which
loads them in every process of a consortium; the product knows nothing of it. Standard library only.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Collection
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class Finder(importlib.abc.MetaPathFinder):
    """Finds the wanted modules as they are and puts a change behind their loaders.

    Args:
        wanted: names of modules.
        change: is given each of them once it is loaded.
    """

    def __init__(self, wanted: Collection[str], change: Callable[[ModuleType], None]) -> None:
        self.wanted, self.change, self.busy = frozenset(wanted), change, False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the module's own spec with the change behind its loader."""
        if name not in self.wanted or self.busy:
            return None
        self.busy = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.busy = False
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_change(module: ModuleType) -> None:
            load(module)
            self.change(module)

        spec.loader.exec_module = load_and_change  # type: ignore[method-assign]
        return spec


def watch_imports(wanted: Collection[str], change: Callable[[ModuleType], None]) -> None:
    """Change the wanted modules when they are imported."""
    sys.meta_path.insert(0, Finder(wanted, change))
