import math

import numpy as np
import pytest

from mfm_core.intervals import (
    GROUPS,
    Measured,
    estimate_of,
    gap_of,
    jackknife_variance,
    quantile,
    share_interval,
    wilson,
    worst_of,
)


def share(value: float, patients: float = 100.0, variance: float | None = None) -> Measured:
    spread = value * (1 - value) / patients if variance is None else variance
    return Measured(value, spread, patients, int(patients))


def groups_of(rng: np.random.Generator, people: int) -> np.ndarray:
    return rng.permutation(people) % GROUPS


def without_each(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return np.array([values[groups != g].mean() for g in range(GROUPS)])


def test_jackknife_variance_is_that_of_a_mean():
    rng, found = np.random.default_rng(0), []
    for _ in range(300):
        values = rng.normal(size=200)
        found.append(jackknife_variance(without_each(values, groups_of(rng, 200))))
    assert np.mean(found) == pytest.approx(1 / 200, rel=0.08)


def test_images_of_one_patient_are_not_taken_for_independent_ones():
    rng, naive, found = np.random.default_rng(1), [], []
    for _ in range(100):
        person = np.repeat(rng.normal(size=100), 4)
        groups = np.repeat(groups_of(rng, 100), 4)
        found.append(jackknife_variance(without_each(person, groups)))
        naive.append(person.var() / 400)
    assert np.mean(found) > 3 * np.mean(naive)


def test_wilson_agrees_with_the_known_formula():
    # Newcombe 1998, table I: 81 of 263, 95 %
    low, high = wilson(81 / 263, 263, 1.959964)
    assert (low, high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))


def test_a_share_of_one_has_an_interval_that_its_patients_allow():
    few, many = share(1.0, 10, 0.0).interval(), share(1.0, 1000, 0.0).interval()
    assert few[1] == many[1] == 1.0
    assert 0.6 < few[0] < 0.8
    assert 0.99 < many[0] < 1.0


@pytest.mark.parametrize("value", [0.0, 0.02, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("kind", ["share", "rank", "error", "signed"])
def test_intervals_hold_their_value_and_stay_in_range(value, kind):
    low, high = Measured(value, 0.01, 30, 40, kind).interval()
    assert (-1 if kind == "signed" else 0) <= low <= value <= high <= 1


def test_more_comparisons_are_wider():
    one, many = share(0.8).interval(), share(0.8).interval(21)
    assert many[0] < one[0] and many[1] > one[1]
    assert quantile(1) == pytest.approx(2.093, abs=1e-3)


def test_a_figure_without_variance_keeps_its_value_only():
    found = estimate_of(share(0.5, variance=math.nan))
    assert found.value == 0.5 and found.low is None and found.high is None
    assert gap_of([share(0.5, variance=math.nan), share(0.6)]).low is None


def test_nothing_measured_is_none():
    assert estimate_of(None, 7).value is None and estimate_of(None, 7).n == 7
    assert gap_of([None, share(0.4)]).value is None
    assert worst_of([]).value is None


def test_a_gap_is_the_largest_of_all_pairs_and_its_order_does_not_matter():
    groups = [share(0.7), share(0.9), share(0.75)]
    found = gap_of(groups)
    assert found.value == pytest.approx(0.2) and found.n == 300
    assert found == gap_of(groups[::-1])
    assert worst_of([groups, [share(0.1), share(0.6)]]).value == pytest.approx(0.5)


def test_equal_groups_have_a_gap_interval_from_zero_and_different_ones_do_not():
    assert gap_of([share(0.8), share(0.8)]).low == 0.0
    assert gap_of([share(0.95), share(0.5)]).low > 0.2


@pytest.mark.parametrize(("truth", "groups"), [((0.8, 0.8), 2), ((0.9, 0.7, 0.7), 3)])
def test_gap_intervals_cover_the_true_gap(truth, groups):
    rng, covered, runs, people = np.random.default_rng(2), 0, 400, 120
    for _ in range(runs):
        measured = []
        for p in truth:
            values = rng.random(people) < p
            spread = float(jackknife_variance(without_each(values, groups_of(rng, people))))
            measured.append(Measured(float(values.mean()), spread, people, people))
        found = gap_of(measured)
        covered += found.low <= max(truth) - min(truth) <= found.high
    assert covered / runs >= 0.93


def test_the_interval_of_a_share_is_the_published_interval():
    low, high = share_interval(1, 10)
    np.testing.assert_allclose((low, high), (0.0179, 0.4042), atol=1e-4)
    assert share_interval(0, 20)[0] == 0.0
    assert share_interval(20, 20)[1] == 1.0
