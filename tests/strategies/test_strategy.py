"""The engine keeps every finished phase, in order, and nothing of an unfinished one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message

from mfm_core.errors import TooFewSites
from mfm_core.sums import Sum
from strategies import wire
from strategies.aggregation import ServerState
from strategies.answers import Answer
from strategies.collector import Identity, Pooled
from strategies.config import AggregationConfig
from strategies.plan import Step
from strategies.rounds import RoundRules
from strategies.strategy import PhasedStrategy, RunState
from tests.strategies.memory_grid import MemoryGrid, Node
from tests.strategies.records import with_array
from tests.strategies.test_wire import BAD_HEADERS, array_with_header

SCHEMA = (("w", (3,)),)
RULES = RoundRules(
    simulated_sites=3, quorum=2, deadline_s=0.2, grace_s=0.1, attempts=1, node_wait_s=0.1,
    poll_s=0.01,
)  # fmt: skip
IDENTITY = Identity("c" * 64, "d" * 64, SCHEMA, SCHEMA, AggregationConfig())
START = RunState(0, np.zeros(3, dtype=np.float32), ServerState(0, np.zeros(0), np.zeros(0)))


@dataclass(frozen=True)
class Adding:
    """A phase that adds what the sites say to the weights."""

    step: Step

    def request(self, state: RunState) -> wire.Payload:
        return wire.Payload(state.weights)

    def answer(self, state: RunState) -> Answer:
        return Answer(False, (("n", (1,)),))

    def note(self, total: Sum | None, images: int) -> dict[str, Any]:
        return {}

    def finish(self, state: RunState, pooled: Pooled) -> tuple[RunState, dict[str, Any]]:
        assert pooled.total is not None
        added = np.float32(pooled.total["n"][0])
        return replace(state, weights=state.weights + added), {"added": float(added)}


class Notebook:
    """A journal that remembers the order of what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def report(self, step: Step, done: int, phases: int, text: str) -> None:
        self.events.append(("report", text))

    def write(self, line: dict[str, Any]) -> str:
        self.events.append(("write", line))
        return "e" * 64

    def keep(self, state: RunState) -> None:
        self.events.append(("keep", state))

    def of(self, kind: str) -> list[Any]:
        return [content for name, content in self.events if name == kind]


def site(name: str, silent_from: int = 99) -> Node:
    """Return a node that says 1 to everything before round `silent_from`."""

    def answer(message: Message) -> Message | None:
        header = message.content.config_records[wire.HEADER]
        if int(str(header["round"])) >= silent_from:
            return None
        reply = wire.Header(
            str(header["kind"]), int(str(header["round"])), "c" * 64, "d" * 64, site=name,
            num_images=2,
        )  # fmt: skip
        return Message(
            wire.encode(reply, wire.Payload(total=Sum({"n": np.ones(1)}))), reply_to=message
        )

    return answer


def run(nodes: dict[int, Node], notebook: Notebook, state: RunState = START) -> np.ndarray:
    phases = [Adding(Step("hello")), *(Adding(Step("train", number)) for number in (1, 2, 3))]
    strategy = PhasedStrategy(phases, IDENTITY, RULES, notebook, state)
    arrays = ArrayRecord({wire.MODEL: Array(state.weights)})
    return strategy.start(MemoryGrid(nodes), arrays).arrays[wire.MODEL].numpy()


def test_each_phase_is_written_then_kept() -> None:
    notebook = Notebook()
    final = run({1: site("a"), 2: site("b"), 3: site("c")}, notebook)
    assert final.tolist() == [12.0] * 3
    order = [name for name, _ in notebook.events if name != "report"]
    assert order == ["write", *["write", "keep"] * 3]
    assert [state.done for state in notebook.of("keep")] == [1, 2, 3]
    line = notebook.of("write")[1]
    assert line["sites"] == {"a": "ok", "b": "ok", "c": "ok"} and line["added"] == 3.0
    assert line["site_images"] == {"a": 2, "b": 2, "c": 2}


def test_a_resumed_run_repeats_hello_and_skips_what_is_done() -> None:
    notebook = Notebook()
    state = replace(START, done=2, weights=np.full(3, 7, dtype=np.float32))
    hello = Adding(Step("hello"))
    assert hello.finish(state, Pooled(0, None, Sum({"n": np.zeros(1)}), {}))[0].done == 2
    final = run({1: site("a"), 2: site("b"), 3: site("c")}, notebook, state)
    assert [line["round"] for line in notebook.of("write")] == [0, 3]
    assert final.tolist() == [13.0] * 3


def test_a_site_lost_on_the_way_is_named_and_below_the_quorum_the_run_stops() -> None:
    notebook = Notebook()
    run({1: site("a"), 2: site("b"), 3: site("c", silent_from=2)}, notebook)
    assert [line["sites"]["c"] for line in notebook.of("write")] == ["ok", "ok", *["no-reply"] * 2]
    notebook = Notebook()
    with pytest.raises(TooFewSites, match="c no-reply"):
        run({1: site("a"), 2: site("b", 3), 3: site("c", 3)}, notebook)
    assert notebook.of("keep")[-1].done == 2 and len(notebook.of("write")) == 4
    line = notebook.of("write")[-1]
    assert (line["phase"], line["round"], line["failed"]) == ("train", 3, "quorum")
    assert line["sites"] == {"a": "ok", "b": "no-reply", "c": "no-reply"}
    assert line["site_images"] == {"a": 2} and line["attempts"] == 1


def test_two_sites_of_one_name_cannot_both_count() -> None:
    notebook = Notebook()
    final = run({1: site("a"), 2: site("a"), 3: site("c")}, notebook)
    assert "rejected:site" in notebook.of("write")[0]["sites"].values()
    assert final.tolist() == [8.0] * 3


@pytest.mark.parametrize("text", BAD_HEADERS)
def test_a_site_with_a_malformed_array_is_named_and_the_run_goes_on(text: str) -> None:
    def lying(message: Message) -> Message | None:
        reply = site("c")(message)
        if reply is not None and message.metadata.message_type == "train":
            reply.content = with_array(reply.content, wire.TOTAL, array_with_header(text))
        return reply

    notebook = Notebook()
    final = run({1: site("a"), 2: site("b"), 3: lying}, notebook)
    assert [line["sites"]["c"] for line in notebook.of("write")[1:]] == ["rejected:dtype"] * 3
    assert final.tolist() == [9.0] * 3
