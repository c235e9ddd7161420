"""What the server says it received: each receipt checked against this site's own ledger and kept.

A receipt comes with a later message. One that is not signed by the consortium's key, names no line
of this ledger or other arrays than that line is kept as a problem; training goes on, because a
receipt is evidence, not a permission. `receipts.jsonl` is a chain like the outbox ledger.

What crosses the hospital's boundary: nothing; receipts come in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from flwr.app import ConfigRecord, RecordDict
from pydantic import ValidationError

from client.site import LEDGER, Site
from strategies import chain
from strategies.receipts import RECEIPTS, Receipt
from strategies.wire import HEADER

FILE = "receipts.jsonl"
MOST = 16
"""Receipts of one message; the server owes a site two at most."""

LONGEST = 2_000
"""Characters of a receipt; one has about 700."""


@dataclass(frozen=True)
class Received:
    """The receipts of a site.

    Attributes:
        outcomes: hash of a ledger line to "yes" or "refused:<reason>"; no entry: no receipt.
        problems: receipts that are wrong, and what is wrong with the file.
        lines: hash of a ledger line to the line of the coordinator's rounds.jsonl that its receipt
            names, but for hello, which a resumed run repeats.
    """

    outcomes: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    lines: Mapping[str, str] = field(default_factory=dict)

    def of(self, line: Mapping[str, Any]) -> str:
        """Return "yes", "no" or "refused:<reason>" for a line of the outbox ledger."""
        return self.outcomes.get(str(line.get("hash")), "no")


def take_receipts(site: Site, content: RecordDict) -> None:
    """Take the receipts out of a message and keep them; what is wrong is written down, not raised.

    Args:
        site: whose.
        content: the message; afterwards it holds no receipts.
    """
    header = content.get(HEADER)
    if not isinstance(header, ConfigRecord) or RECEIPTS not in header:
        return
    texts: object = header.pop(RECEIPTS)
    folder = site.config.state_folder
    try:
        if not isinstance(texts, list) or len(texts) > MOST:
            texts = [""]
        for text in texts:
            _keep(site, str(text), folder / FILE)
    except (OSError, ValueError) as error:
        site.log.error("receipts cannot be kept in %s (%s)", folder / FILE, error)


def _keep(site: Site, text: str, path: Path) -> None:
    """Append one receipt, or what is wrong with it; the same one twice is kept once."""
    held = chain.read(path)
    try:
        receipt = Receipt.model_validate_json(text if len(text) <= LONGEST else "")
        said = receipt.model_dump()
        problem = _problem_of(receipt, site, held)
    except ValidationError:
        said, problem = {}, "the server sent something that is no receipt"
    facts = {**said, "problem": problem}
    if any(facts == {name: line.get(name) for name in facts} for line in held):
        return
    chain.append(path, facts)
    if problem:
        site.log.warning("receipt: %s", problem)


def _problem_of(receipt: Receipt, site: Site, held: Sequence[Mapping[str, Any]]) -> str:
    """Return what is wrong with a receipt; empty when nothing is."""
    what = f"the receipt of {receipt.kind} {receipt.round or ''}".rstrip()
    if wrong := signature_problem(receipt, site.config.receipt_key):
        return f"{what} {wrong}"
    lines = chain.read(site.config.state_folder / LEDGER)
    line = next((line for line in lines if line.get("hash") == receipt.ledger), None)
    if line is None:
        return f"{what} names line {receipt.ledger[:12]}, which is not in this site's ledger"
    earlier = [known for known in held if known.get("ledger") == receipt.ledger]
    asked, left = (receipt.run, receipt.kind, receipt.round), (line["run"], line["kind"])
    checks = {
        "is for another site": receipt.site == site.config.name,
        "is for another exchange": asked == (*left, line["round"]),
        "is for other arrays than left": receipt.payload == line["sha256"],
        "contradicts an earlier one": all(
            known["problem"] or known["outcome"] == receipt.outcome for known in earlier
        ),
    }
    wrong = next((text for text, holds in checks.items() if not holds), "")
    return f"{what} {wrong} (line {receipt.ledger[:12]} of the ledger)" if wrong else ""


def signature_problem(receipt: Receipt, key: str | None) -> str:
    """Return what is wrong with a signature; empty when it is good or the site has no key."""
    if key is None:
        return ""
    if not receipt.signature:
        return "is not signed"
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
        public.verify(bytes.fromhex(receipt.signature), receipt.content)
    except InvalidSignature:
        return "is not signed by the consortium's receipt key"
    return ""


def read_receipts(state_folder: Path, key: str | None) -> Received:
    """Return the receipts of a site; every signature is checked again.

    Args:
        state_folder: the site's.
        key: the public key of its settings, or None.
    """
    path = state_folder / FILE
    problems = [f"{FILE}: {problem}" for problem in chain.verify(path)]
    try:
        lines = chain.read(path)
    except ValueError:
        lines = []
    good: list[Receipt] = []
    for line in lines:
        try:
            said = {name: line[name] for name in Receipt.model_fields if name in line}
            wrong = line.get("problem") or signature_problem(Receipt.model_validate(said), key)
        except ValidationError:
            wrong = line.get("problem") or "the line holds no receipt"
        if wrong:
            problems.append(f"{str(line.get('time'))[:19]} {wrong}")
        else:
            good.append(Receipt.model_validate(said))
    outcomes = {receipt.ledger: _word(receipt.outcome) for receipt in good}
    named = {receipt.ledger: receipt.line for receipt in good if receipt.kind != "hello"}
    return Received(outcomes, tuple(problems), named)


def _word(outcome: str) -> str:
    return "yes" if outcome == "ok" else outcome.replace("rejected:", "refused:", 1)
