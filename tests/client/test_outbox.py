"""Nothing leaves without its line, and only what was agreed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import RecordDict

from client.config import LimitsConfig
from client.outbox import Outbox
from mfm_core.errors import LimitRefusal, OutboxRefusal
from mfm_core.sums import Sum
from strategies import chain, wire
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


def test_a_line_says_what_left(tmp_path: Path) -> None:
    record = send(make(tmp_path))
    (line,) = chain.read(tmp_path / "outbox.jsonl")
    sent = record.config_records[wire.HEADER]
    assert line["hash"] == sent["ledger_hash"]
    assert line["sha256"] == sent["payload_hash"]
    assert (line["kind"], line["round"], line["images"], line["run"]) == ("train", 1, 9, "a" * 64)
    assert line["bytes"] == wire.record_bytes(record)
    norms = {array["name"]: array["norm"] for array in line["arrays"]}
    assert norms == {"count": 5.0, "model": pytest.approx(6**0.5)}


@pytest.mark.parametrize("text", ["", "{\n"])
def test_nothing_leaves_over_a_broken_ledger(tmp_path: Path, text: str) -> None:
    outbox = make(tmp_path)
    send(outbox)
    outbox.ledger.write_text(text)
    with pytest.raises(OutboxRefusal, match="ledger"):
        send(outbox)


def test_nothing_leaves_when_the_line_cannot_be_written(tmp_path: Path) -> None:
    outbox = make(tmp_path)
    outbox.ledger.mkdir()
    with pytest.raises(OutboxRefusal, match="nothing leaves"):
        send(outbox)


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
    assert chain.read(tmp_path / "outbox.jsonl") == []


def test_a_long_update_and_an_array_the_site_does_not_name_stay(tmp_path: Path) -> None:
    for limits in ({"max_update_norm": 2.0}, {"allowed_arrays": {"train": ["model"]}}):
        with pytest.raises(LimitRefusal):
            send(make(tmp_path, **limits))
    assert chain.read(tmp_path / "outbox.jsonl") == []
    send(make(tmp_path, max_update_norm=2.5))


def test_limits_of_kind_and_size(tmp_path: Path) -> None:
    with pytest.raises(OutboxRefusal, match="allowed_kinds"):
        send(make(tmp_path, allowed_kinds=["hello"]))
    with pytest.raises(OutboxRefusal, match="limit"):
        send(make(tmp_path, max_message_mib=1e-4))
    assert not (tmp_path / "outbox.jsonl").exists()
