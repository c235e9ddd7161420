from __future__ import annotations

import json

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame, equalized_odds_difference, true_positive_rate
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from mfm_core.subgroups import score_bins, subgroup_figures
from tests.mfm_core.test_subgroups import ATTRIBUTES, POINTS, Cohort, pick, small_cell_cohort


def test_figures_agree_with_sklearn_and_fairlearn():
    cohort = Cohort(bias=1.0, skew=0.3)
    rows, decided = cohort.rows(), cohort.logits.argmax(axis=1)
    odds = cohort.logits - np.log(
        np.exp(cohort.logits).sum(axis=1, keepdims=True) - np.exp(cohort.logits)
    )
    for column, (name, values) in enumerate(ATTRIBUTES.items()):
        group = cohort.attributes[:, column]
        for k, label in enumerate(cohort.ontology.classes):
            true, said = cohort.labels == k, decided == k
            frame = MetricFrame(
                metrics=true_positive_rate, y_true=true, y_pred=said, sensitive_features=group
            )
            for v, value in enumerate(values):
                row, mine = pick(rows, "value", name, value, label), group == v
                exact = roc_auc_score(true[mine], odds[mine, k])
                assert row["auc"]["value"] == pytest.approx(exact, abs=2e-3)
                assert row["sensitivity"]["value"] == pytest.approx(frame.by_group[v], abs=1e-6)
                assert row["prevalence"] == pytest.approx(true[mine].mean(), abs=1e-6)
                assert row["n"] == (mine & true).sum()
            gap = pick(rows, "gap", name, label)["raw"]
            odds_gap = equalized_odds_difference(true, said, sensitive_features=group)
            assert gap["equalised_odds"]["value"] == pytest.approx(odds_gap, abs=1e-6)
            assert gap["sensitivity"]["value"] == pytest.approx(frame.difference(), abs=1e-6)


def test_calibration_agrees_with_its_definition():
    cohort = Cohort(n=1500, bias=0.5)
    rows, probability = cohort.rows(), softmax(cohort.logits, axis=1)
    mine = cohort.attributes[:, 1] == 1
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == cohort.labels

    def error(p, hit):
        level = np.minimum((p * 10).astype(int), 9)
        return np.abs(np.bincount(level, p - hit, 10)).sum() / len(p)

    whole = pick(rows, "value", "sex", "M", None)
    assert whole["calibration_error"]["value"] == pytest.approx(
        error(confidence[mine], right[mine]), abs=1e-3
    )
    gap = (confidence[mine] - right[mine]).mean()
    assert whole["over_confidence"]["value"] == pytest.approx(gap, abs=1e-3)
    for k, label in enumerate(cohort.ontology.classes):
        row = pick(rows, "value", "sex", "M", label)
        exact = error(probability[mine, k], cohort.labels[mine] == k)
        assert row["calibration_error"]["value"] == pytest.approx(exact, abs=5e-3)
        excess = (probability[mine, k] - (cohort.labels[mine] == k)).mean()
        assert row["over_confidence"]["value"] == pytest.approx(excess, abs=1e-3)


def test_fifteen_classes_keep_the_auc_within_bin_resolution():
    cohort = Cohort(n=3000, classes=15)
    assert score_bins(cohort.ontology) == (96, 8)
    row = pick(cohort.rows(), "value", "view", "PA", "c4")
    mine, log_sum = cohort.attributes[:, 0] == 1, np.exp(cohort.logits)
    odds = cohort.logits[:, 4] - np.log(log_sum.sum(axis=1) - log_sum[:, 4])
    exact = roc_auc_score(cohort.labels[mine] == 4, odds[mine])
    assert row["auc"]["value"] == pytest.approx(exact, abs=0.01)


def test_figures_hide_small_pooled_cells_too():
    cohort = small_cell_cohort()
    open_rows = cohort.rows(smallest=1)
    rows = subgroup_figures(cohort.sum(smallest=1), cohort.ontology, 10)
    assert pick(open_rows, "value", "view", "AP", "c0")["n"] > 0
    row = pick(rows, "value", "view", "AP", "c0")
    assert row["n"] == row["patients"] == 0 and row["sensitivity"]["value"] is None
    assert "too few patients" in row["reason"]
    assert pick(rows, "gap", "view", "c0")["raw"]["sensitivity"]["value"] is None


def test_matching_takes_a_shift_of_prevalence_out_of_the_gap():
    cohort = Cohort(n=20_000, classes=3, skew=0.8, seed=6)
    cohort.logits[:, 1] += 1.2 * (cohort.labels == 0)  # c0 is mistaken for c1 in every group
    row = pick(cohort.rows(), "gap", "view", "c1")
    assert row["raw"]["specificity"]["low"] > 0.03
    assert row["matched"]["specificity"]["value"] < 0.03
    assert row["matched"]["specificity"]["low"] == 0.0
    assert row["raw"]["auc"]["value"] > 3 * row["matched"]["auc"]["value"]
    whole = pick(cohort.rows(), "gap", "view", None)
    assert whole["raw"]["accuracy"]["low"] > 0.04
    assert whole["matched"]["accuracy"]["value"] < 0.01


def test_matching_leaves_a_true_gap_in_place():
    row = pick(Cohort(n=6000, bias=1.0, skew=0.6).rows(), "gap", "view", "c2")
    assert row["matched"]["auc"]["low"] > 0.05


def test_matching_equals_weighting_the_images():
    cohort = Cohort(n=900, bias=0.7, skew=0.5)
    view, rows = cohort.attributes[:, 0], cohort.rows()
    share = np.bincount(cohort.labels, minlength=3)
    weight = np.empty(len(view))
    for v in (0, 1):
        mine = view == v
        weight[mine] = (share / np.bincount(cohort.labels[mine], minlength=3))[cohort.labels[mine]]
    decided = cohort.logits.argmax(axis=1)
    rates = []
    for v in (0, 1):
        rest = (view == v) & (cohort.labels != 0)
        rates.append(np.average(decided[rest] != 0, weights=weight[rest]))
    gap = pick(rows, "gap", "view", "c0")["matched"]["specificity"]["value"]
    assert gap == pytest.approx(abs(rates[0] - rates[1]), abs=1e-6)


def test_with_two_classes_matching_changes_no_rank():
    for label in ("c0", "c1"):
        row = pick(Cohort(classes=2, skew=0.5, bias=0.5).rows(), "gap", "view", label)
        for name in ("auc", "sensitivity", "specificity", "equalised_odds"):
            raw, matched = row["raw"][name]["value"], row["matched"][name]["value"]
            assert raw == pytest.approx(matched, abs=1e-6)


def one_sided(cohort: Cohort) -> None:
    cohort.attributes[:, 0] = 0


def absent_class(cohort: Cohort) -> None:
    cohort.attributes[cohort.labels == 2, 0] = 1


def one_class_each(cohort: Cohort) -> None:
    cohort.attributes[:, 0] = cohort.labels == 2
    cohort.attributes[cohort.labels == 1, 0] = -1


def all_unknown(cohort: Cohort) -> None:
    cohort.attributes[:] = -1


def unlabelled(cohort: Cohort) -> None:
    cohort.labels[:] = -1


@pytest.mark.parametrize(
    "change", [one_sided, absent_class, one_class_each, all_unknown, unlabelled]
)
@pytest.mark.parametrize("smallest", [1, 10, 10_000])
def test_odd_groups_give_none_with_a_reason(change, smallest):
    cohort = Cohort(n=200)
    change(cohort)
    rows = cohort.rows(smallest=smallest)
    assert len(rows) == (7 + 3) * (3 + 1)
    json.dumps(rows, allow_nan=False)
    for row in rows:
        figures = [row[n]["value"] for n in POINTS if n in row]
        figures += [gap["value"] for p in ("raw", "matched") for gap in row.get(p, {}).values()]
        assert (None not in figures) or row["reason"], row
    if smallest > 1000:
        assert all(row["reason"] for row in rows)


def test_one_sided_and_absent_are_told_apart():
    cohort = Cohort(n=400)
    one_sided(cohort)
    rows = cohort.rows()
    assert "a gap needs two" in pick(rows, "gap", "view", "c0")["reason"]
    assert pick(rows, "value", "view", "PA", "c0")["reason"] == "no test image of it"
    other = Cohort(n=400)
    absent_class(other)
    gap = pick(other.rows(), "gap", "view", "c0")
    assert gap["reason"] is None and gap["matched"]["auc"]["value"] is not None
    assert "not matched" in pick(other.rows(), "gap", "view", "c2")["reason"] or (
        "fewer than two" in pick(other.rows(), "gap", "view", "c2")["reason"]
    )


def coverage(runs: int, people: int, classes: int) -> dict[str, float]:
    """Return how often 95 % intervals hold the figures of a very large cohort."""
    truth = Cohort(n=60_000, classes=classes, bias=0.7, skew=0.2, seed=999).rows()
    names = ("auc", "sensitivity", "specificity")
    hits = {name: [] for name in (*names, "accuracy", "gap", "matched", "equalised_odds")}
    for seed in range(runs):
        rows = Cohort(n=people, classes=classes, bias=0.7, skew=0.2, seed=seed).rows(seed=seed)
        for real, row in zip(truth, rows, strict=True):
            if row["attribute"] != "view":
                continue
            if row["kind"] == "value":
                pairs = [(n, real[n], row[n]) for n in (*names, "accuracy") if n in row]
            else:
                pairs = [("gap", real["raw"]["auc"], row["raw"]["auc"])]
                pairs += [("matched", real["matched"]["auc"], row["matched"]["auc"])]
                if row["class"] is not None:
                    both = (real["raw"]["equalised_odds"], row["raw"]["equalised_odds"])
                    pairs += [("equalised_odds", *both)]
            for name, exact, found in pairs:
                hits[name].append(found["low"] <= exact["value"] <= found["high"])
    return {name: float(np.mean(held)) for name, held in hits.items()}


def test_intervals_cover_the_truth():
    for name, share in coverage(runs=60, people=400, classes=3).items():
        assert share >= 0.90, (name, share)


@pytest.mark.slow
@pytest.mark.parametrize(("people", "classes"), [(300, 2), (600, 5), (1500, 15)])
def test_intervals_cover_the_truth_at_other_sizes(people, classes):
    for name, share in coverage(runs=150, people=people, classes=classes).items():
        assert share >= 0.90, (name, share)
