"""The outbox ledger for a reader: what left, when and how much, and whether the list is whole.

What crosses the hospital's boundary: nothing; `outbox` writes the ledger, this only reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from client.config import load_site_config
from client.receipts import Received, read_receipts
from client.site import LEDGER
from mfm_core.errors import ConfigError
from strategies import chain


@dataclass(frozen=True)
class OutboxReading:
    """A ledger that was read and checked.

    Attributes:
        path: the file.
        lines: one record each, oldest first; empty when a line is not JSON.
        problems: what is wrong with the chain; empty when it is whole.
        received: what the server said it received.
        signed: whether this site holds the key that receipts must be signed with.
    """

    path: Path
    lines: list[dict[str, Any]]
    problems: tuple[str, ...]
    received: Received = field(default_factory=Received)
    signed: bool = False

    @property
    def bytes(self) -> int:
        """Bytes that left in all."""
        sizes = [line.get("bytes") for line in self.lines]
        return sum(size for size in sizes if isinstance(size, int))


def read_outbox(site: Path, witness: Path | None = None) -> OutboxReading:
    """Return the ledger of the site whose settings lie at `site` (site.yaml).

    Args:
        site: the settings.
        witness: a coordinator's rounds.jsonl; every line it knows of this site must be here.

    Raises:
        ConfigError: the settings or the witness cannot be read.
    """
    config = load_site_config(site)
    path = config.state_folder / LEDGER
    try:
        lines = chain.read(path)
    except ValueError:
        lines = []
    received = read_receipts(config.state_folder, config.receipt_key)
    known: tuple[str, ...] = ()
    if witness is not None:
        rounds, known = read_witness(witness, config.name)
        told = witness_problems(rounds, known, [str(line.get("hash")) for line in lines], received)
        received = replace(received, problems=(*received.problems, *told))
    signed = config.receipt_key is not None
    return OutboxReading(path, lines, chain.verify(path, known), received, signed)


def read_witness(path: Path, name: str) -> tuple[chain.Lines, tuple[str, ...]]:
    """Return a coordinator's rounds.jsonl and the ledger lines of a site that it knows.

    Raises:
        ConfigError: not a rounds.jsonl, or one of a run without this site.
    """
    if not path.is_file():
        raise ConfigError(str(path), ["there is no such file; check the path"])
    try:
        lines = chain.read(path)
        ledgers = [line["ledgers"] for line in lines]
        found = tuple(str(of_site[name]) for of_site in ledgers if name in of_site)
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            str(path), ["expected the coordinator's rounds.jsonl, with 'ledgers' in every line"]
        ) from None
    if not found:
        raise ConfigError(
            str(path), [f"no line knows of site {name!r}; take the file of a run it took part in"]
        )
    return lines, found


def witness_problems(
    rounds: chain.Lines, known: Sequence[str], own: Sequence[str], received: Received
) -> list[str]:
    """Return what contradicts itself or the site's receipts in a coordinator's rounds.jsonl.

    Args:
        rounds: its lines.
        known: the site's ledger lines that it knows.
        own: hashes of the site's ledger lines, in order.
        received: the site's receipts; those of lines between the first and the last known one
            must name lines of the file.
    """
    problems = [f"rounds.jsonl: {problem}" for problem in chain.link_problems(rounds)]
    places = [number for number, line in enumerate(own) if line in known]
    between = own[min(places, default=0) : max(places, default=-1) + 1]
    held = {line.get("hash") for line in rounds}
    problems += [
        f"rounds.jsonl no longer holds line {received.lines[line][:12]}, which a receipt names: "
        "the coordinator went back to an earlier state, or wrote the file anew"
        for line in between
        if line in received.lines and received.lines[line] not in held
    ]
    return problems


def table_of(read: OutboxReading, *, rows: bool = True) -> str:
    """Return the ledger as lines of text, a summary last; without `rows` what is wrong only."""
    shown = _rows(read) if rows else []
    if not read.lines and not read.problems:
        shown = [f"Nothing has left this site yet ({read.path})."]
    shown += [f"PROBLEM: {problem}" for problem in read.problems]
    shown += [f"RECEIPT: {problem}" for problem in read.received.problems]
    state = "the list is NOT whole" if read.problems else "the list is whole"
    shown.append(f"{len(read.lines)} records, {read.bytes} bytes; {state}.")
    return "\n".join([*shown, receipts_text(read)])


def _rows(read: OutboxReading) -> list[str]:
    head = f"{'time':24}  {'run':12}  {'round':>5}  {'kind':14}  {'images':>7}  {'bytes':>10}"
    rows = [f"{head}  received"]
    for line in read.lines:
        rows.append(
            f"{str(line.get('time', ''))[:24]:24}  {str(line.get('run', ''))[:12]:12}  "
            f"{line.get('round', '')!s:>5}  {line.get('kind', '')!s:14}  "
            f"{line.get('images', '')!s:>7}  {line.get('bytes', '')!s:>10}  "
            f"{read.received.of(line)}"
        )
    return rows


def receipts_text(read: OutboxReading) -> str:
    """Return in one line what the server said it received."""
    found = [read.received.of(line) for line in read.lines]
    taken, none = found.count("yes"), found.count("no")
    text = f"Received by the server: {taken} yes, {len(found) - taken - none} refused, {none} no"
    signed = "signed" if read.signed else "receipts are NOT signed: site.yaml has no receipt_key"
    return f"{text} ({signed})."
