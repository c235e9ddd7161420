"""Splits never divide a group and starve no class."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mfm_core.splits import grouped_split, stratified_grouped_folds

LABELS = Path(__file__).parents[2].parent / "shared" / "data" / "labels.csv"
Integers = NDArray[np.int64]


def whole(groups: Integers, parts: Integers) -> bool:
    return all(len(set(parts[groups == group])) == 1 for group in np.unique(groups))


@st.composite
def cohorts(draw: st.DrawFn, shared: bool) -> tuple[Integers, Integers]:
    """Draw labels and groups; `shared` lets groups hold a second class as well."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=40))
    kinds = draw(st.lists(st.integers(-1, 4), min_size=len(sizes), max_size=len(sizes)))
    labels, groups = np.repeat(kinds, sizes), np.repeat(np.arange(len(sizes)) * 7, sizes)
    if shared:
        other = draw(st.lists(st.booleans(), min_size=len(labels), max_size=len(labels)))
        labels = np.where(np.array(other) & (groups % 5 == 0), (labels + 1) % 4, labels)
    return labels.astype(np.int64), groups.astype(np.int64)


@settings(max_examples=60, deadline=None)
@given(cohorts(shared=False), st.integers(2, 5), st.integers(0, 9))
def test_every_class_is_in_every_fold_it_can_be_in(
    cohort: tuple[Integers, Integers], folds: int, seed: int
) -> None:
    labels, groups = cohort
    parts = stratified_grouped_folds(labels, groups, folds, seed)
    assert whole(groups, parts)
    assert set(parts) <= set(range(folds))
    for label in np.unique(labels):
        members = labels == label
        assert len(set(parts[members])) == min(folds, len(np.unique(groups[members])))


@settings(max_examples=60, deadline=None)
@given(cohorts(shared=False), st.integers(0, 9))
def test_every_class_is_in_every_split_it_can_be_in(
    cohort: tuple[Integers, Integers], seed: int
) -> None:
    labels, groups = cohort
    parts = grouped_split(labels, groups, seed=seed)
    assert whole(groups, parts)
    for label in np.unique(labels):
        members = labels == label
        assert len(set(parts[members])) == min(3, len(np.unique(groups[members])))


@settings(max_examples=60, deadline=None)
@given(cohorts(shared=True), st.integers(2, 4), st.randoms(use_true_random=False))
def test_groups_of_several_classes_stay_whole_in_any_order_of_rows(
    cohort: tuple[Integers, Integers], folds: int, random: object
) -> None:
    labels, groups = cohort
    parts = stratified_grouped_folds(labels, groups, folds, 3)
    assert whole(groups, parts)
    order = np.array(sorted(range(len(labels)), key=lambda _: random.random()))  # type: ignore[attr-defined]
    assert np.array_equal(
        stratified_grouped_folds(labels[order], groups[order], folds, 3), parts[order]
    )


def test_a_class_that_shares_its_groups_is_moved_where_it_is_missing() -> None:
    # Class 0 is rarest and its two large groups also hold class 1; class 1 has two more groups.
    groups = np.array([0] * 6 + [1] * 6 + [2, 3] + [4] * 3 + [5] * 3)
    labels = np.array([0, 0, 0, 1, 1, 1] * 2 + [1, 1] + [2] * 6)
    for seed in range(20):
        parts = stratified_grouped_folds(labels, groups, 4, seed)
        assert set(parts[labels == 1]) == {0, 1, 2, 3}


def test_counts_follow_the_fractions() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.geometric(0.4, 600)
    groups, labels = np.repeat(np.arange(600), sizes), np.repeat(rng.integers(0, 5, 600), sizes)
    parts = grouped_split(labels, groups, (0.6, 0.15, 0.25), 1)
    for label in range(5):
        shares = np.bincount(parts[labels == label], minlength=3) / (labels == label).sum()
        assert np.abs(shares - [0.6, 0.15, 0.25]).max() < 0.02


def test_large_patients_are_not_all_in_train() -> None:
    groups = np.repeat(np.arange(300), np.tile([1, 2, 3, 4, 5, 6], 50))
    labels = np.zeros(len(groups), dtype=np.int64)
    parts = grouped_split(labels, groups, (0.7, 0.1, 0.2), 0)
    mean_size = [len(groups[parts == p]) / len(np.unique(groups[parts == p])) for p in range(3)]
    assert min(mean_size) > 0.6 * max(mean_size)


def test_a_part_of_nothing_stays_empty_and_the_seed_matters() -> None:
    groups, labels = np.arange(60), np.arange(60) % 3
    assert set(grouped_split(labels, groups, (0.8, 0.0, 0.2), 0)) == {0, 2}
    one, two = (grouped_split(labels, groups, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one, two)
    assert np.array_equal(one, grouped_split(labels, groups, seed=0))


def test_train_comes_first_when_groups_are_few() -> None:
    assert grouped_split(np.array([0, 0]), np.array([5, 5])).tolist() == [0, 0]
    assert sorted(grouped_split(np.array([0, 0]), np.array([5, 6])).tolist()) == [0, 2]
    assert len(grouped_split(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))) == 0


def test_wrong_arguments() -> None:
    one = np.zeros(1, dtype=np.int64)
    with pytest.raises(ValueError, match="one length"):
        grouped_split(one, np.zeros(2, dtype=np.int64))
    with pytest.raises(ValueError, match="sum 1"):
        grouped_split(one, one, (0.5, 0.1, 0.1))
    with pytest.raises(ValueError, match="2 or more"):
        stratified_grouped_folds(one, one, 1)


@pytest.mark.skipif(not LABELS.is_file(), reason="real labels are not here")
@pytest.mark.parametrize("seed", range(3))
def test_the_real_brain44_labels(seed: int) -> None:
    with LABELS.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == "brain44"]
    labels = np.unique([row["label"] for row in rows], return_inverse=True)[1]
    groups = np.unique([row["group_id"] for row in rows], return_inverse=True)[1]
    assert len(labels) == 3574
    folds = stratified_grouped_folds(labels, groups, 4, seed)
    counts = np.array([np.bincount(labels[folds == fold], minlength=15) for fold in range(4)])
    assert whole(groups, folds)
    assert counts.min() > 0  # Carcinoma lies in four groups
    assert np.abs(counts.sum(axis=1) - 3574 / 4).max() < 30
    splits = grouped_split(labels, groups, seed=seed)
    counts = np.array([np.bincount(labels[splits == part], minlength=15) for part in range(3)])
    assert whole(groups, splits)
    assert counts.min() > 0
    assert np.abs(counts.sum(axis=1) / 3574 - [0.7, 0.1, 0.2]).max() < 0.02
