"""What a hospital's node shows to the hospital's own Prometheus.

Counts, times and coded words, read when Prometheus asks from what lies in the folder anyway:
node/processes.json, node/messages.json, the outbox ledger, held messages and the kit. There is no
patient, no file name and no figure of an image among them. The address is loopback, so nobody
outside this machine can ask; whoever forwards the figures elsewhere decides that for the hospital.
What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.core import Metric

from client.certificate import read_authority
from client.folder import Folder
from client.held import FOLDER as HELD
from client.message_record import read_messages
from client.node import read_node
from client.site import LEDGER
from strategies import chain
from strategies.exposition import Parts, counter, gauge, summary

DAY_S = 86_400.0
P = "mfm_client"


@dataclass(frozen=True)
class LedgerFigures:
    """What the outbox ledger says: its lines, the bytes that left, and whether it is whole."""

    lines: int
    sent: int
    whole: bool


def read_ledger_figures(path: Path) -> LedgerFigures:
    """Return the figures of a ledger; one that cannot be read is not whole."""
    problems = chain.verify(path)
    try:
        sizes = [line.get("bytes") for line in chain.read(path)]
    except ValueError:
        sizes = []
    sent = sum(size for size in sizes if isinstance(size, int))
    return LedgerFigures(len(sizes), sent, not problems)


class ClientFigures:
    """Reads a hospital's folder; `collector` is what Prometheus' library asks.

    Args:
        folder: the hospital's.
        state: its state folder.
    """

    def __init__(self, folder: Folder, state: Path) -> None:
        self.folder, self.state = folder, state
        self._ledger: tuple[tuple[int, ...], LedgerFigures] | None = None

    @property
    def collector(self) -> Parts:
        """Return the parts, each read on its own."""
        parts = {
            "processes": self.processes,
            "messages": self.messages,
            "ledger": self.ledger,
            "held": self.held,
            "certificates": self.certificates,
            "disk": self.disk,
        }
        return Parts(P, parts)

    def processes(self) -> Iterator[Metric]:
        """Yield how the node's programs are."""
        found = read_node(self.folder)
        rows, label = found.services, ("process",)
        yield gauge(f"{P}_connected", "1 while the server lets this site in.", found.connected)
        alive = {str(row["name"]): float(row["alive"]) for row in rows}
        yield gauge(f"{P}_process_up", "1 while a program runs.", alive, label)
        asked = {
            str(row["name"]): float(row["answers"])
            for row in rows
            if row.get("answers") is not None
        }
        text = "1 while a program answers its health check; absent where it was not asked."
        yield gauge(f"{P}_process_answers", text, asked, label)
        again = {str(row["name"]): float(max(0, int(row["starts"]) - 1)) for row in rows}
        text = "Times a program was started again since the node began."
        yield counter(f"{P}_process_restarts_total", text, again, label)

    def messages(self) -> Iterator[Metric]:
        """Yield what the runner did since it began."""
        found = read_messages(self.folder.node)
        outcomes: dict[tuple[str, str], float] = {}
        for text, number in found.get("outcomes", {}).items():
            outcome, _, reason = str(text).partition(":")
            outcomes[outcome, reason] = float(number)
        text = "Messages since the runner began, by outcome and coded reason."
        yield counter(f"{P}_messages_total", text, outcomes, ("outcome", "reason"))
        times = int(sum(outcomes.values())), float(found.get("seconds", 0.0))
        yield summary(f"{P}_message_seconds", "Time from a message to its answer.", *times)
        if "last_at" in found:
            idle = max(0.0, time.time() - float(found["last_at"]))
            yield gauge(f"{P}_idle_seconds", "Time since the last message was answered.", idle)
        force = {str(part): float(held) for part, held in found.get("confined", {}).items()}
        text = "1 where a part of the working process's sandbox is in force."
        yield gauge(f"{P}_sandbox_in_force", text, force, ("part",))

    def ledger(self) -> Iterator[Metric]:
        """Yield what left; the ledger is read anew only when it has changed."""
        path = self.state / LEDGER
        stamp = _stamp(path, path.with_suffix(".head"))
        if self._ledger is None or self._ledger[0] != stamp:
            self._ledger = stamp, read_ledger_figures(path)
        found = self._ledger[1]
        yield gauge(f"{P}_ledger_lines", "Records in the outbox ledger.", float(found.lines))
        text = "1 while the chain of the outbox ledger is whole."
        yield gauge(f"{P}_ledger_whole", text, float(found.whole))
        text = "Bytes that left this site, by its outbox ledger."
        yield counter(f"{P}_sent_bytes_total", text, float(found.sent))

    def held(self) -> Iterator[Metric]:
        """Yield how many messages wait for a person."""
        waiting = sum(1 for _ in (self.state / HELD).glob("*.json"))
        yield gauge(f"{P}_held_messages", "Messages that wait for a person.", float(waiting))

    def certificates(self) -> Iterator[Metric]:
        """Yield how long the certificate in the kit lasts."""
        left = read_authority(self.folder.authority).days_left() * DAY_S
        text = "Time until a certificate ends."
        yield gauge(f"{P}_certificate_left_seconds", text, {"ca": left}, ("certificate",))

    def disk(self) -> Iterator[Metric]:
        """Yield the room that is left for the site's state."""
        place = self.state if self.state.is_dir() else self.folder.root
        free = float(shutil.disk_usage(place).free)
        yield gauge(f"{P}_disk_free_bytes", "Free space of the state folder.", free)


def _stamp(*paths: Path) -> tuple[int, ...]:
    found: list[int] = []
    for path in paths:
        with contextlib.suppress(OSError):
            stat = path.stat()
            found += (stat.st_mtime_ns, stat.st_size)
    return tuple(found)
