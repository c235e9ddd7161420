"""Which receipts are due to whom."""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from strategies.receipts import RECEIPTS, Receipt, Receipts

HASHES = ("a" * 64, "b" * 64)


def line(number: int, *sites: str, outcome: str = "ok") -> dict[str, Any]:
    return {
        "phase": "train",
        "round": number,
        "sites": dict.fromkeys(sites, outcome),
        "payloads": dict.fromkeys(sites, "c" * 64),
        "ledgers": {site: f"{number:064d}" for site in sites},
        "hash": f"{number:064x}",
    }


def message() -> RecordDict:
    apart = ArrayRecord({"model": Array(np.zeros(3))})
    return RecordDict({"header": ConfigRecord({"kind": "train"}), "arrays": apart})


def rounds(receipts: Receipts, site: str) -> list[int]:
    return [receipt.round for receipt in receipts.due.get(site, ())]


def sent(content: RecordDict) -> list[Receipt]:
    texts = content.config_records["header"][RECEIPTS]
    assert isinstance(texts, list)
    return [Receipt.model_validate_json(str(text)) for text in texts]


def test_a_receipt_is_due_until_a_message_with_it_was_answered() -> None:
    receipts = Receipts(HASHES)
    receipts.note(line(1, "north", "south"))
    for site in ("north", "south"):
        assert [r.round for r in sent(receipts.attach(message(), site))] == [1]
    receipts.note(line(2, "north"))
    assert rounds(receipts, "north") == [2] and rounds(receipts, "south") == [1]
    receipts.attach(message(), "south")
    receipts.note(line(3, "north", "south"))
    assert rounds(receipts, "north") == [2, 3], "round 2 had not been sent to north"
    assert rounds(receipts, "south") == [3]


def test_each_site_is_given_its_own_and_the_content_is_shared_not_changed() -> None:
    receipts = Receipts(HASHES, lambda content: "d" * 128)
    receipts.note(line(1, "north", "south"))
    content = message()
    made = receipts.attach(content, "north")
    (receipt,) = sent(made)
    assert (receipt.site, receipt.outcome, receipt.signature) == ("north", "ok", "d" * 128)
    assert set(content) == set(made) == {"header", "arrays"}
    assert content["header"] == {"kind": "train"} and made["arrays"] is content["arrays"]
    assert receipts.attach(content, "west") is content


def test_a_resumed_server_makes_the_same_receipts_again() -> None:
    before = Receipts(HASHES)
    lines = [line(1, "north", "south"), line(2, "north")]
    for one in lines:
        for site in ("north", "south"):
            before.attach(message(), site)
        before.note(one)
    assert Receipts(HASHES, lines=lines).due == before.due


def test_every_field_but_the_signature_is_signed() -> None:
    receipts = Receipts(HASHES)
    receipts.note(line(1, "north", outcome="rejected:norm"))
    (receipt,) = receipts.due["north"]
    other = {
        "round": 2, "kind": "atlas", "site": "south", "outcome": "ok",
        **dict.fromkeys(("run", "code", "payload", "ledger", "line"), "f" * 64),
    }  # fmt: skip
    assert set(other) == set(Receipt.model_fields) - {"signature"}
    contents = {receipt.model_copy(update={name: to}).content for name, to in other.items()}
    assert len(contents | {receipt.content}) == len(other) + 1
    assert receipt.model_copy(update={"signature": "e" * 128}).content == receipt.content
