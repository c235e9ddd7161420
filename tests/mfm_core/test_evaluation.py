"""Figures from histograms equal scikit-learn's; sites add up; intervals are honest by patient."""

import json
import time

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score

from mfm_core.errors import DataError
from mfm_core.evaluation import Metrics, metric_sum, metrics_from
from mfm_core.sums import Accumulator, Sum


def scores(seed: int, images: int = 2000, classes: int = 6, gain: float = 2.0) -> tuple:
    """Return logits and labels; rare classes included, every class a few times at least."""
    draw = np.random.default_rng(seed)
    shares = draw.uniform(0.1, 1.0, classes)
    labels = draw.choice(classes, images, p=shares / shares.sum())
    labels[: 3 * classes] = np.repeat(np.arange(classes), 3)
    logits = draw.normal(size=(images, classes))
    logits[np.arange(images), labels] += gain
    return logits + draw.normal(size=classes), labels


def log_odds(logits: np.ndarray) -> np.ndarray:
    rest = [logsumexp(np.delete(logits, k, axis=1), axis=1) for k in range(logits.shape[1])]
    return logits - np.stack(rest, axis=1)


def alone(logits: np.ndarray, labels: np.ndarray, replicates: int = 0, seed: int = 0) -> Sum:
    count = len(labels)
    return metric_sum(logits, labels, np.full(count, 0.5), np.arange(count), replicates, seed)


def figures(total: Sum, classes: int) -> Metrics:
    return metrics_from(total, tuple(f"class {k}" for k in range(classes)))


@pytest.mark.parametrize("gain", [0.0, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("scale", [0.02, 0.3, 1.0, 10.0, 100.0])
def test_auc_and_ap_equal_the_exact_ones(gain: float, scale: float) -> None:
    logits, labels = scores(1, gain=gain)
    logits = logits * scale
    found, exact = figures(alone(logits, labels), 6), log_odds(logits)
    areas = [roc_auc_score(labels == k, exact[:, k]) for k in range(6)]
    precisions = [average_precision_score(labels == k, exact[:, k]) for k in range(6)]
    for k, row in enumerate(found.per_class):
        assert row.auc.value == pytest.approx(areas[k], abs=1e-3)
        assert row.ap.value == pytest.approx(precisions[k], abs=5e-3)
    assert found.macro_auc.value == pytest.approx(np.mean(areas), abs=1e-3)
    assert found.macro_ap.value == pytest.approx(np.mean(precisions), abs=5e-3)


def test_f1_rate_accuracy_and_ssim_equal_the_exact_ones() -> None:
    logits, labels = scores(2)
    ssim = np.random.default_rng(0).uniform(-0.2, 1.0, len(labels))
    found = figures(metric_sum(logits, labels, ssim, np.arange(len(labels)), 0, 0), 6)
    guess = logits.argmax(axis=1)
    for k, row in enumerate(found.per_class):
        assert row.f1.value == pytest.approx(f1_score(labels == k, guess == k), abs=1e-6)
        assert row.rate == pytest.approx((labels == k).mean(), abs=1e-6)
        assert row.n == row.auc.n == (labels == k).sum()
    assert found.macro_f1.value == pytest.approx(f1_score(labels, guess, average="macro"), abs=1e-6)
    assert found.accuracy.value == pytest.approx(accuracy_score(labels, guess), abs=1e-6)
    assert found.ssim.value == pytest.approx(ssim.mean(), abs=1e-6)
    assert found.ssim.n == found.macro_auc.n == len(labels)


def test_two_classes_and_equal_scores_are_handled_as_ties() -> None:
    logits, labels = np.zeros((10, 2)), np.arange(10) % 2
    found = figures(alone(logits, labels), 2)
    assert found.macro_auc.value == 0.5
    assert found.macro_ap.value == 0.5
    perfect = figures(alone(np.eye(2)[labels], labels), 2)
    assert perfect.macro_auc.value == perfect.macro_ap.value == perfect.macro_f1.value == 1.0
    wrong = figures(alone(np.eye(2)[1 - labels], labels), 2)
    assert wrong.macro_auc.value == wrong.accuracy.value == 0.0


def test_merged_sites_give_exactly_the_pooled_figures() -> None:
    logits, labels = scores(3, images=900)
    draw = np.random.default_rng(0)
    ssim, home = draw.uniform(size=900), draw.integers(0, 3, 900)
    who = np.arange(900)
    parts = [
        metric_sum(logits[home == s], labels[home == s], ssim[home == s], who[home == s], 0, s)
        for s in range(3)
    ]
    pooled = metric_sum(logits, labels, ssim, who, 0, 0)
    merged = parts[0].merge(parts[1]).merge(parts[2])
    for name in ("histogram", "confusion"):
        np.testing.assert_array_equal(merged[name], pooled[name])
    assert figures(merged, 6) == figures(pooled, 6)
    accumulator = Accumulator(merged.flatten().size)
    for index in (2, 0, 1):
        accumulator.add(parts[index].flatten())
    fixed = Sum.unflatten(merged.schema, accumulator.result())
    assert figures(fixed, 6) == figures(pooled, 6)


def test_replicates_of_sites_add_and_change_no_value() -> None:
    logits, labels = scores(4, images=600)
    first = alone(logits[:300], labels[:300], replicates=50, seed=1)
    second = alone(logits[300:], labels[300:], replicates=50, seed=2)
    merged, pooled = figures(first.merge(second), 6), figures(alone(logits, labels, 50, 3), 6)
    assert merged.macro_auc.value == pooled.macro_auc.value
    for one, other in ((merged.macro_auc, pooled.macro_auc), (merged.accuracy, pooled.accuracy)):
        assert one.low < one.value < one.high
        assert one.high - one.low == pytest.approx(other.high - other.low, rel=0.6)


def test_replicates_are_poisson_weights_of_whole_patients() -> None:
    logits, labels = np.random.default_rng(0).normal(size=(12, 3)), np.arange(12) % 3
    who = np.repeat([7, 11, 13, 17], 3)
    total = metric_sum(logits, labels, np.ones(12), who, 2000, 5)
    weights = total["replicate.confusion"].sum(axis=(1, 2))
    np.testing.assert_array_equal(weights % 3, 0)
    assert (weights / 3).mean() == pytest.approx(4.0, abs=0.2)
    assert (weights / 3).var() == pytest.approx(4.0, abs=0.5)
    np.testing.assert_array_equal(total["replicate.ssim"][:, 0], weights)
    histogram = total["replicate.histogram"]
    np.testing.assert_array_equal(histogram.sum(axis=(2, 3)), np.repeat(weights[:, None], 3, 1))


def test_intervals_lie_around_the_fine_value_where_the_coarse_bins_are_wide() -> None:
    logits, labels = scores(15, images=3000, classes=2, gain=1.2)
    logits = logits * 0.5 + np.array([0.0, 20.0])
    total = alone(logits, labels, 200)
    found = figures(total, 2)
    coarse = total["histogram"].reshape(2, 2, 128, -1).sum(axis=-1).repeat(32, axis=-1) / 32
    blurred = Sum({"histogram": coarse, "confusion": total["confusion"], "ssim": total["ssim"]})
    estimate, width = found.macro_auc, found.macro_auc.high - found.macro_auc.low
    assert abs(figures(blurred, 2).macro_auc.value - estimate.value) > 0.5 * width
    assert (estimate.low + estimate.high) / 2 == pytest.approx(estimate.value, abs=0.25 * width)


def test_draws_follow_the_seed() -> None:
    logits, labels = scores(5, images=200)
    one, same, other = (alone(logits, labels, 20, seed).flatten() for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def clustered(seed: int, people: int, each: int) -> tuple:
    """Return images of patients whose difficulty is their own: images of one are alike."""
    draw = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), each)
    labels = draw.integers(0, 3, people)[who]
    logits = draw.normal(size=(people, 3))[who] + 0.3 * draw.normal(size=(len(who), 3))
    logits[np.arange(len(who)), labels] += 1.5
    return logits, labels, who


def test_correlated_images_of_a_patient_widen_the_interval() -> None:
    logits, labels, who = clustered(6, 80, 5)
    ssim = np.zeros(len(who))
    by_patient = figures(metric_sum(logits, labels, ssim, who, 300, 1), 3)
    by_image = figures(metric_sum(logits, labels, ssim, np.arange(len(who)), 300, 1), 3)
    for name in ("macro_auc", "macro_ap", "macro_f1", "accuracy"):
        patient, image = getattr(by_patient, name), getattr(by_image, name)
        assert patient.value == image.value
        assert patient.high - patient.low > 1.5 * (image.high - image.low)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    logits, labels, who = clustered(0, 40_000, 1)
    truth = figures(alone(logits, labels), 3)
    hits = {"macro_auc": 0, "macro_f1": 0, "accuracy": 0}
    for seed in range(60):
        logits, labels, who = clustered(seed + 1, 120, 3)
        ssim = np.zeros(len(who))
        found = figures(metric_sum(logits, labels, ssim, who, 200, seed), 3)
        for name in hits:
            estimate = getattr(found, name)
            hits[name] += estimate.low <= getattr(truth, name).value <= estimate.high
    assert all(50 <= count <= 60 for count in hits.values()), hits


def test_without_replicates_there_are_values_and_no_intervals() -> None:
    content = figures(alone(*scores(7)), 6).to_dict()
    for estimate in (content["macro_auc"], content["ssim"], content["per_class"][0]["ap"]):
        assert estimate["value"] is not None
        assert estimate["low"] is estimate["high"] is None


def test_absent_classes_are_none_and_leave_the_macro_alone() -> None:
    logits, labels = scores(8, classes=3)
    logits = np.insert(logits, 1, np.random.default_rng(0).normal(size=len(labels)), axis=1)
    labels = np.where(labels > 0, labels + 1, 0)
    found = figures(alone(logits, labels, 30), 4)
    assert (logits.argmax(axis=1) == 1).any()
    assert found.per_class[1].auc.value is found.per_class[1].f1.value is None
    assert (found.per_class[1].n, found.per_class[1].rate) == (0, 0.0)
    kept = [row.auc.value for row in found.per_class if row.n]
    assert found.macro_auc.value == pytest.approx(np.mean(kept), abs=1e-6)
    scores_f1 = [row.f1.value for row in found.per_class if row.n]
    assert found.macro_f1.value == pytest.approx(np.mean(scores_f1), abs=1e-6)
    assert found.macro_auc.low < found.macro_auc.value < found.macro_auc.high


def test_a_class_of_one_patient_gets_a_value_and_no_crash() -> None:
    logits, labels = scores(9, images=100, classes=3)
    labels = np.where(labels == 2, 0, labels)
    labels[0] = 2
    row = figures(alone(logits, labels, 100), 3).per_class[2]
    assert row.n == 1
    assert 0 <= row.auc.low <= row.auc.high <= 1


def test_a_site_without_images_adds_nothing() -> None:
    logits, labels = scores(10, images=100)
    empty, full = alone(logits[:0], labels[:0], 10), alone(logits, labels, 10)
    assert empty.schema == full.schema
    assert not empty.flatten().any()
    nothing = figures(empty, 6)
    assert nothing.macro_auc.value is nothing.accuracy.value is nothing.ssim.value is None
    assert nothing.per_class[0].rate is None


def test_unlabelled_images_count_for_ssim_only() -> None:
    logits, labels = scores(11, images=100)
    hidden = np.where(np.arange(100) < 60, labels, -1)
    ssim = np.linspace(0, 1, 100)
    found = figures(metric_sum(logits, hidden, ssim, np.arange(100), 20, 0), 6)
    kept = figures(alone(logits[:60], labels[:60]), 6)
    assert found.macro_auc.value == kept.macro_auc.value
    assert (found.accuracy.n, found.ssim.n) == (60, 100)
    assert found.ssim.value == pytest.approx(0.5)


def test_dictionary_is_strict_json_with_the_agreed_names() -> None:
    logits, labels = scores(12, images=60, classes=3)
    content = figures(alone(logits, np.minimum(labels, 1), 20), 3).to_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content | {
        "per_class": list(content["per_class"])
    }
    assert set(content) == {
        "macro_auc", "macro_ap", "macro_f1", "accuracy", "ssim", "per_class"
    }  # fmt: skip
    assert set(content["macro_auc"]) == {"value", "low", "high", "n"}
    row = content["per_class"][0]
    assert set(row) == {"class", "auc", "ap", "f1", "rate", "n"}
    assert row["class"] == "class 0"


@pytest.mark.parametrize("broken", ["logits", "ssim", "labels"])
def test_unusable_scores_are_refused(broken: str) -> None:
    logits, labels = scores(13, images=50)
    ssim = np.zeros(50)
    if broken == "logits":
        logits[3, 2] = np.nan
    elif broken == "ssim":
        ssim[4] = np.inf
    else:
        labels[5] = 6
    with pytest.raises(DataError, match="1 problem\n"):
        metric_sum(logits, labels, ssim, np.arange(50), 0, 0)
    with pytest.raises(DataError, match="expected logits"):
        metric_sum(logits, labels[:-1], ssim, np.arange(50), 0, 0)


def test_the_size_stays_moderate_and_the_work_quick() -> None:
    logits, labels = scores(14, images=3500, classes=15)
    start = time.process_time()  # not the clock: others may hold the machine
    total = metric_sum(logits, labels, np.zeros(3500), np.arange(3500) // 2, 200, 0)
    figures(total, 15)
    assert total.flatten().size < 1_500_000
    assert time.process_time() - start < 5.0


def test_a_rare_hard_class_does_not_lift_the_macro_interval():
    labels = np.array([0] * 40 + [1] * 40 + [2])
    logits = np.zeros((81, 3))
    logits[np.arange(80), labels[:80]] = 8.0
    logits[80, 2] = -20.0
    total = metric_sum(logits, labels, np.ones(81), np.arange(81), 200, 0)
    macro = metrics_from(total, ("a", "b", "c")).macro_auc
    assert macro.value == pytest.approx(2 / 3, abs=0.02)
    assert macro.high is not None and macro.high < 0.72
