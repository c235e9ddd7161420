"""What `mfm-client status` reads and prints.

What crosses the hospital's boundary: at most a TLS greeting to the coordinator's server, unsigned.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from client.certificate import WARN_DAYS, read_authority
from client.config import load_site_config
from client.doctor_network import shown_certificate
from client.folder import Folder
from client.kit import host_and_port, read_kit
from client.message_record import read_messages
from client.node import PROCESSES, NodeStatus, read_node
from client.receipts import read_receipts
from client.secure_peers import read_peers
from client.site import LEDGER
from mfm_core.errors import ConfigError, UpdateRejected
from strategies import chain
from strategies.health import read_ills


@dataclass(frozen=True)
class Status:
    """Everything `status` shows.

    Attributes:
        site, consortium, address: who and where.
        node: the processes.
        messages: the last lines of the ledger, oldest first.
        ledger_problems: what is wrong with the ledger; empty when it is whole.
        received: for each of `messages`, whether the server said it received it.
        receipt_problems: what is wrong with its receipts.
        days_left: of the "authority" and of the "server"; a missing one could not be read.
        ills: what `status --healthy` says of the processes; empty when all is well.
        peers: fingerprint of the node key of every site that this one made a secure sum with.
        outcomes: messages since the runner began, by "answered", "refused:<word>", "error:<word>".
    """

    site: str
    consortium: str
    address: str
    node: NodeStatus
    messages: tuple[dict[str, Any], ...]
    ledger_problems: tuple[str, ...]
    days_left: dict[str, float]
    received: tuple[str, ...] = ()
    receipt_problems: tuple[str, ...] = ()
    ills: tuple[str, ...] = ()
    outcomes: dict[str, int] = field(default_factory=dict)
    peers: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def read_status(folder: Folder, last: int = 5, *, offline: bool = False) -> Status:
    """Return how the site is.

    Raises:
        ConfigError: kit or settings cannot be read.
    """
    kit, config = read_kit(folder.kit), load_site_config(folder.site_file)
    path = config.state_folder / LEDGER
    problems = chain.verify(path)
    try:
        lines = chain.read(path)
    except ValueError:
        lines = []
    days: dict[str, float] = {}
    with contextlib.suppress(ConfigError):  # shown as unknown; `check` says why
        days["authority"] = read_authority(folder.authority).days_left()
    shown = None if offline else shown_certificate(*host_and_port(kit), timeout_s=3.0)
    if shown is not None:
        days["server"] = shown.days_left()
    recent = tuple(lines[max(0, len(lines) - last) :])
    receipts = read_receipts(config.state_folder, config.receipt_key)
    return Status(
        site=config.name,
        consortium=kit.consortium,
        address=kit.address,
        node=read_node(folder),
        messages=recent,
        ledger_problems=problems,
        days_left=days,
        received=tuple(receipts.of(line) for line in recent),
        receipt_problems=receipts.problems,
        ills=read_ills(folder.node / PROCESSES),
        outcomes=read_messages(folder.node).get("outcomes", {}),
        peers=_peers(config.state_folder),
    )


def _peers(state: Path) -> dict[str, str]:
    try:
        return dict(read_peers(state))
    except UpdateRejected as error:
        return {"?": str(error)}


def text_of(found: Status) -> str:
    """Return a status as lines of text."""
    rows = [f"{found.site} in {found.consortium}, server {found.address}"]
    rows += [text_of_node(found.node), "", "Last messages that left:"]
    rows += [
        f"  {str(line.get('time', ''))[:19]}  {line.get('kind', '')!s:14} "
        f"round {line.get('round', '')!s:>4}  {line.get('bytes', '')!s:>10} bytes"
        f"  received: {received}"
        for line, received in zip(found.messages, found.received, strict=True)
    ] or ["  none"]
    rows += [f"  LEDGER: {problem}" for problem in found.ledger_problems]
    rows += [f"  RECEIPT: {problem}" for problem in found.receipt_problems]
    if found.peers:
        rows += ["", "Node keys of the sites in secure sums; compare with them by telephone:"]
        rows += [f"  {name:16}  {key}" for name, key in sorted(found.peers.items())]
    rows += ["", "Certificates:"]
    for whose in ("authority", "server"):
        left = found.days_left.get(whose)
        text = "unknown, not read" if left is None else f"{left:.0f} days left"
        soon = "  RENEW: ask the coordinator" if left is not None and left < WARN_DAYS else ""
        rows.append(f"  {whose:9}  {text}{soon}")
    return "\n".join(rows)


def text_of_node(found: NodeStatus) -> str:
    """Return the processes as lines of text."""
    if not found.running:
        rows = ["The node does not run; `mfm-client start` runs it."]
    elif found.connected:
        rows = [f"The node runs since {found.started_at} and is connected."]
    else:
        rows = [f"The node runs since {found.started_at}, but is NOT connected yet."]
    for row in found.services:
        state = row["state"] if row["alive"] or not found.running else f"{row['state']}, no process"
        why = f": {row['reason']}" if row["reason"] else ""
        alive = f"process {row['pid']}" if row["alive"] else "no process"
        alive += ", does not answer" if row["alive"] and row.get("answers") is False else ""
        rows.append(f"  {row['name']:9}  {alive}, {state}, started {row['starts']} times{why}")
    return "\n".join(rows)
