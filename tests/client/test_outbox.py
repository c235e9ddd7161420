"""Nothing leaves without its line, and a line that was touched shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import RecordDict

from client.config import LimitsConfig
from client.outbox import START, Outbox, _write_head, read_ledger, verify
from mfm_core.errors import OutboxRefusal
from mfm_core.sums import Sum
from strategies import wire
from strategies.answers import Answer

SCHEMA = (("w", (6,)),)
TOTAL = Sum({"count": np.array([3.0, 4.0])})
ANSWER = Answer(True, TOTAL.schema)
UPDATE = np.ones(6, dtype=np.float32)


def header(number: int = 1) -> wire.Header:
    return wire.Header("train", number, "a" * 64, "b" * 64, site="north", num_images=9)


def make(folder: Path, **limits: object) -> Outbox:
    allowed = LimitsConfig.model_validate({"accepted_runs": ["any"], **limits})
    return Outbox(folder / "outbox.jsonl", allowed)


def send(outbox: Outbox, number: int = 1) -> RecordDict:
    return outbox.release(header(number), wire.Payload(UPDATE, TOTAL), SCHEMA, ANSWER)


@pytest.fixture
def full(tmp_path: Path) -> Path:
    outbox = make(tmp_path)
    for number in range(1, 6):
        send(outbox, number)
    assert verify(outbox.ledger) == ()
    return outbox.ledger


def test_a_line_says_what_left(tmp_path: Path) -> None:
    record = send(make(tmp_path))
    (line,) = read_ledger(tmp_path / "outbox.jsonl")
    sent = record.config_records[wire.HEADER]
    assert line["hash"] == sent["ledger_hash"]
    assert line["sha256"] == sent["payload_hash"]
    assert (line["kind"], line["round"], line["images"], line["run"]) == ("train", 1, 9, "a" * 64)
    assert line["bytes"] == wire.record_bytes(record)
    norms = {array["name"]: array["norm"] for array in line["arrays"]}
    assert norms == {"count": 5.0, "model": pytest.approx(6**0.5)}


def edit(lines: list[str]) -> list[str]:
    return [*lines[:1], lines[1].replace('"images": 9', '"images": 8'), *lines[2:]]


def rehash(lines: list[str]) -> list[str]:
    """Edit a line and make its own hash fit again."""
    from client.outbox import line_hash

    line = json.loads(lines[1])
    line["images"] = 8
    line["hash"] = line_hash(line)
    return [lines[0], json.dumps(line), *lines[2:]]


TAMPERINGS: dict[str, Callable[[list[str]], list[str]]] = {
    "edited": edit,
    "edited and hashed anew": rehash,
    "removed from the middle": lambda lines: lines[:2] + lines[3:],
    "removed from the start": lambda lines: lines[1:],
    "removed from the end": lambda lines: lines[:-1],
    "emptied": lambda lines: [],
    "reordered": lambda lines: [lines[1], lines[0], *lines[2:]],
    "repeated": lambda lines: [*lines[:2], lines[1], *lines[2:]],
    "not JSON": lambda lines: ["{", *lines[1:]],
    "not an object": lambda lines: ["5", *lines[1:]],
}


@pytest.mark.parametrize("how", TAMPERINGS)
def test_tampering_shows(full: Path, how: str) -> None:
    lines = full.read_text().splitlines()
    full.write_text("".join(f"{line}\n" for line in TAMPERINGS[how](lines)))
    assert verify(full)


def test_a_witness_finds_a_chain_written_anew(full: Path, tmp_path: Path) -> None:
    """A forger who rewrites ledger and head cannot rewrite what the coordinator noted."""
    witnessed = [str(line["hash"]) for line in read_ledger(full)]
    assert verify(full, witnessed) == ()
    full.unlink()
    full.with_suffix(".head").unlink()
    send(make(tmp_path), 1)
    assert verify(full) == ()
    assert len(verify(full, witnessed)) == 5


@pytest.mark.parametrize("how", ["removed from the end", "not JSON", "emptied"])
def test_nothing_leaves_over_a_broken_ledger(full: Path, how: str) -> None:
    lines = full.read_text().splitlines()
    full.write_text("".join(f"{line}\n" for line in TAMPERINGS[how](lines)))
    with pytest.raises(OutboxRefusal, match="ledger"):
        send(make(full.parent))


def test_nothing_leaves_when_the_line_cannot_be_written(tmp_path: Path) -> None:
    outbox = make(tmp_path)
    outbox.ledger.mkdir()
    with pytest.raises(OutboxRefusal, match="nothing leaves"):
        send(outbox)


def test_a_line_cut_off_by_a_crash_never_counted(full: Path) -> None:
    with full.open("a") as file:
        file.write('{"time": "2026-01-01T00:00')
    assert verify(full) == ()
    send(make(full.parent), 6)
    assert verify(full) == () and len(read_ledger(full)) == 6


def test_a_crash_between_line_and_head_is_not_tampering(full: Path) -> None:
    head = full.with_suffix(".head")
    before = head.read_text()
    send(make(full.parent), 6)
    head.write_text(before)
    assert verify(full) == ()
    send(make(full.parent), 7)
    assert verify(full) == ()


def test_a_crash_after_the_very_first_line_is_not_tampering(tmp_path: Path) -> None:
    outbox = make(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("client.outbox._write_head", crash_at_line_one(_write_head))
        with pytest.raises(OutboxRefusal, match="crash"):
            send(outbox)
    assert len(read_ledger(outbox.ledger)) == 1 and verify(outbox.ledger) == ()
    send(outbox, 2)
    assert len(read_ledger(outbox.ledger)) == 2 and verify(outbox.ledger) == ()


def crash_at_line_one(write: Callable[[Path, int, str], None]) -> Callable[[Path, int, str], None]:
    def crash(path: Path, count: int, last: str) -> None:
        if count == 1:
            raise OSError("crash")
        write(path, count, last)

    return crash


HEADS: dict[str, tuple[str | None, str]] = {
    "deleted": (None, "missing"),
    "empty": ("", "damaged"),
    "cut off": ('{"lines": 5, "ha', "damaged"),
    "not an object": ("[5]", "damaged"),
    "other fields": ("{}", "damaged"),
    "of no line": (json.dumps({"lines": 0, "hash": START}), "replaced"),
    "of another chain": (json.dumps({"lines": 3, "hash": "e" * 64}), "removed"),
}


@pytest.mark.parametrize("how", HEADS)
def test_a_head_that_was_touched_is_a_problem_and_nothing_leaves(full: Path, how: str) -> None:
    text, word = HEADS[how]
    full.write_text("".join(full.read_text().splitlines(keepends=True)[:3]))
    full.with_suffix(".head").unlink()
    if text is not None:
        full.with_suffix(".head").write_text(text)
    (problem,) = verify(full)
    assert word in problem
    with pytest.raises(OutboxRefusal, match="nothing leaves"):
        send(make(full.parent), 6)
    assert len(read_ledger(full)) == 3


def test_a_head_two_lines_behind_is_a_problem(full: Path) -> None:
    head = full.with_suffix(".head")
    before = head.read_text()
    send(make(full.parent), 6)
    send(make(full.parent), 7)
    head.write_text(before)
    assert "replaced" in verify(full)[0]


@pytest.mark.parametrize(
    ("payload", "answer", "reason"),
    [
        (wire.Payload(UPDATE, TOTAL), Answer(False, TOTAL.schema), "weights"),
        (wire.Payload(None, TOTAL), ANSWER, "weights"),
        (wire.Payload(UPDATE, Sum({"count": np.zeros(3)})), ANSWER, "names or shapes"),
        (wire.Payload(UPDATE, Sum({**TOTAL.arrays, "x": np.zeros(1)})), ANSWER, "names or shapes"),
        (wire.Payload(UPDATE), ANSWER, "names or shapes"),
        (wire.Payload(UPDATE[:5], TOTAL), ANSWER, "shape"),
        (wire.Payload(UPDATE * np.nan, TOTAL), ANSWER, "not finite: model"),
        (wire.Payload(UPDATE, Sum({"count": np.array([1, np.inf])})), ANSWER, "not finite: count"),
    ],
)
def test_what_is_not_on_the_list_stays(
    tmp_path: Path, payload: wire.Payload, answer: Answer, reason: str
) -> None:
    with pytest.raises(OutboxRefusal, match=reason):
        make(tmp_path).release(header(), payload, SCHEMA, answer)
    assert read_ledger(tmp_path / "outbox.jsonl") == []


def test_limits_of_kind_and_size(tmp_path: Path) -> None:
    with pytest.raises(OutboxRefusal, match="allowed_kinds"):
        send(make(tmp_path, allowed_kinds=["hello"]))
    with pytest.raises(OutboxRefusal, match="limit"):
        send(make(tmp_path, max_message_mib=1e-4))
    assert not (tmp_path / "outbox.jsonl").exists()
