"""The forecast meets what the noise really does to an axis."""

from __future__ import annotations

import numpy as np
import pytest

from mfm_core.axis_forecast import axis_cosine, forecast
from mfm_core.private_cells import CellPlan, as_sum, exact_cells

PLAN = CellPlan(2, (("view", 2),), 8)


@pytest.mark.parametrize("sick", [60, 200, 800])
def test_the_law_meets_the_measured_cosine(sick: int) -> None:
    draw = np.random.default_rng(sick)
    labels = (np.arange(2000) < sick).astype(np.int64)
    latents = 0.2 * draw.normal(size=(2000, 8)) + 0.3 * labels[:, None] * np.eye(8)[0]
    view = draw.integers(0, 2, (2000, 1))
    exact = as_sum(exact_cells(latents, labels, view, np.arange(2000), PLAN), PLAN)
    deviation = 6.0
    row = forecast(exact, PLAN, ("healthy", "sick"), deviation, 50)[1]
    assert (row.axis, row.n1, row.n0) == (
        "sick",
        pytest.approx(sick, abs=1e-2),
        pytest.approx(2000 - sick, abs=1e-2),
    )
    sums, counts = exact["class.sum"], exact["class.count"]
    axis = sums[1] / counts[1] - sums[0] / counts[0]
    cosines = []
    for _ in range(300):
        noisy = sums + deviation * draw.normal(size=sums.shape)
        found = noisy[1] / counts[1] - noisy[0] / counts[0]
        cosines.append(found @ axis / np.linalg.norm(found) / np.linalg.norm(axis))
    assert row.cosine == pytest.approx(np.mean(cosines), abs=0.06)


def test_a_side_too_small_to_be_shown_has_no_axis() -> None:
    labels = (np.arange(100) < 20).astype(np.int64)
    latents = np.eye(8)[labels]
    cells = exact_cells(latents, labels, np.full((100, 1), -1), np.arange(100), PLAN)
    rows = forecast(as_sum(cells, PLAN), PLAN, ("healthy", "sick"), 1.0, 50)
    assert [row.cosine for row in rows] == [0.0, 0.0]


def test_no_noise_is_no_loss_and_no_length_no_axis() -> None:
    assert axis_cosine(0.5, (10, 10), 0.0, 64) == 1.0
    assert axis_cosine(0.0, (10, 10), 1.0, 64) == 0.0
    assert axis_cosine(0.5, (0, 10), 1.0, 64) == 0.0
