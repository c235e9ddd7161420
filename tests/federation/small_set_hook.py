"""Makes a coordinator's ServerApp ask for too small a set of sites, a new way in each attempt.

Copied into a Python environment of the test's own (`striking.armed_python`), so that the bundle and
its hash stay those that the sites accept. First the roster shows two sites, then two are to answer,
then the shares of two are asked for. Standard library only.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULE = "strategies.secure_rounds"
LEFT = 2


def patch(module: ModuleType) -> None:
    """Let what the server says of a secure sum name fewer sites than there are."""
    true_about, true_roster = module.pack_about, module.pack_roster  # type: ignore[attr-defined]
    attempt = 0

    def pack_about(told: dict[str, Any]) -> Any:
        nonlocal attempt
        attempt += set(told) == {"session", "first"}
        lies = {1: "names", 2: "participants", 3: "survivors"}
        what = lies.get(attempt, "")
        if what in told and (what != "participants" or "survivors" not in told):
            told = {**told, what: tuple(told[what])[:LEFT]}
        return true_about(told)

    def pack_roster(found: dict[str, Any]) -> Any:
        some = dict(sorted(found.items())[:LEFT]) if attempt == 1 else found
        return true_roster(some)

    module.pack_about, module.pack_roster = pack_about, pack_roster  # type: ignore[attr-defined]


class Finder(importlib.abc.MetaPathFinder):
    """Lets the real import happen, then patches."""

    def __init__(self) -> None:
        self.busy = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the module's own spec with `patch` behind its loader."""
        if name != MODULE or self.busy:
            return None
        self.busy = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.busy = False
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_patch(module: ModuleType) -> None:
            load(module)
            patch(module)

        spec.loader.exec_module = load_and_patch  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Lie from now on, in the ServerApp's process only."""
    if os.environ.get("MFM_STRIKES") and "flwr-serverapp" in " ".join(sys.argv):
        sys.meta_path.insert(0, Finder())
