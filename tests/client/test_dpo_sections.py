"""The words of the evidence pack follow its facts: attacks, spending, receipts, who reads what."""

from __future__ import annotations

from typing import Any

import pytest

from client.dpo_sections import glance_of, sections_of, size

ATTACK = {
    **{"name": "LiRA", "date": "2026-11-20", "n": 40, "auc": 0.512, "tpr_at_1_fpr": 0.013},
    **{"auc_interval": [0.4, 0.6], "tpr_interval": None},
}
SPENT = {
    **{"run": "a" * 64, "rounds": 3, "payments": 3, "steps": 120, "unit": "patient", "units": 800},
    **{"noise_multiplier": 1.5, "sample_rate": 0.04, "noise": "secret", "epsilon": 2.5},
}
LABEL = {"level": "none", "words": "none"}


def facts(**changed: Any) -> dict[str, Any]:
    exchange = {
        **{"kind": "train", "times": 2, "splits": ["train"], "answered": True, "label": LABEL},
        **{"masked": False, "keys": False, "arrays": [], "numbers": 3},
    }
    line = {
        **{"run": "a" * 64, "kind": "train", "records": 2, "bytes": 2_000_000, "images": 24},
        **{"first": "2026-11-19T10:00", "last": "2026-11-20T10:00", "approved": 0, "masked": 0},
        **{"protection": ["none"], "received": {"yes": 1, "no": 1}},
    }
    return {
        "flow": {"header": ["kind"], "exchanges": [exchange]},
        "left": {
            **{"records": 2, "bytes": 2_000_000, "runs": [line]},
            **{"receipts_signed": True, "receipt_problems": 0},
        },
        "accounting": {
            **{"runs": [], "epsilon": 0.0, "delta": 1e-6, "max_epsilon": 8.0, "label": LABEL},
            **{"meaning": "Covers the weights.", "problems": 0},
        },
        "leak_audit": {"state": "not done", "attacks": []},
        "cohort": {
            **{"counts": None, "split_by": "patient", "pseudonym_digits": 20, "secret": True},
            **{"fingerprint": True, "smallest_cell": 10},
        },
        **{"limits": [], "trust": [], "files": [], "unlisted": 0, "threats": [], "stop": []},
        "ledgers": [
            {"name": "a", "file": "b", "there": True, "lines": 2, "head": "c", "problems": 0}
        ],
        **changed,
    }


def words(anchor: str, content: dict[str, Any]) -> str:
    return str(next(part for part in sections_of(content) if part["anchor"] == anchor))


def test_attacks_stand_with_date_and_interval_and_their_lack_is_not_done() -> None:
    assert "'done': False" in words("attacks", facts())
    found = facts(leak_audit={"state": "done", "attacks": [ATTACK]})
    assert "0.512 (0.400 to 0.600)" in words("attacks", found)
    assert ("attacks", "Leak audit", "1 attack, the last one on 2026-11-20.") in glance_of(found)
    assert "cannot be read" in words(
        "attacks", facts(leak_audit={"state": "damaged", "attacks": []})
    )


@pytest.mark.parametrize(("epsilon", "shown"), [(2.5, "epsilon 2.500"), (None, "without bound")])
def test_spending_is_shown_per_run_and_in_all(epsilon: float | None, shown: str) -> None:
    accounting = {**facts()["accounting"], "runs": [SPENT], "epsilon": epsilon}
    assert shown in words("protection", facts(accounting=accounting))
    assert "800" in words("protection", facts(accounting=accounting))
    assert "No private training" in words("protection", facts())


def test_receipts_are_counted_and_their_problems_named() -> None:
    assert "signatures checked" in words("left", facts()) and "yes: 1" in words("left", facts())
    left = {**facts()["left"], "receipt_problems": 2}
    assert "2 problems" in words("left", facts(left=left))
    nothing = {**facts()["left"], "records": 0, "runs": []}
    assert "Nothing has left" in words("left", facts(left=nothing))


def test_who_reads_an_answer_follows_from_its_masks() -> None:
    assert "in clear" in words("readers", facts())
    exchange = {**facts()["flow"]["exchanges"][0], "masked": True}
    masked = facts(flow={"header": [], "exchanges": [exchange]})
    assert "as a sum over hospitals" in words("readers", masked)
    assert "in clear" not in words("readers", masked)


def test_a_broken_ledger_is_said_first() -> None:
    broken = [{**facts()["ledgers"][0], "problems": 1}]
    assert any("NOT WHOLE" in text for _, _, text in glance_of(facts(ledgers=broken)))
    assert "1 problem" in words("proof", facts(ledgers=broken))
    assert size(12) == "12 B" and size(2_000_000) == "2.00 MB"


def test_a_unit_that_nobody_counts_has_no_number() -> None:
    spent = {**SPENT, "units": 0, "noise": "server"}
    text = words("protection", facts(accounting={**facts()["accounting"], "runs": [spent]}))
    assert "of 0" not in text and "(server)" in text
