"""The attention map is federated like every other weight: learned in stage one, then fixed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from mfm_core.checkpoint import load_model
from server.app import run_federation
from server.weights import model_with
from strategies.config import RunConfig
from strategies.wire import MODEL
from tests.server.hospitals import RUN, consortium, lay_out, make_grid
from tests.strategies.memory_grid import Node
from tests.strategies.records import numbers


@pytest.mark.parametrize("kind", ["fedavg", "fedadam"])
def test_stage_one_learns_one_map_for_all_and_stage_two_keeps_it(tmp_path: Path, kind: str) -> None:
    """FedAdam's momentum would move the map on in stage two, where no site changes it."""
    content = RUN.model_dump()
    content["aggregation"]["kind"] = kind
    content["learning"]["objective"]["attention"] = {"rounds": 2}
    run = RunConfig.model_validate({**content, "rounds": 4})
    folder = lay_out(tmp_path / "hospitals", run=run)
    maps: list[np.ndarray] = []

    def watch(node: Node) -> Node:
        def answer(message: Message) -> Message:
            if message.metadata.message_type == "train":
                sent = model_with(run, numbers(message.content, MODEL))
                maps.append(sent.attention_logits.detach().numpy())
            return node(message)

        return answer

    run_federation(make_grid(folder, wrap={0: watch}), consortium(folder, "out"), resume=False)
    final, _ = load_model(folder / "out" / "final.safetensors")
    assert len(maps) == 4
    assert not maps[0].any()
    assert np.abs(maps[1]).max() > 0 and not np.array_equal(maps[1], maps[2])
    assert np.array_equal(maps[2], maps[3])
    assert np.array_equal(maps[2], final.attention_logits.detach().numpy())
