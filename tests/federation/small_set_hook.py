"""Makes a coordinator's ServerApp ask for too small a set of sites, a new way in each attempt.

Copied into a Python environment of the test's own (`striking.armed_python`), so that the bundle and
its hash stay those that the sites accept. First the roster shows two sites, then two are to answer,
then the shares of two are asked for. Standard library and `import_hook` only.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

if __package__:
    from tests.federation.import_hook import watch_imports
else:  # copied beside it
    from mfm_import_hook import watch_imports

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


def install() -> None:
    """Lie from now on, in the ServerApp's process only."""
    if os.environ.get("MFM_STRIKES") and "flwr-serverapp" in " ".join(sys.argv):
        watch_imports([MODULE], patch)
