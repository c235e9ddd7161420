"""The rows of the secure sum's cost, from runs that are timed side by side."""

from __future__ import annotations

import pytest

from simulation import secure_cost
from simulation.secure_cost import MODES, Cost, bench_secure_sum, time_run

TINY = {
    "image": {"size_px": 32},
    "model": {
        "widths": [16, 32], "depths": [1, 1], "groups": 2, "norm_channels": 8, "latent_channels": 4,
    },
    "statistics": {"refit_head": False, "bootstrap_replicates": 0},
    "audit": {"enabled": False},
}  # fmt: skip


def test_each_round_is_held_against_its_own_visible_run(monkeypatch):
    """A machine that gets twice as slow in the second round changes no ratio."""
    slower = iter([1.0] * len(MODES) + [2.0] * len(MODES))
    seconds = {"visible": 10.0, "masked, 8-bit updates": 11.0, "masked, exact": 15.0}
    sent = {"visible": 400, "masked, 8-bit updates": 100, "masked, exact": 800}
    monkeypatch.setattr(
        secure_cost,
        "time_run",
        lambda mode, run: Cost(seconds[mode] * next(slower), sent[mode]),
    )
    quantised, exact = bench_secure_sum(rounds=2)
    assert (quantised.low, quantised.measured, quantised.high) == pytest.approx((1.1, 1.1, 1.1))
    assert exact.measured == pytest.approx(1.5)
    assert "x 0.25" in quantised.note and quantised.goal is not None and exact.goal is None


@pytest.mark.slow
def test_a_masked_run_of_eight_hospitals_sends_fewer_bytes(monkeypatch):
    monkeypatch.setattr(secure_cost, "ROUNDS", 1)
    monkeypatch.setattr(secure_cost, "STEPS", 2)
    found = {mode: time_run(mode, TINY) for mode in MODES}
    assert found["masked, 8-bit updates"].sent < found["visible"].sent
    assert found["masked, exact"].sent > found["visible"].sent
