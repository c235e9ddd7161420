"""`mfm-client ledger` and `ledger verify`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.__main__ import call
from tests.client.test_ledger import send, site

assert site


def test_verify_finds_an_edit_a_gap_and_a_reorder(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = send(site, 3)
    asked = ["ledger", "verify", "--config", str(site)]
    assert call(asked) == 0
    printed = capsys.readouterr().out
    assert "the list is whole" in printed and "latent_sums" not in printed
    lines = ledger.read_text().splitlines()
    edited = [lines[0].replace('"images": 7', '"images": 6'), *lines[1:]]
    for touched in (edited, [lines[0], lines[2]], [lines[1], lines[0], lines[2]]):
        ledger.write_text("".join(f"{line}\n" for line in touched))
        assert call(asked) == 1
        assert "PROBLEM" in capsys.readouterr().out


def test_json_of_both(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    send(site, 1)
    assert call(["ledger", "--config", str(site), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert call(["ledger", "verify", "--config", str(site), "--json"]) == 0
    short = json.loads(capsys.readouterr().out)
    assert whole["lines"][0]["received"] == "no" and "lines" not in short
    assert whole["problems"] == short["problems"] == short["receipt_problems"] == []
