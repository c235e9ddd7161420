import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from client.__main__ import call
from client.config import LimitsConfig
from client.ledger import read_outbox, table_of
from client.outbox import Outbox
from mfm_core.sums import Sum
from strategies import chain, wire
from strategies.answers import Answer


@pytest.fixture
def site(tmp_path) -> Path:
    path = tmp_path / "site.yaml"
    settings = {
        "name": "north",
        "data": {"root": "images"},
        "limits": {"accepted_runs": ["any"]},
        "state_folder": "state",
    }
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def send(site: Path, times: int) -> Path:
    """Let something leave through the real outbox; return the ledger."""
    ledger = site.parent / "state" / "outbox.jsonl"
    outbox = Outbox(ledger, LimitsConfig(accepted_runs=("any",)))
    total = Sum({"class.count": np.array([3.0, 4.0])})
    for _ in range(times):
        header = wire.Header("latent_sums", 0, "a" * 64, "b" * 64, site="north", num_images=7)
        outbox.release(header, wire.Payload(None, total), (), Answer(False, total.schema))
    return ledger


def test_what_left_is_listed_with_its_size(site):
    send(site, 2)
    read = read_outbox(site)
    assert len(read.lines) == 2 and not read.problems and read.bytes > 0
    table = table_of(read)
    assert table.count("latent_sums") == 2
    assert f"2 records, {read.bytes} bytes; the list is whole.\n" in table
    assert "0 yes, 0 refused, 2 no (receipts are NOT signed" in table


def test_an_empty_ledger_says_so(site, capsys):
    assert call(["ledger", "--config", str(site)]) == 0
    assert "Nothing has left this site yet" in capsys.readouterr().out


def test_json_holds_lines_and_problems(site, capsys):
    send(site, 1)
    assert call(["ledger", "--config", str(site), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["lines"][0]["images"] == 7 and content["problems"] == []


def test_an_edited_line_is_a_problem_and_code_1(site, capsys):
    ledger = send(site, 2)
    ledger.write_text(ledger.read_text().replace('"images": 7', '"images": 1', 1))
    assert call(["ledger", "--config", str(site)]) == 1
    printed = capsys.readouterr().out
    assert "PROBLEM: line 1" in printed and "NOT whole" in printed


def test_a_line_that_is_not_json_is_a_problem(site, capsys):
    send(site, 1).write_text("scribble\n")
    assert call(["ledger", "--config", str(site), "--json"]) == 1
    assert "not JSON" in json.loads(capsys.readouterr().out)["problems"][0]


def test_settings_that_cannot_be_read_are_code_1(tmp_path, capsys):
    assert call(["ledger", "--config", str(tmp_path / "none.yaml")]) == 1
    assert "check the path" in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "{"])
def test_a_head_that_is_gone_or_damaged_is_not_whole_and_code_1(site, capsys, text):
    head = send(site, 3).with_suffix(".head")
    head.unlink()
    if text is not None:
        head.write_text(text)
    assert call(["ledger", "--config", str(site)]) == 1
    printed = capsys.readouterr().out
    assert "PROBLEM: outbox.head is" in printed and "NOT whole" in printed


def write_rounds(site: Path, hashes: list[str], name: str = "north") -> Path:
    """Write what a coordinator noted, with another site and a step that failed in between."""
    path = site.parent / "rounds.jsonl"
    lines = [{"phase": "hello", "ledgers": {name: h, "south": "f" * 64}} for h in hashes]
    text, previous = "", chain.START
    for facts in [*lines, {"ledgers": {}}]:
        line = chain.linked(facts, previous)
        text, previous = text + json.dumps(line) + "\n", line["hash"]
    path.write_text(text)
    return path


def test_the_coordinators_file_is_a_witness(site, capsys):
    ledger = send(site, 3)
    hashes = [str(line["hash"]) for line in chain.read(ledger)]
    asked = ["ledger", "--config", str(site), "--witness", str(write_rounds(site, hashes))]
    assert call(asked) == 0
    for path in (ledger, ledger.with_suffix(".head")):
        path.unlink()
    send(site, 3)
    assert call(asked[:3]) == 0
    capsys.readouterr()
    assert call(asked) == 1
    printed = capsys.readouterr().out
    assert printed.count("known elsewhere but missing") == 3 and "NOT whole" in printed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "check the path"),
        ("scribble\n", "rounds.jsonl"),
        ("5\n", "rounds.jsonl"),
        ('{"phase": "hello"}\n', "'ledgers'"),
        ('{"ledgers": 5}\n', "'ledgers'"),
        ('{"ledgers": {"south": "f"}}\n', "no line knows of site 'north'"),
    ],
)
def test_a_file_that_is_no_witness_is_code_1(site, capsys, text, reason):
    send(site, 1)
    path = site.parent / "other.txt"
    if text is not None:
        path.write_text(text)
    assert call(["ledger", "--config", str(site), "--witness", str(path)]) == 1
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("line", ["5", "[]", '{"round": null, "bytes": "x", "kind": null}'])
def test_a_line_that_is_no_record_is_a_problem_and_no_traceback(site, line, capsys):
    ledger = send(site, 2)
    ledger.write_text(line + "\n" + ledger.read_text())
    assert call(["ledger", "--config", str(site)]) == 1
    assert "NOT whole" in capsys.readouterr().out


@pytest.mark.parametrize("head", ["[]", "{}", '{"lines": -5, "hash": "a"}'])
def test_a_head_of_another_shape_is_a_problem_and_no_traceback(site, head, capsys):
    send(site, 2).with_suffix(".head").write_text(head)
    assert call(["ledger", "--config", str(site)]) == 1
    assert "NOT whole" in capsys.readouterr().out
