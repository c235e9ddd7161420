"""Who is asked, how long is waited, and what each site's outcome is called."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from pydantic import ValidationError

from mfm_core.errors import TooFewSites, UpdateRejected
from strategies import rounds, wire
from strategies.rounds import (
    FAILED,
    LOOK_SHARE,
    REFUSED,
    SHORTEST_S,
    Exchange,
    RoundRules,
    Site,
    exchange,
    find_sites,
)
from tests.strategies.memory_grid import MemoryGrid, Node

QUICK = {"deadline_s": 0.5, "grace_s": 0.1, "node_wait_s": 0.1, "poll_s": 0.01}


def rules(**changed: object) -> RoundRules:
    return RoundRules.model_validate({"sites": ["a", "b", "c"], **QUICK, **changed})


def content() -> RecordDict:
    return wire.encode(wire.Header("hello", 0, "c", "d"), wire.Payload())


def answering(message: Message) -> Message:
    return Message(content(), reply_to=message)


def silent(message: Message) -> None:
    return None


def failing(code: int, reason: str) -> Node:
    return lambda message: Message(Error(code, reason), reply_to=message)


def ask(nodes: dict[str, Node], order: Iterable[str] = (), **changed: object) -> Exchange:
    names = dict(enumerate(nodes))
    ids = {name: node for node, name in names.items()}
    grid = MemoryGrid(dict(enumerate(nodes.values())), names, [ids[name] for name in order])
    settings = rules(**changed)
    sites = find_sites(grid, settings, {}, wait_for=1)
    return exchange(
        grid, sites, ("query.hello", lambda site: content(), "0"), lambda *_: None, settings
    )


def test_every_outcome_by_name() -> None:
    def refuse(site: Site, record: RecordDict) -> None:
        if site.name == "b":
            raise UpdateRejected("norm", "too long")

    nodes: dict[int, Node] = {
        1: answering,
        2: answering,
        3: failing(REFUSED, "limit"),
        4: failing(FAILED, "data"),
        5: failing(2, "Traceback: images/patient_7.png"),
        6: failing(FAILED, "Patient 7 in bed 3"),
        7: silent,
    }
    names = dict(zip(nodes, "abcdefg", strict=True))
    settings = rules(sites=list("abcdefg"), quorum=1, attempts=1)
    grid = MemoryGrid(nodes, names)
    sites = find_sites(grid, settings, {}, wait_for=7)
    went = exchange(grid, sites, ("query.hello", lambda site: content(), "0"), refuse, settings)
    assert dict(went.outcomes) == {
        "a": "ok",
        "b": "rejected:norm",
        "c": "refused:limit",
        "d": "error:data",
        "e": "error:2",
        "f": f"error:{FAILED}",
        "g": "no-reply",
    }
    assert set(went.sent) == {"a", "b"}


def test_only_admitted_names_are_asked() -> None:
    grid = MemoryGrid(dict.fromkeys(range(5), answering), dict(enumerate("abxyc")))
    sites = find_sites(grid, rules(), {}, wait_for=3)
    assert [site.name for site in sites] == ["a", "b", "c"]


def test_missing_sites_are_waited_for_but_not_for_ever() -> None:
    grid = MemoryGrid({1: answering}, {1: "a"})
    start = time.monotonic()
    assert len(find_sites(grid, rules(quorum=1), {}, wait_for=3)) == 1
    assert 0.1 <= time.monotonic() - start < 2
    with pytest.raises(TooFewSites, match="nodes of b, c"):
        find_sites(grid, rules(quorum=2), {}, wait_for=3)


def test_simulated_sites_are_all_taken_until_they_are_known() -> None:
    grid = MemoryGrid(dict.fromkeys((4, 5, 6), answering))
    settings = RoundRules.model_validate({"simulated_sites": 3, **QUICK})
    assert len(find_sites(grid, settings, {}, 3)) == 3
    assert find_sites(grid, settings, {5: "a", 6: "b"}, 2) == (Site(5, "a"), Site(6, "b"))


def test_after_the_quorum_only_the_grace_is_waited() -> None:
    start = time.monotonic()
    went = ask({"a": answering, "b": answering, "c": silent}, deadline_s=30.0, grace_s=0.2)
    assert 0.2 <= time.monotonic() - start < 3
    assert went.outcomes["c"] == "no-reply" and went.attempts == 1


def test_below_the_quorum_the_silent_are_asked_again_and_the_others_not() -> None:
    asked = {"a": 0, "b": 0, "c": 0}

    def counting(name: str, first_good: int) -> Node:
        def answer(message: Message) -> Message | None:
            seen.setdefault(name, set()).add(message.metadata.message_id)
            asked[name] = len(seen[name])
            return answering(message) if asked[name] >= first_good else None

        return answer

    seen: dict[str, set[str]] = {}
    nodes = {"a": counting("a", 1), "b": counting("b", 3), "c": failing(REFUSED, "limit")}
    went = ask(nodes, deadline_s=0.1)
    assert (asked["a"], asked["b"], went.attempts) == (1, 3, 3)
    assert dict(went.outcomes) == {"a": "ok", "b": "ok", "c": "refused:limit"}


class RestartedNode(MemoryGrid):
    """Node 1 is away when it is first asked, and for some looks after that."""

    looks_away = 8
    asked = 0

    def get_nodes(self) -> Iterable[NodeInfo]:
        nodes = list(super().get_nodes())
        if not self.asked or self.looks_away <= 0:
            return nodes
        self.looks_away -= 1
        return [node for node in nodes if node.node_id != 1]

    def answer_one(self, message: Message) -> Message:
        self.asked += 1
        if self.asked == 1 or self.looks_away > 0:
            return Message(Error(5, "away"), reply_to=message)
        return answering(message)


def test_a_node_that_is_started_again_is_waited_for_before_it_is_asked_again() -> None:
    grid = RestartedNode({0: answering, 1: answering}, {0: "a", 1: "b"})
    grid.nodes[1] = grid.answer_one
    settings = rules(sites=["a", "b"], node_wait_s=20.0)
    sites = find_sites(grid, settings, {}, wait_for=2)
    went = exchange(
        grid, sites, ("query.hello", lambda site: content(), "0"), lambda *_: None, settings
    )
    assert dict(went.outcomes) == {"a": "ok", "b": "ok"} and went.attempts == 2


def test_too_few_names_everyone_and_does_not_ask_the_unwilling_again() -> None:
    nodes = {"a": answering, "b": failing(REFUSED, "limit"), "c": failing(REFUSED, "code")}
    with pytest.raises(TooFewSites, match=r"after 1 attempts.*b refused:limit, c refused:code"):
        ask(nodes)


def test_a_reply_that_flower_cannot_put_together_is_one_sites_fault() -> None:
    def broken(message: Message) -> Message:
        raise ValueError("cannot inflate")

    went = ask({"a": answering, "b": broken, "c": answering})
    assert went.outcomes["b"] == "rejected:record"


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waited: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


def test_looks_are_rarer_the_longer_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(rounds, "time", clock)
    quiet = {"deadline_s": 600.0, "poll_s": 3.0, "attempts": 1, "quorum": 1}
    with pytest.raises(TooFewSites):
        ask({"a": silent}, sites=["a"], **quiet)
    first, *later, last = clock.waited
    assert first == SHORTEST_S and later == sorted(later) and max(later) == 3.0
    ends = [sum(clock.waited[: count + 1]) for count in range(len(clock.waited))]
    assert ends[-1] == pytest.approx(600.0) and last <= 3.0
    late = [wait / end for wait, end in zip(clock.waited, ends, strict=True) if end > 3.0]
    assert max(late) <= LOOK_SHARE, "a reply is found within a twentieth of the time it took"
    assert len(clock.waited) < 300, "about as many looks as `poll_s` asks for"


def test_impossible_rules_are_refused() -> None:
    for wrong in ({"sites": ()}, {"quorum": 4}, {"sites": ["a", "a"]}):
        with pytest.raises(ValidationError):
            rules(**wrong)
