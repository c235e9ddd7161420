"""Whole runs under a secure sum: the visible run's numbers, whoever drops out or lies."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from mfm_core.config import dump_yaml
from mfm_core.errors import TooFewSites, UpdateRejected
from server.app import run_federation
from server.journal import read_lines
from strategies import wire
from strategies.config import RunConfig
from strategies.plan import KEYS, MASKED, Step
from strategies.secure_rounds import WINDOW, steps_from
from tests.server.hospitals import RUN, consortium, lay_out, make_grid, site_config
from tests.strategies.records import numbers, with_array

NAMES = ("east", "north", "south", "west")
SHORT = {
    **RUN.model_dump(),
    "rounds": 1,
    "mitigation": {},
    "audit": {"enabled": False},
    "statistics": {"refit_head": False, "bootstrap_replicates": 0},
}
WAITS = {"deadline_s": 60.0, "grace_s": 0.0, "attempts": 2, "quorum": 3}


def run_of(**secure: object) -> RunConfig:
    return RunConfig.model_validate({**SHORT, "secure_sum": secure})


EXACT = run_of(enabled=True, updates="exact")


def federate(folder, run, faults=None, **settings):
    """Return the final state and the ledger lines of four hospitals, some of them faulty."""
    lay_out(folder, NAMES, run)
    waits = {**WAITS, "simulated_sites": 4, **settings}
    grid = make_grid(folder, 4, faults)
    state = run_federation(grid, consortium(folder, "out", **waits), False)
    return state, read_lines(folder / "out")


def kind_of(message: Message) -> str:
    return str(message.content.config_records[wire.HEADER]["kind"])


def silent_at(*kinds):
    """Return a fault: a node that never answers some exchanges."""
    return lambda node: lambda message: None if kind_of(message) in kinds else node(message)


def outcome(lines, phase, site):
    return [line["sites"].get(site) for line in lines if line["phase"] == phase]


@pytest.fixture(scope="module")
def visible(tmp_path_factory):
    return federate(tmp_path_factory.mktemp("visible"), run_of())


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    return federate(tmp_path_factory.mktemp("exact"), EXACT)


def test_the_masked_run_has_the_bits_of_the_visible_one(visible, exact):
    np.testing.assert_array_equal(exact[0].weights, visible[0].weights)
    for kind in ("latent_sums", "evaluate"):
        for name, array in visible[0].sums[kind].arrays.items():
            np.testing.assert_array_equal(exact[0].sums[kind][name], array)


def test_the_ledger_lists_every_exchange_of_keys_and_no_site_of_its_own(visible, exact):
    _, lines = exact
    phases = [line["phase"] for line in lines]
    assert phases[:3] == ["hello", "secure_keys", "secure_shares"]
    masked = [phase for phase in phases if phase in MASKED]
    assert phases.count("secure_unmask") == len(masked)
    after = [then for phase, then in pairwise(phases) if phase in MASKED]
    assert set(after) == {"secure_unmask"}, "lines stand in the order of events"
    assert all(set(line["sites"].values()) == {"ok"} for line in lines)
    assert exact[0].facts["evaluate"]["per_site"] == {}
    assert set(visible[0].facts["evaluate"]["per_site"]) == set(NAMES)


def test_what_travels_of_one_site_does_not_depend_on_its_numbers(tmp_path):
    """The masked arrays of one site are as random as those of any other run of it."""
    seen = {}

    def listen(node):
        def answer(message):
            reply = node(message)
            if kind_of(message) == "latent_sums":
                seen["sum"] = numbers(reply.content, wire.TOTAL)[-64:]
            return reply

        return answer

    federate(tmp_path / "one", EXACT, {0: listen})
    first = seen["sum"]
    federate(tmp_path / "two", EXACT, {0: listen})
    assert not np.array_equal(first, seen["sum"])
    assert len(np.unique(first >> np.uint64(56))) > 32, "the numbers are not masked"


def test_a_site_that_drops_out_while_masked_is_left_out_exactly(tmp_path):
    gone = {3: silent_at("train")}
    masked, lines = federate(tmp_path / "masked", EXACT, gone, deadline_s=8.0)
    plain, _ = federate(tmp_path / "plain", run_of(), gone, deadline_s=8.0)
    assert outcome(lines, "train", "west") == ["no-reply"]
    assert outcome(lines, "latent_sums", "west") == ["ok"], "it is back in the next exchange"
    np.testing.assert_array_equal(masked.weights, plain.weights)


def test_a_site_that_drops_out_after_it_answered_stays_in_the_sum(tmp_path, visible):
    state, lines = federate(tmp_path, EXACT, {3: silent_at("secure_unmask")}, deadline_s=6.0)
    assert set(outcome(lines, "secure_unmask", "west")) == {"no-reply"}
    np.testing.assert_array_equal(state.weights, visible[0].weights)


def test_a_site_without_keys_takes_no_part(tmp_path):
    state, lines = federate(tmp_path, EXACT, {3: silent_at("secure_keys")}, deadline_s=6.0)
    assert [line["sites"].get("west") for line in lines if line["phase"] == "train"] == [None]
    assert state.done == 5


def test_a_site_that_is_there_without_keys_is_called_left_out(tmp_path):
    folder = lay_out(tmp_path, NAMES, EXACT)
    grid = make_grid(folder, 4, {3: silent_at("secure_keys")})
    grid.names = dict(zip(grid.nodes, NAMES, strict=True))
    there = {**WAITS, "simulated_sites": None, "sites": NAMES, "deadline_s": 6.0}
    run_federation(grid, consortium(folder, "out", **there), False)
    lines = read_lines(folder / "out")
    assert outcome(lines, "secure_keys", "west") == ["no-reply"]
    for phase in ("secure_shares", "train"):
        assert outcome(lines, phase, "west") == ["left-out"]
    assert outcome(lines, "atlas", "west") == ["ok"], "an exchange without masks asks everybody"
    del grid.nodes[next(node for node, name in grid.names.items() if name == "west")]
    run_federation(grid, consortium(folder, "again", **there, node_wait_s=0.1), False)
    assert set(outcome(read_lines(folder / "again"), "train", "west")) == {"offline"}


def test_too_few_sites_end_the_run_with_a_reason_and_open_nothing(tmp_path):
    faults = {2: silent_at("secure_unmask"), 3: silent_at("secure_unmask")}
    with pytest.raises(TooFewSites, match="secure_unmask"):
        federate(tmp_path, EXACT, faults, deadline_s=4.0)
    lines = read_lines(tmp_path / "out")
    sessions = [line["phase"] for line in lines if line["phase"] == "secure_keys"]
    assert len(sessions) == 2, "the second attempt has new keys"


def changed(message: Message, edit) -> Message:
    """Return a message whose bytes of keys or shares were edited on the way."""
    data = bytearray(wire.arrays_of(message.content)[wire.SEALED])
    edit(data)
    message.content = with_array(message.content, wire.SEALED, bytes(data))
    return message


def last_bit(data: bytearray) -> None:
    data[-1] ^= 1


def tampering(kind, edit=last_bit):
    """Return a fault: a server that alters what it sends to a site in one exchange."""

    def fault(node):
        def answer(message):
            return node(changed(message, edit) if kind_of(message) == kind else message)

        return answer

    return fault


def test_tampered_shares_are_refused_by_the_site(tmp_path):
    _, lines = federate(tmp_path, EXACT, {3: tampering("secure_unmask")})
    assert set(outcome(lines, "secure_unmask", "west")) == {"refused:tampered"}


def test_a_site_that_gives_wrong_shares_is_named_and_the_sum_is_right(tmp_path, visible):
    def fault(node):
        def answer(message):
            reply = node(message)
            if kind_of(message) != "secure_unmask":
                return reply

            def spoil(data):
                data[-40:] = bytes(40)

            return changed(reply, spoil)

        return answer

    state, lines = federate(tmp_path, EXACT, {3: fault})
    assert set(outcome(lines, "train", "west")) == {"rejected:shares"}
    np.testing.assert_array_equal(state.weights, visible[0].weights)


def test_a_replayed_question_finds_its_keys_spent(tmp_path):
    second = {}

    def fault(node):
        def answer(message):
            reply = node(message)
            if kind_of(message) in ("train", "secure_keys"):
                second[kind_of(message)] = node(message)
            return reply

        return answer

    federate(tmp_path, EXACT, {0: fault})
    assert second["train"].error.reason == "spent"
    assert not second["secure_keys"].has_error(), "before the roster is known it may be asked again"


def retold(message: Message, **told: object) -> Message:
    """Return a message in which the server says something else of the secure sum."""
    import json

    records = dict(message.content.items())
    header = dict(message.content.config_records[wire.HEADER])
    header["about"] = json.dumps({**json.loads(str(header["about"])), **told})
    records[wire.HEADER] = ConfigRecord(header)
    message.content = RecordDict(records)
    return message


STORIES = {
    "train": [
        ({"participants": ["east", "north"]}, "participants"),
        ({"participants": ["east", "north", "nobody", "west"]}, "participants"),
        ({"session": "f" * 32}, "session"),
        ({"first": 40}, "roster"),
        ({"norm": -1.0}, "secure"),
        ({"more": 1}, "secure"),
    ],
    "secure_unmask": [
        ({"step": 30}, "participants"),
        ({"participants": ["east", "north", "south"]}, "shares"),
        ({"survivors": ["west"]}, "survivors"),
    ],
}


def test_a_server_that_tells_another_story_is_refused(tmp_path):
    found = []

    def fault(node):
        def answer(message):
            original = dict(message.content.items())
            for told, reason in STORIES.get(kind_of(message), []):
                found.append((told, reason, node(retold(message, **told)).error.reason))
                message.content = RecordDict(original)
            return node(message)

        return answer

    _, lines = federate(tmp_path, EXACT, {3: fault})
    assert set(outcome(lines, "secure_unmask", "west")) == {"ok"}, "no key was spent on a refusal"
    assert len(found) > sum(len(stories) for stories in STORIES.values())
    for told, expected, reason in found:
        assert reason == expected, told


def test_a_server_that_asks_one_site_another_question_reads_nothing(tmp_path):
    """A step width, images or weights of its own would single a site out; now no mask cancels."""

    def alone(node):
        return lambda message: node(
            retold(message, largest=7) if kind_of(message) == "patch_moments" else message
        )

    with pytest.raises(UpdateRejected, match="sent numbers that cannot be"):
        federate(tmp_path, EXACT, {3: alone})


def again(folder, output, faults=None):
    """Run the same agreed run anew, at the sites of an earlier one."""
    waits = {**WAITS, "simulated_sites": 4, "deadline_s": 6.0, "attempts": 1}
    settings = consortium(folder, output, **waits)
    return run_federation(make_grid(folder, 4, faults), settings, False)


def test_an_exchange_that_was_opened_is_opened_for_the_same_group_only(tmp_path):
    """The sum of four less that of three is the fourth site's answer."""
    first, _ = federate(tmp_path, EXACT)
    with pytest.raises(TooFewSites, match="patch_moments"):
        again(tmp_path, "three", {3: silent_at("secure_keys")})
    (line,) = [found for found in read_lines(tmp_path / "three") if found["phase"] in MASKED]
    assert {line["sites"][name] for name in NAMES[:3]} == {"refused:opened"}
    np.testing.assert_array_equal(again(tmp_path, "four").weights, first.weights)


def test_a_resume_asks_the_group_that_was_opened_or_says_who_is_missing(tmp_path):
    with pytest.raises(TooFewSites, match="secure_unmask"):
        faults = {2: silent_at("secure_unmask"), 3: silent_at("secure_unmask")}
        federate(tmp_path, EXACT, faults, deadline_s=4.0, attempts=1)
    waits = {**WAITS, "simulated_sites": 4, "deadline_s": 4.0, "attempts": 1}
    settings = consortium(tmp_path, "out", **waits)
    with pytest.raises(TooFewSites, match="west cannot be reached"):
        run_federation(make_grid(tmp_path, 4, {3: silent_at("secure_keys")}), settings, True)
    assert run_federation(make_grid(tmp_path, 4), settings, True).done == 5


def test_no_number_of_one_site_travels_in_clear_beside_its_masks(exact):
    masked = [line for line in exact[1] if line["phase"] in MASKED]
    assert {"patch_moments", "train", "evaluate"} <= {line["phase"] for line in masked}
    for line in masked:
        assert line["site_images"] == {}
        assert line["images"] > 0


def test_a_plain_question_is_refused_where_masks_were_agreed_or_asked_for(tmp_path):
    def plain(node):
        def answer(message):
            header = dict(message.content.config_records[wire.HEADER])
            records = {**dict(message.content.items())}
            records[wire.HEADER] = ConfigRecord({**header, "about": ""})
            message.content = RecordDict(records)
            return node(message)

        return answer

    _, lines = federate(tmp_path / "agreed", EXACT, {3: plain})
    assert outcome(lines, "secure_keys", "west") == ["refused:secure"]
    folder = lay_out(tmp_path / "asked", NAMES, run_of())
    dump_yaml(site_config("west", require_secure_sum=True), folder / "sites" / "3.yaml")
    waits = {**WAITS, "simulated_sites": 4}
    run_federation(make_grid(folder, 4), consortium(folder, "out", **waits), False)
    lines = read_lines(folder / "out")
    assert outcome(lines, "train", "west") == ["refused:limit"]


def test_keys_are_refused_in_a_run_without_a_secure_sum(tmp_path):
    replies = {}

    def fault(node):
        def answer(message):
            if kind_of(message) == "hello":
                return node(message)
            header = dict(message.content.config_records[wire.HEADER])
            header |= {"kind": "secure_keys", "round": 0, "about": '{"session": "a", "first": 0}'}
            content = RecordDict({wire.HEADER: ConfigRecord(header)})
            asked = Message(content, message.metadata.dst_node_id, "query.secure_keys")
            asked.metadata.__dict__.update(message.metadata.__dict__)
            asked.metadata.message_type = "query.secure_keys"
            replies["keys"] = node(asked)
            return replies["keys"]

        return answer

    federate(tmp_path, run_of(), {3: fault})
    assert replies["keys"].error.reason == "plan"


def test_impossible_counts_end_the_run_and_name_the_group(tmp_path, monkeypatch):
    from client import app as client_app

    honest = client_app.WORK["evaluate"]

    def lies(request):
        reply = honest(request)
        if request.site.config.name != "west":
            return reply
        wrong = {name: array * 50 for name, array in reply.payload.total.arrays.items()}
        total = type(reply.payload.total)(wrong)
        return replace(reply, payload=wire.Payload(total=total))

    monkeypatch.setitem(client_app.WORK, "evaluate", lies)
    with pytest.raises(UpdateRejected, match=r"one of east, north, south, west sent numbers"):
        federate(tmp_path, EXACT)


def test_quantised_updates_reach_nearly_the_same_weights_in_a_quarter_of_the_bytes(
    tmp_path, visible, exact
):
    state, lines = federate(tmp_path, run_of(enabled=True, first_norm=0.2))
    start, end = visible[0].weights, state.weights
    moved = next(line for line in lines if line["phase"] == "train")
    visible_train = next(line for line in exact[1] if line["phase"] == "train")
    saved = max(visible_train["bytes"].values()) - max(moved["bytes"].values())
    assert saved > 0.7 * 8 * len(end), "two bytes a number in place of eight"
    assert np.linalg.norm(end - start) <= 0.05
    assert 0 < state.facts["secure_norm"] < 0.2


def test_sessions_cover_a_window_of_the_plan():
    plan = [Step("train", number) for number in range(1, 121)]
    assert steps_from(plan, 0) == WINDOW
    assert steps_from(plan, 100) == 20
    assert steps_from(plan, 120) == 0
    assert set(KEYS).isdisjoint(MASKED)
