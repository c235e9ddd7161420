"""What is printed: every table, escaped words, and what was not done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.leak_audit import Leaks
from client.leak_words import print_leaks
from tests.mfm_core.leak_record import record


def leaks(**changed: object) -> Leaks:
    return Leaks(Path("state/leak_audit.json"), Path("audit/leaks.html"), record(**changed))


@pytest.mark.parametrize("terminal", [False, True])
def test_every_table_is_printed(capsys, monkeypatch, terminal):
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "250")
    print_leaks(leaks(site="north[bold]"), False)
    printed = capsys.readouterr().out
    for words in ("north[bold]", "Not done: LiRA", "exposure", "nearest member", "drawn from",
                  "leak_audit.json", "Nothing was sent", "0.610"):  # fmt: skip
        assert words in printed


def test_json_is_the_record_with_its_files(capsys):
    print_leaks(leaks(), True)
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("page") == "audit/leaks.html" and printed.pop("gate_file")
    assert printed == record()


def test_exit_code_and_words_follow_the_verdicts():
    assert leaks().shown
    quiet = record()
    for row in quiet["attacks"]:
        row["verdict"] = row["verdict"] and "open"
    assert not leaks(attacks=quiet["attacks"]).shown
