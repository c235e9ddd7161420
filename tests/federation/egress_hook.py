"""Notes every address that a process connects to, and leaks where a test asks for it.

Copied into a Python environment of the test's own (`striking.armed_python`), which loads it in
every process of a consortium; the product knows nothing of it. Below `$MFM_STRIKES`:
`connects-<pid>` gets a line per connection, with the process's command line; if `leak-<site>`
exists, the runner of that site adds its content to what it releases in that kind of exchange.
Standard library only.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import json
import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

CALLS = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo")
DOOR = "client.outbox"


def note(event: str, given: tuple[Any, ...]) -> None:
    """Write down where a socket is about to send to (an audit hook, PEP 578)."""
    if event not in CALLS:
        return
    target = given[:2] if event == "socket.getaddrinfo" else given[1]
    address = f"{target[0]}:{target[1]}" if isinstance(target, tuple) else str(target)
    with contextlib.suppress(OSError), open("/proc/self/cmdline", "rb") as file:
        words = file.read().replace(b"\0", b" ").decode(errors="replace")
        path = os.path.join(os.environ["MFM_STRIKES"], f"connects-{os.getpid()}")
        with open(path, "a", encoding="utf-8") as lines:
            lines.write(json.dumps({"address": address, "words": words}) + "\n")


def leak(module: ModuleType) -> None:
    """Make the door of a site leaky."""
    honest = module.Outbox.release

    def release(self: Any, header: Any, *rest: Any) -> Any:
        record = honest(self, header, *rest)
        path = os.path.join(os.environ["MFM_STRIKES"], f"leak-{header.site}")
        with contextlib.suppress(OSError), open(path, encoding="utf-8") as file:
            wanted = json.load(file)
            if wanted["kind"] == header.kind:
                _add(record, wanted["pieces"])
        return record

    module.Outbox.release = release  # type: ignore[attr-defined]


def _add(record: Any, pieces: dict[str, str]) -> None:
    from flwr.app import ConfigRecord

    record["leak"] = ConfigRecord({name: bytes.fromhex(text) for name, text in pieces.items()})


class Finder(importlib.abc.MetaPathFinder):
    """Lets the real import happen, then makes the door leaky."""

    def __init__(self) -> None:
        self.busy = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the module's own spec with `leak` behind its loader."""
        if name != DOOR or self.busy:
            return None
        self.busy = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.busy = False
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_leak(module: ModuleType) -> None:
            load(module)
            leak(module)

        spec.loader.exec_module = load_and_leak  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Start, where a test asks for it."""
    if os.environ.get("MFM_STRIKES"):
        sys.addaudithook(note)
        sys.meta_path.insert(0, Finder())
