"""A state is whole or absent: whatever a crash leaves behind, the newest whole one loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mfm_core.errors import CheckpointError
from mfm_core.sums import Sum
from server.checkpoints import Stamp, load_newest, save_state
from strategies.aggregation import ServerState
from strategies.strategy import RunState

STAMP = Stamp("c" * 64, "d" * 64, 10, "e" * 64)


def make(done: int) -> RunState:
    generator = np.random.default_rng(done)
    server = ServerState(done, generator.normal(size=20), generator.normal(size=20))
    sums = {"latent_sums": Sum({"class.sum": generator.normal(size=(3, 4)), "n": np.ones(1)})}
    weights = generator.normal(size=20).astype(np.float32)
    return RunState(done, weights, server, sums, {"evaluate": {"x": None, "y": [1, 2]}})


def test_round_trip_to_the_bit(tmp_path: Path) -> None:
    saved = make(3)
    save_state(tmp_path, saved, STAMP)
    found = load_newest(tmp_path, "c" * 64)
    assert found is not None
    state, stamp = found
    assert stamp == STAMP and state.done == 3 and state.facts == saved.facts
    assert state.weights.tobytes() == saved.weights.tobytes()
    assert state.server.rounds == 3
    assert state.server.second_moment.tobytes() == saved.server.second_moment.tobytes()
    assert state.sums["latent_sums"].schema == saved.sums["latent_sums"].schema
    pooled = state.sums["latent_sums"]["class.sum"]
    assert np.array_equal(pooled, saved.sums["latent_sums"]["class.sum"])


def test_fedavg_state_of_length_zero(tmp_path: Path) -> None:
    state = RunState(1, np.ones(4, dtype=np.float32), ServerState(1, np.zeros(0), np.zeros(0)))
    save_state(tmp_path, state, STAMP)
    found = load_newest(tmp_path, "c" * 64)
    assert found is not None and found[0].server.first_moment.shape == (0,)


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for done in range(1, 12):
        save_state(tmp_path, make(done), STAMP)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["state-000010.safetensors", "state-000011.safetensors"]


def test_nothing_there_is_a_fresh_start(tmp_path: Path) -> None:
    assert load_newest(tmp_path, "c" * 64) is None


@pytest.mark.parametrize("kept", [0, 1, 7, 200, 1000, -1])
def test_a_torn_newest_state_falls_back_to_the_one_before(tmp_path: Path, kept: int) -> None:
    save_state(tmp_path, make(1), STAMP)
    path = save_state(tmp_path, make(2), STAMP)
    path.write_bytes(path.read_bytes()[:kept])
    (tmp_path / ".state-000003.safetensors.77.part").write_bytes(b"half")
    found = load_newest(tmp_path, "c" * 64)
    assert found is not None and found[0].done == 1


def test_a_flipped_bit_falls_back_too(tmp_path: Path) -> None:
    save_state(tmp_path, make(1), STAMP)
    path = save_state(tmp_path, make(2), STAMP)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    found = load_newest(tmp_path, "c" * 64)
    assert found is not None and found[0].done == 1


def test_another_run_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path, make(1), STAMP)
    with pytest.raises(CheckpointError, match="another run"):
        load_newest(tmp_path, "f" * 64)
