"""One patient more or less moves the released integers by at most the stated sensitivity."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mfm_core.private_cells import GRAINS, CellPlan, as_sum, clipped, exact_cells, unpacked

TABLES = (("view", 2), ("age", 3))


def cohort(seed: int, images: int = 40, d: int = 4) -> tuple[np.ndarray, ...]:
    draw = np.random.default_rng(seed)
    return (
        draw.normal(size=(images, d)) * draw.choice([0.1, 1.0, 50.0], size=(images, 1)),
        draw.integers(-1, 3, images),
        np.stack([draw.integers(-1, 2, images), draw.integers(-1, 3, images)], axis=1),
        draw.integers(0, 12, images),
    )


@pytest.mark.parametrize("tables", [0, 1, 2])
@pytest.mark.parametrize("covariance", [False, True])
def test_taking_any_patient_away_moves_the_cells_by_at_most_the_sensitivity(
    tables: int, covariance: bool
) -> None:
    plan = CellPlan(3, TABLES[:tables], 4, covariance)
    assert plan.sensitivity == pytest.approx(math.sqrt(2 * (1 + tables) + covariance))
    farthest = 0.0
    for seed in range(8):
        latents, labels, attributes, who = cohort(seed)
        everybody = exact_cells(latents, labels, attributes[:, :tables], who, plan)
        for person in range(12):
            rows = who != person
            rest = exact_cells(
                latents[rows], labels[rows], attributes[rows, :tables], who[rows], plan
            )
            moved = np.linalg.norm((everybody - rest).astype(np.float64))
            assert moved <= plan.sensitivity * GRAINS
            farthest = max(farthest, moved)
    assert farthest > 0.5 * plan.sensitivity * GRAINS


def test_the_bound_is_reached_by_a_patient_at_the_clip() -> None:
    """A looser clip, or a table that is not counted, would pass this distance."""
    plan = CellPlan(3, TABLES, 4)
    one = np.array([[7.0, 0, 0, 0]]), np.array([1]), np.array([[0, 2]]), np.array([5])
    alone = exact_cells(*one, plan).astype(np.float64)
    assert np.linalg.norm(alone) == pytest.approx(math.sqrt(7) * GRAINS, rel=1e-5)


def test_more_images_of_a_patient_change_nothing() -> None:
    plan = CellPlan(3, TABLES, 4)
    latents, labels, attributes, who = cohort(3)
    twice = [np.concatenate([array, array]) for array in (latents, labels, attributes, who)]
    once = exact_cells(latents, labels, attributes, who, plan)
    assert np.abs(once - exact_cells(*twice, plan)).max() <= 1


def test_the_cells_are_those_counted_by_hand() -> None:
    plan = CellPlan(3, TABLES[:1], 4)
    latents, labels, attributes, who = cohort(4)
    total = as_sum(exact_cells(latents, labels, attributes[:, :1], who, plan), plan)
    counts, sums, moment = np.zeros(3), np.zeros((3, 4)), np.zeros((4, 4))
    table = np.zeros((3, 2))
    rows = clipped(latents)
    for person in range(12):
        own = np.flatnonzero((who == person) & (labels >= 0))
        for k in range(3):
            there = own[labels[own] == k]
            if len(there):
                mean, share = rows[there].mean(axis=0), len(there) / len(own)
                counts[k] += share
                sums[k] += share * mean
                moment += share * np.outer(mean, mean)
            for row in there[attributes[there, 0] >= 0]:
                table[k, attributes[row, 0]] += 1 / len(own)
    near = {"rtol": 0, "atol": 1e-4}
    np.testing.assert_allclose(total["class.count"], counts, **near)
    np.testing.assert_allclose(total["class.sum"], sums, **near)
    np.testing.assert_allclose(total["attribute.view.count"], table, **near)
    np.testing.assert_allclose(unpacked(total["second_moment"], 4), moment, **near)
    packed = total["second_moment"]
    assert np.linalg.norm(packed) == pytest.approx(np.linalg.norm(moment), abs=1e-4)


@pytest.mark.parametrize("what", ["shape", "nan"])
def test_cells_of_other_shapes_are_refused(what: str) -> None:
    latents, labels, attributes, who = cohort(5)
    if what == "nan":
        latents[0, 0] = np.nan
    plan = CellPlan(3, TABLES, 5 if what == "shape" else 4)
    with pytest.raises(ValueError, match="expected finite"):
        exact_cells(latents, labels, attributes, who, plan)
