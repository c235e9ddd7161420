"""The rows of the secure sum's cost, from runs that are timed side by side."""

from __future__ import annotations

import time

import pytest

from simulation import secure_cost
from simulation.secure_cost import (
    MODES,
    PLACES,
    RUNS_OF_NODES,
    Cost,
    bench_secure_sum,
    time_real,
    time_simulated,
)

TINY = {
    "image": {"size_px": 32},
    "model": {
        "widths": [16, 32], "depths": [1, 1], "groups": 2, "norm_channels": 8, "latent_channels": 4,
    },
    "statistics": {"refit_head": False, "bootstrap_replicates": 0},
    "audit": {"enabled": False},
}  # fmt: skip


SENT = {"visible": 400, "masked, 8-bit updates": 100, "masked, exact": 800}
SECONDS = {"visible": 10.0, "masked, 8-bit updates": 11.0, "masked, exact": 15.0}


@pytest.mark.parametrize("place", PLACES)
def test_each_round_is_held_against_its_own_visible_run(monkeypatch, place):
    """A machine that gets twice as slow in the second round changes no ratio."""
    words, _, modes = PLACES[place]
    slower = iter([1.0] * len(modes) + [2.0] * len(modes))
    asked = []

    def tell_time(mode, run):
        asked.append(mode)
        return [Cost(SECONDS[mode] * next(slower), SENT[mode])]

    monkeypatch.setattr(secure_cost, "PLACES", {place: (words, tell_time, modes)})
    quantised, *exact = bench_secure_sum(rounds=2, place=place)
    assert asked == [*modes, *reversed(modes)]
    assert (quantised.low, quantised.measured, quantised.high) == pytest.approx((1.1, 1.1, 1.1))
    assert "x 0.25" in quantised.note and quantised.goal is not None
    assert [row.measured for row in exact] == pytest.approx([1.5] * (len(modes) - 2))
    assert all(row.goal is None for row in exact)


@pytest.mark.slow
def test_a_masked_run_of_eight_hospitals_sends_fewer_bytes(monkeypatch):
    monkeypatch.setitem(secure_cost.ROUNDS, "simulated", 1)
    monkeypatch.setattr(secure_cost, "STEPS", 2)
    found = {mode: time_simulated(mode, TINY)[0] for mode in MODES}
    assert found["masked, 8-bit updates"].sent < found["visible"].sent
    assert found["masked, exact"].sent > found["visible"].sent


@pytest.mark.slow
def test_real_processes_are_timed_from_the_end_of_hello(monkeypatch):
    for name, value in {"HOSPITALS": 3, "STEPS": 2}.items():
        monkeypatch.setattr(secure_cost, name, value)
    for place in secure_cost.ROUNDS:
        monkeypatch.setitem(secure_cost.ROUNDS, place, 1)
    begun = time.monotonic()
    found = time_real("masked, 8-bit updates", TINY)
    took = time.monotonic() - begun
    assert len(found) == RUNS_OF_NODES and 0.0 < sum(cost.seconds for cost in found) < took
    assert found[0].sent < time_simulated("visible", TINY)[0].sent
