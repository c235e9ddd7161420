"""Notes every address that a process connects to, and leaks where a test asks for it.

Copied into a Python environment of the test's own (`striking.armed_python`), which loads it in
every process of a consortium; the product knows nothing of it. Below `$MFM_STRIKES`:
`connects-<pid>` gets a line per connection, with the process's command line; if `leak-<site>`
exists, the runner of that site adds its content to what it releases in that kind of exchange.
Standard library and `import_hook` only.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from types import ModuleType
from typing import Any

if __package__:
    from tests.federation.import_hook import watch_imports
else:  # copied beside it
    from mfm_import_hook import watch_imports

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


def install() -> None:
    """Start, where a test asks for it."""
    if os.environ.get("MFM_STRIKES"):
        sys.addaudithook(note)
        watch_imports((DOOR,), leak)
