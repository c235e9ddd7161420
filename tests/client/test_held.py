"""With manual release nothing leaves before a person said so, and a no is a no."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.config import LimitsConfig
from client.held import FOLDER, decide, held_messages, wait_for_person
from client.outbox import Outbox
from mfm_core.checkpoint import read_arrays
from mfm_core.errors import ConfigError, OutboxRefusal
from mfm_core.sums import Sum
from strategies import chain, wire
from strategies.answers import Answer

TOTAL = Sum({"count": np.array([3.0, 4.0])})
HEADER = wire.Header("heads", 0, "a" * 64, "b" * 64, site="north", num_images=9)
FACTS = {"kind": "train", "round": 2, "sha256": "0123456789abcdef"}


class Waiting(threading.Thread):
    """Releases one message in a thread; `outcome` is the record or the refusal."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        limits = LimitsConfig(accepted_runs=("any",), manual=True, manual_minutes=1.0)
        self.outbox, self.outcome = Outbox(folder / "outbox.jsonl", limits), None
        self.start()

    def run(self) -> None:
        try:
            payload, answer = wire.Payload(total=TOTAL), Answer(False, TOTAL.schema)
            self.outcome: Any = self.outbox.release(HEADER, payload, (("w", (6,)),), answer)
        except OutboxRefusal as error:
            self.outcome = error


def first_held(folder: Path) -> Any:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if found := held_messages(folder):
            return found[0]
        time.sleep(0.05)
    raise AssertionError("nothing is held")


def test_a_message_waits_can_be_read_and_leaves_when_approved(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path)
    held = first_held(tmp_path)
    assert chain.read(tmp_path / "outbox.jsonl") == []
    assert held.facts["kind"] == "heads" and held.facts["images"] == 9
    arrays, _ = read_arrays(held.arrays)
    assert arrays["count"].tolist() == [3.0, 4.0]
    decide(tmp_path, held.name, approved=True, who="data manager")
    waiting.join(20)
    (line,) = chain.read(tmp_path / "outbox.jsonl")
    assert line["approved_by"] == "data manager" and chain.verify(tmp_path / "outbox.jsonl") == ()
    assert line["sha256"] == waiting.outcome.config_records[wire.HEADER]["payload_hash"]
    assert not list((tmp_path / FOLDER).iterdir())


def test_a_rejected_message_never_leaves(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path)
    decide(tmp_path, first_held(tmp_path).name, approved=False, who="data manager")
    waiting.join(20)
    assert isinstance(waiting.outcome, OutboxRefusal) and "rejected" in str(waiting.outcome)
    assert chain.read(tmp_path / "outbox.jsonl") == []
    assert not list((tmp_path / FOLDER).iterdir())


def test_nobody_there_means_no(tmp_path: Path) -> None:
    with pytest.raises(OutboxRefusal, match="nobody decided"):
        wait_for_person(tmp_path, FACTS, {"x": np.zeros(2)}, limit_s=0.01)


def test_an_old_decision_does_not_approve_a_new_message(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    old = tmp_path / FOLDER / "train-2-01234567.decision"
    old.write_text('{"approved": true, "who": "somebody"}')
    with pytest.raises(OutboxRefusal, match="nobody decided"):
        wait_for_person(tmp_path, FACTS, {"x": np.zeros(2)}, limit_s=0.01)


def test_only_a_waiting_message_can_be_decided(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="waiting: none"):
        decide(tmp_path, "../../etc/passwd", approved=True, who="x")
