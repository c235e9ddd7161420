"""Every lie meets the check that is meant for it, in memory; `survival` sends them over a wire."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from flwr.app import Message

from client import node
from server.app import run_federation
from server.run_files import read_lines
from strategies.strategy import RunState
from tests.federation.evil_site import evil_programs
from tests.federation.hostile_world import EVIL, HONEST, World, run_of
from tests.federation.lies import LIES
from tests.server.hospitals import consortium, make_grid
from tests.strategies.memory_grid import Node


def lying(node: Node) -> Node:
    """Return the node with one lie per round of training, silent elsewhere."""

    def answer(message: Message) -> Message | None:
        reply, number = node(message), int(message.metadata.group_id or 0)
        if message.metadata.message_type != "train" or reply is None:
            return None
        lie = list(LIES.values())[number - 1]
        return Message(lie.alter(reply.content, HONEST[0]), reply_to=message)

    return answer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"), run_of("lies", len(LIES)))


@pytest.fixture(scope="module")
def state(world: World) -> RunState:
    grid = make_grid(world.folder, 3, {2: lying})
    grid.names = dict(zip(grid.nodes, (*HONEST, EVIL), strict=True))
    settings = consortium(
        world.folder, "lied", simulated_sites=None, sites=(*HONEST, EVIL), deadline_s=0.5, grace_s=0
    )
    return run_federation(grid, settings, resume=False)


@pytest.fixture(scope="module")
def outcomes(world: World, state: RunState) -> dict[str, Any]:
    lines = [line for line in read_lines(world.folder / "lied") if line["phase"] == "train"]
    return {name: line["sites"] for name, line in zip(LIES, lines, strict=True)}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_named_and_the_honest_sites_are_ok(name: str, outcomes: dict[str, Any]) -> None:
    expected = {**dict.fromkeys(HONEST, "ok"), EVIL: LIES[name].outcome}
    assert outcomes[name] == expected


def test_nothing_of_a_liar_reaches_the_model(world: World, state: RunState) -> None:
    found = json.loads((world.folder / "lied" / "server.json").read_text())
    assert found["status"] == "degraded"
    assert found["final_hash"] == world.alone()


def test_the_lying_node_takes_what_a_node_is_started_with() -> None:
    assert inspect.signature(evil_programs) == inspect.signature(node.programs)
