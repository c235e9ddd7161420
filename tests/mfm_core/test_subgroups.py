from __future__ import annotations

import numpy as np
import pytest

from mfm_core.config import OntologyConfig
from mfm_core.errors import DataError
from mfm_core.subgroups import empty_subgroup_sum, subgroup_figures, subgroup_sum
from mfm_core.sums import Sum

ATTRIBUTES = {"view": ("AP", "PA"), "sex": ("F", "M"), "age": ("18-39", "40-64", "65+")}
POINTS = ("auc", "sensitivity", "specificity", "calibration_error", "over_confidence", "accuracy")


def ontology(classes: int = 3, attributes: dict | None = None) -> OntologyConfig:
    names = tuple(f"c{k}" for k in range(classes))
    return OntologyConfig(
        classes=names, attributes=ATTRIBUTES if attributes is None else attributes
    )


class Cohort:
    """Invented scores of one site; view AP (0) is harder by `bias`."""

    def __init__(self, n=600, classes=3, seed=0, bias=0.0, skew=0.0):
        rng = np.random.default_rng(seed)
        self.ontology = ontology(classes)
        view = rng.integers(0, 2, n)
        ill = rng.random(n) < skew
        self.labels = np.where(ill & (view == 0), classes - 1, rng.integers(0, classes, n))
        sex, age = rng.integers(0, 2, n), rng.integers(0, 3, n)
        self.attributes = np.stack([view, sex, age], axis=1)
        pull = np.where(view == 0, 1.5 - bias, 1.5)[:, None]
        self.logits = rng.normal(size=(n, classes)) + pull * np.eye(classes)[self.labels]
        self.patients = np.arange(n) // 2

    def sum(self, rows=slice(None), smallest=1, seed=0) -> Sum:
        return subgroup_sum(
            self.logits[rows],
            self.labels[rows],
            self.attributes[rows],
            self.patients[rows],
            self.ontology,
            smallest=smallest,
            seed=seed,
        )

    def rows(self, smallest=1, **options) -> list[dict]:
        return subgroup_figures(self.sum(smallest=smallest, **options), self.ontology, smallest)


def pick(rows, kind, attribute, value_or_class, label="same"):
    if kind == "gap":
        found = [r for r in rows if r["class"] == value_or_class]
    else:
        found = [r for r in rows if r.get("value") == value_or_class and r["class"] == label]
    (row,) = [r for r in found if (r["kind"], r["attribute"]) == (kind, attribute)]
    return row


def points(rows):
    """Return every point figure of a table, without intervals."""
    kept = []
    for row in rows:
        raw, matched = row.get("raw", row), row.get("matched", {})
        names = (*POINTS, "equalised_odds", "prevalence", "n", "patients", "reason")
        for part in (raw, matched):
            kept += [
                part[n]["value"] if isinstance(part[n], dict) else part[n]
                for n in names
                if n in part
            ]
    return kept


def test_merged_sites_give_exactly_the_pooled_figures():
    cohort = Cohort(bias=0.8)
    site = cohort.patients % 3
    parts = [cohort.sum(site == s, seed=100 + s) for s in range(3)]
    merged = parts[2].merge(parts[0]).merge(parts[1])
    pooled = cohort.sum(seed=7)
    federated = subgroup_figures(merged, cohort.ontology, 1)
    assert points(federated) == points(subgroup_figures(pooled, cohort.ontology, 1))
    np.testing.assert_array_equal(merged["scores"], pooled["scores"])


def test_the_total_is_the_sum_of_the_groups():
    total = Cohort().sum()
    fine, coarse = total["scores"], total["group.scores"]
    grouped = fine.reshape(*fine.shape[:3], coarse.shape[-1], -1).sum(axis=-1)
    np.testing.assert_array_equal(coarse.sum(axis=0), grouped)
    per_cell = total["group.decisions"].sum(axis=(0, 3))
    np.testing.assert_array_equal(per_cell, fine.sum(axis=-1)[:, 0])


def test_a_group_says_nothing_that_links_a_patients_numbers():
    total = Cohort().sum(seed=3)
    by_class = total["group.scores"].sum(axis=(1, 4))  # group, score of class, true class
    assert not np.array_equal(by_class[:, 0], by_class[:, 1])
    sizes = total["group.decisions"][:, :2].sum(axis=(1, 2, 3))
    assert sizes.min() >= 2 * (300 // 20) and sizes.max() <= 2 * (300 // 20 + 1)


def test_groups_of_one_attribute_say_nothing_of_another():
    """Were a group the same patients in each attribute, its margins over the values would agree."""
    total = Cohort().sum(seed=3)
    for name in ("group.scores", "group.decisions", "group.excess"):
        view, sex = (total[name][:, rows].sum(axis=1) for rows in (slice(0, 2), slice(2, 4)))
        assert np.allclose(view.sum(axis=0), sex.sum(axis=0))
        same = (np.abs(view - sex).reshape(20, -1).max(axis=1) < 1e-9).sum()
        assert same == 0, name


def test_no_confidence_leaves_with_more_than_two_digits():
    hundredths = Cohort().sum()["group.excess"] * 100
    assert np.allclose(hundredths, np.rint(hundredths), atol=1e-6)


def test_intervals_follow_the_seed_and_figures_do_not():
    cohort = Cohort()
    first, again, other = (cohort.rows(seed=s) for s in (1, 1, 2))
    assert first == again and first != other
    assert points(first) == points(other)


@pytest.mark.parametrize(("classes", "limit"), [(2, 2e6), (5, 2e6), (15, 4e6)])
def test_the_message_stays_small(classes, limit):
    assert empty_subgroup_sum(ontology(classes)).flatten().nbytes <= limit


@pytest.mark.parametrize("classes", [2, 3, 9])
def test_schema_follows_from_the_ontology_alone(classes):
    cohort = Cohort(n=90, classes=classes)
    empty = empty_subgroup_sum(cohort.ontology)
    assert empty.schema == cohort.sum().schema == cohort.sum(slice(0, 0)).schema
    assert not empty.flatten().any()


def small_cell_cohort() -> Cohort:
    """Return a cohort whose cell (AP, c0) has 4 patients and (PA, c0) many."""
    cohort = Cohort(n=800, seed=4)
    mine = np.flatnonzero((cohort.labels == 0) & (cohort.attributes[:, 0] == 0))
    few = np.unique(cohort.patients[mine])[:4]
    cohort.attributes[mine, 0] = np.where(np.isin(cohort.patients[mine], few), 0, 1)
    return cohort


def test_small_cells_do_not_leave():
    cohort = small_cell_cohort()
    total = cohort.sum(smallest=10)
    shown = total["patients"]
    assert ((shown == 0) | (shown >= 10)).all()
    assert total["suppressed"][0, 0] == 1
    hidden = np.argwhere(shown == 0)
    for value, label in hidden:
        assert not total["scores"][value, :, label].any()
        for name in ("group.scores", "group.decisions", "group.excess"):
            cells = total[name][:, value, :, label] if name == "group.scores" else total[name]
            cells = cells if name == "group.scores" else cells[:, value, label]
            assert not cells.any()


def test_the_rest_of_a_class_hides_a_small_cell_from_subtraction():
    cohort = small_cell_cohort()
    total = cohort.sum(smallest=10)
    assert total["suppressed"][1, 0] == 1, "PA of c0 would give AP of c0 away"
    assert total["suppressed"][:2, 1:].sum() == 0
    for place, column in ((slice(0, 2), 0), (slice(2, 4), 1), (slice(4, 7), 2)):
        for k in range(3):
            shown = np.flatnonzero(total["patients"][place][:, k])
            mine = cohort.labels == k
            unseen = mine & ~np.isin(cohort.attributes[:, column], shown)
            assert len(np.unique(cohort.patients[unseen])) not in range(1, 10)


def test_a_few_patients_without_the_attribute_are_not_found_by_subtraction():
    cohort = Cohort(n=800, seed=5)
    mine = np.flatnonzero(cohort.labels == 1)[:3]
    cohort.attributes[mine, 1] = -1
    total = cohort.sum(smallest=10)
    assert total["suppressed"][2:4, 1].sum() == 1
    assert total["suppressed"][[0, 1, 4, 5, 6]].sum() == 0


def test_an_ontology_without_attributes_has_no_rows():
    plain = ontology(attributes={})
    empty = empty_subgroup_sum(plain)
    nobody = np.zeros(0, dtype=np.int64)
    found = subgroup_sum(
        np.zeros((2, 3)), np.zeros(2, int), np.zeros((2, 0), int), np.arange(2), plain,
        smallest=1, seed=0,
    )  # fmt: skip
    assert found.schema == empty.schema and nobody.size == 0
    assert subgroup_figures(found, plain, 1) == []


def test_unusable_input_is_refused_with_all_its_problems():
    cohort = Cohort(n=20)
    cohort.logits[3, 1] = np.nan
    cohort.labels[0] = 9
    cohort.attributes[0, 2] = 5
    with pytest.raises(DataError) as caught:
        cohort.sum()
    assert len(caught.value.problems) == 3
    with pytest.raises(DataError, match=r"expected logits"):
        subgroup_sum(
            cohort.logits, cohort.labels[:5], cohort.attributes, cohort.patients,
            cohort.ontology, smallest=1, seed=0,
        )  # fmt: skip
