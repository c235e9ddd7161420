import numpy as np
import pytest
from scipy.stats import binomtest, norm

from mfm_core.config import OntologyConfig
from mfm_core.metric_table import (
    METHOD_NAMES,
    OWN_METHOD,
    PLACE_METHOD,
    Metric,
    figure_of,
    metrics_of,
)

ONTOLOGY = OntologyConfig(classes=("a", "b"), attributes={"view": ("AP", "PA"), "sex": ("F", "M")})
MEAN = Metric("m", 0, 1, 201, "mean", 0.5)
MEDIAN = Metric("m", 0, 1, 101, "median", 0.5)
SHARE = Metric("m", 0, 1, 2, "share", 0.9)


def histogram(metric, values):
    return np.bincount(metric.place(np.asarray(values)), minlength=metric.points).astype(float)


def test_names_are_unique_and_hold_attributes_and_methods():
    names = [metric.name for metric in metrics_of(ONTOLOGY)]
    assert len(set(names)) == len(names)
    assert {f"iou.{name}" for name in METHOD_NAMES} <= set(names)
    assert {"collateral.view", "collateral.sex"} <= set(names)
    assert f"iou_gain.{PLACE_METHOD}" not in names
    assert {f"iou_gain.{OWN_METHOD}", "iou_gain.grad_cam"} <= set(names)
    assert all(metric.grid[0] == metric.low for metric in metrics_of(ONTOLOGY))


def test_values_go_to_the_nearest_point_and_outside_to_the_ends():
    assert MEAN.place(np.array([0.0, 0.0024, 0.0026, 1.0, 7.0, -3.0])).tolist() == [
        0, 0, 1, 200, 200, 0,
    ]  # fmt: skip


def test_spearman_of_eleven_steps_is_kept_exactly():
    (metric,) = (m for m in metrics_of(ONTOLOGY) if m.name == "spearman")
    rng = np.random.default_rng(0)
    orders = np.array([rng.permutation(11) for _ in range(200)])
    exact = 1 - 6 * ((orders - np.arange(11)) ** 2).sum(axis=1) / (11 * 120)
    assert np.allclose(metric.grid[metric.place(exact)], exact)


def test_figures_are_those_of_the_values_up_to_the_grid():
    values = np.random.default_rng(1).beta(2, 5, 200)
    mean, median = figure_of(MEAN, histogram(MEAN, values)), figure_of(
        MEDIAN, histogram(MEDIAN, values)
    )  # fmt: skip
    assert mean.value == pytest.approx(values.mean(), abs=1e-3)
    assert median.value == pytest.approx(np.median(values), abs=0.005)
    assert mean.n == median.n == 200 and mean.met is False
    half = norm.ppf(0.975) * values.std() / np.sqrt(200)
    assert mean.high - mean.low == pytest.approx(2 * half, rel=0.15)


@pytest.mark.parametrize(("hits", "n"), [(0, 9), (3, 12), (12, 12), (40, 90)])
def test_a_share_has_wilsons_interval(hits, n):
    found = figure_of(SHARE, np.array([n - hits, hits], dtype=float))
    wanted = binomtest(hits, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-6)
    assert found.met is (hits / n >= 0.9)


@pytest.mark.parametrize("n", [6, 13, 30, 60])
def test_the_interval_of_a_median_covers_it_in_at_least_95_of_100(n):
    rng = np.random.default_rng(n)
    metric = Metric("m", -5, 5, 20001, "median")
    covered = 0
    for _ in range(400):
        found = figure_of(metric, histogram(metric, rng.normal(0.7, 1, n)))
        covered += found.low <= 0.7 <= found.high
    assert covered >= 0.92 * 400


def test_few_values_give_no_interval_and_none_give_nothing():
    five = figure_of(MEDIAN, histogram(MEDIAN, [0.1, 0.2, 0.3, 0.4, 0.5]))
    assert five.value == 0.3 and five.low is None and five.met is False
    assert figure_of(MEAN, histogram(MEAN, [0.2, 0.3])).high is None
    none = figure_of(MEAN, np.zeros(201))
    assert (none.value, none.low, none.n, none.met) == (None, None, 0, None)


def test_a_goal_below_is_met_from_below_and_a_difference_needs_its_whole_interval():
    cycle = Metric("m", 0, 2, 201, "median", 0.15, at_most=True)
    assert figure_of(cycle, histogram(cycle, [0.1] * 8)).met is True
    assert figure_of(cycle, histogram(cycle, [0.2] * 8)).met is False
    gain = Metric("m", -1, 1, 201, "mean", 0.0, paired=True)
    assert figure_of(gain, histogram(gain, [0.1, 0.2, 0.1, 0.15, 0.2, 0.3])).met is True
    assert figure_of(gain, histogram(gain, [0.6, 0.2, -0.3, 0.15, -0.2, -0.1])).met is False
    assert figure_of(gain, histogram(gain, [0.1])).met is None


def test_the_bootstrap_is_the_same_for_the_same_seed():
    counts = histogram(MEAN, np.random.default_rng(3).random(40))
    assert figure_of(MEAN, counts, 1) == figure_of(MEAN, counts, 1)
    assert figure_of(MEAN, counts, 1) != figure_of(MEAN, counts, 2)
