"""A pre-training under a secure sum: masks change nothing of what is learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from server.app import run_federation
from strategies.strategy import RunState
from tests.server.hospitals import consortium, make_grid
from tests.server.task_hospitals import lay_out_tasks
from tests.strategies.test_secure_rounds import NAMES, WAITS

HELD = dict.fromkeys(NAMES, ("chest",)) | {"north": ("chest", "skin")}


def federate(folder: Path, secure: dict[str, object]) -> RunState:
    folder = lay_out_tasks(
        folder, HELD, rounds=1, secure_sum=secure, statistics={"bootstrap_replicates": 0}
    )
    settings = consortium(folder, "out", **{**WAITS, "simulated_sites": 4})
    return run_federation(make_grid(folder, 4), settings, resume=False)


def test_a_masked_pretraining_ends_with_the_bits_of_the_visible_one(tmp_path: Path) -> None:
    visible = federate(tmp_path / "visible", {})
    masked = federate(tmp_path / "masked", {"enabled": True, "updates": "exact"})
    np.testing.assert_array_equal(masked.weights, visible.weights)
    for name, array in visible.sums["evaluate"].arrays.items():
        np.testing.assert_array_equal(masked.sums["evaluate"][name], array)
