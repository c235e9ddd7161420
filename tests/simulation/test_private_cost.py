"""The rows compare what they say: each private step with the plain step of its own net."""

from __future__ import annotations

import numpy as np
import torch

from mfm_core.config import ModelConfig
from simulation.benchmark import draw_image_set
from simulation.private_cost import CLASSES, MODES, StockNet, bench_private_step
from tests.simulation.samples import TINY_MODEL

SMALL = ModelConfig(**TINY_MODEL)


def test_the_stock_net_gives_an_image_and_logits() -> None:
    found = StockNet(SMALL, 32)(torch.rand(2, 1, 32, 32))
    assert found.shape == (2, 32 * 32 + CLASSES)


def test_there_is_a_row_for_each_of_our_units_and_of_opacus_modes() -> None:
    rows = bench_private_step(1, draw_image_set(32, 4), 4, SMALL)
    assert [row.goal is not None for row in rows] == [True, False, *[False] * len(MODES)]
    assert "patients" in rows[1].what
    assert all(np.isfinite(row.measured) and row.measured > 0 for row in rows)
    assert all(any(mode in row.what for row in rows) for mode in MODES)
