"""What the server says it received from a site, so that both sides can compare.

After each exchange the server makes one receipt per site whose reply arrived, taken or not: what
was in it, which line of the site's ledger it names, what became of it and the line of rounds.jsonl
that says so. It travels with the next message to that site; a last exchange of kind `receipts`,
outside the plan and with empty replies, brings those of the run's last one. A receipt is a
function of the coordinator's line and key, so that a resumed run makes the same ones again and
nothing is kept for them. In deployment it is signed (`server.receipt_key`); in simulation there is
no key and the signature is empty.

What crosses the hospital's boundary: towards it, its own receipts; out of it, nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flwr.app import ConfigRecord, RecordDict
from pydantic import Field

from mfm_core.config import Part
from strategies.wire import HEADER

RECEIPTS = "receipts"
"""Name of a further entry of a message's header, a list of JSON texts; the site takes it out."""

HASH = r"^[0-9a-f]{64}$"
Sign = Callable[[bytes], str]


def unsigned(content: bytes) -> str:
    """Return no signature: there is no key in a simulation."""
    return ""


class Receipt(Part):
    """One reply as the server saw it."""

    run: str = Field(pattern=HASH, description="Hash of the agreed run.")
    code: str = Field(pattern=HASH, description="Hash of the server's code.")
    kind: str = Field(pattern=r"^[a-z_]{1,20}$", description="Which exchange.")
    round: int = Field(ge=0, description="Its round, 0 outside rounds.")
    site: str = Field(max_length=64, description="Whose reply.")
    payload: str = Field(pattern=HASH, description="SHA-256 of the arrays that arrived.")
    ledger: str = Field(pattern=HASH, description="Line of the site's ledger that it names.")
    outcome: str = Field(pattern=r"^(ok|rejected:[a-z_]{1,20})$", description="What became of it.")
    line: str = Field(pattern=HASH, description="Line of the coordinator's rounds.jsonl.")
    signature: str = Field(
        "", pattern=r"^([0-9a-f]{128})?$", description="Ed25519, hexadecimal; empty without a key."
    )

    @property
    def content(self) -> bytes:
        """Return the bytes that are signed."""
        facts = self.model_dump(exclude={"signature"})
        return b"mfm receipt 1\n" + json.dumps(facts, sort_keys=True).encode()


class Receipts:
    """The receipts that sites have not been given yet.

    Args:
        hashes: of the agreed run and of the code.
        sign: returns the signature of bytes.
        lines: rounds.jsonl so far. A site that replied in a line had been given the receipts of
            the lines before, so that only its last one is due.
    """

    def __init__(
        self,
        hashes: tuple[str, str],
        sign: Sign = unsigned,
        lines: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self._hashes, self._sign = hashes, sign
        self._carried: dict[str, tuple[Receipt, ...]] = {}
        last = {name: line for line in lines for name in line.get("payloads", {})}
        self.due: dict[str, tuple[Receipt, ...]] = {
            name: (self._make(line, name),) for name, line in last.items()
        }

    def attach(self, content: RecordDict, site: str) -> RecordDict:
        """Return a message with the receipts that are due to a site; its arrays are shared."""
        due = self.due.get(site, ())
        if not due:
            return content
        self._carried[site] = due
        texts = [receipt.model_dump_json() for receipt in due]
        fields: dict[str, Any] = {**content[HEADER], RECEIPTS: texts}
        return RecordDict({**dict(content.items()), HEADER: ConfigRecord(fields)})

    def note(self, line: Mapping[str, Any]) -> None:
        """Make the receipts of a finished exchange; what its repliers were given is done with."""
        for name in line["payloads"]:
            given = self._carried.get(name, ())
            kept = tuple(receipt for receipt in self.due.get(name, ()) if receipt not in given)
            self.due[name] = (*kept, self._make(line, name))
        self._carried.clear()

    def _make(self, line: Mapping[str, Any], name: str) -> Receipt:
        facts = Receipt(
            run=self._hashes[0],
            code=self._hashes[1],
            kind=line["phase"],
            round=line["round"],
            site=name,
            payload=line["payloads"][name],
            ledger=line["ledgers"][name],
            outcome=line["sites"][name],
            line=line["hash"],
        )
        return facts.model_copy(update={"signature": self._sign(facts.content)})
