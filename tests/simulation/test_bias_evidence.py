"""Figures of one head: equal to known oracles, and right where the truth is known."""

import numpy as np
import pytest
from fairlearn.metrics import equalized_odds_difference
from sklearn.metrics import roc_auc_score

from simulation.bias_evidence import (
    Films,
    Sides,
    count_pairs,
    coupling_weights,
    draw_weights,
    equalised_odds,
    head_figures,
    macro_auc,
    mirrored,
    value_shares,
    within_class_auc,
)


def make_films(seed: int, coupling: float, patients: int = 500, images: int = 2) -> Films:
    """Axis 0 tells the class, axis 1 the attribute; P(value 1 | class) is 0.5 -+ coupling / 2."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(patients), images)
    labels = rng.integers(0, 2, patients)[who]
    values = (rng.random(len(who)) < 0.5 + coupling * (labels - 0.5)).astype(np.int64)
    mu = rng.standard_normal((len(who), 2))
    mu += np.stack([1.5 * labels, 3.0 * values], axis=1)
    return Films(mu.astype(np.float32), labels, values, who)


def logits_of(films: Films, weight: tuple[float, float]) -> np.ndarray:
    score = films.mu.astype(np.float64) @ np.array(weight)
    return np.stack([-score, score], axis=1)


def make_sides(coupling: float, replicates: int = 30) -> Sides:
    inner, outer = make_films(1, coupling), make_films(2, -coupling)
    weights = tuple(draw_weights(f.patients, replicates, s) for s, f in enumerate((inner, outer)))
    shares = value_shares(make_films(3, coupling), 2)
    return Sides(inner, outer, shares, (weights[0], weights[1]), ("AP", "PA"))


def test_pairs_give_scikit_learns_weighted_auc_with_ties() -> None:
    rng = np.random.default_rng(0)
    scores, positive = np.round(rng.standard_normal(200), 1), rng.random(200) < 0.4
    weights = np.stack([np.ones(200), rng.poisson(1.0, 200)])
    won, pairs = count_pairs(scores, positive, weights)
    for row in range(2):
        expected = roc_auc_score(positive, scores, sample_weight=weights[row])
        assert won[row] / pairs[row] == pytest.approx(expected, abs=1e-12)


def test_no_image_and_one_class_are_no_pairs() -> None:
    nothing = np.zeros((2, 0))
    assert count_pairs(np.zeros(0), np.zeros(0, dtype=bool), nothing)[1].tolist() == [0, 0]
    labels = np.zeros(5, dtype=np.int64)
    assert np.isnan(macro_auc(np.zeros((5, 2)), labels, np.ones((2, 5)))).all()


def test_macro_auc_is_the_mean_over_classes_that_are_there() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 300)
    logits = rng.standard_normal((300, 4))
    logits[np.arange(300), labels] += 1.0
    chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = np.mean([roc_auc_score(labels == k, chance[:, k]) for k in range(3)])
    assert macro_auc(logits, labels, np.ones((1, 300)))[0] == pytest.approx(expected, abs=1e-12)


def test_patients_are_drawn_whole_and_the_first_row_is_everybody() -> None:
    patients = np.array([7, 3, 7, 9, 3])
    weights = draw_weights(patients, 400, 5)
    assert weights.shape == (401, 5)
    assert (weights[0] == 1).all()
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 1] == weights[:, 4]).all()
    assert weights[1:].mean() == pytest.approx(1.0, abs=0.1)
    assert np.array_equal(weights, draw_weights(patients, 400, 5))
    assert not np.array_equal(weights, draw_weights(patients, 400, 6))


def test_more_images_of_the_same_patients_make_no_interval_narrower() -> None:
    films = make_films(4, 0.0, patients=150, images=1)
    copies = films.take(np.repeat(np.arange(150), 4))
    widths = []
    for some in (films, copies):
        drawn = draw_weights(some.patients, 400, 0)
        auc = macro_auc(logits_of(some, (1.0, 0.0)), some.labels, drawn)
        widths.append(np.ptp(np.percentile(auc[1:], (2.5, 97.5))))
    assert widths[0] == pytest.approx(widths[1], rel=1e-9)


def test_auc_within_classes_does_not_see_the_class() -> None:
    films = make_films(5, 0.9)
    weights = np.ones((1, len(films)))
    by_class = films.mu[:, 0].astype(np.float64)
    assert roc_auc_score(films.values, by_class) > 0.7
    assert within_class_auc(by_class, films, weights)[0] == pytest.approx(0.5, abs=0.06)
    assert within_class_auc(films.mu[:, 1].astype(np.float64), films, weights)[0] > 0.95


def test_weights_give_the_coupling_that_was_asked_for() -> None:
    films = make_films(6, 0.8)
    wanted = np.array([0.7, 0.2])
    weights = coupling_weights(films, wanted)
    for label in (0, 1):
        mine = films.labels == label
        share = np.average(films.values[mine], weights=weights[mine])
        assert share == pytest.approx(wanted[label], abs=1e-9)
        assert weights[mine].sum() == pytest.approx(mine.sum(), rel=1e-9)
    assert mirrored(wanted) == pytest.approx([0.2, 0.7])
    assert mirrored(mirrored(wanted)) == pytest.approx(wanted)


def test_equalised_odds_are_fairlearns() -> None:
    films = make_films(7, 0.5)
    logits = logits_of(films, (1.0, 0.4)) - np.array([0.0, 1.0])
    expected = equalized_odds_difference(
        films.labels, logits.argmax(axis=1), sensitive_features=films.values
    )
    found = equalised_odds(logits, films, np.ones((1, len(films))))
    assert found[0] == pytest.approx(expected, abs=1e-12)


def test_a_head_that_leans_on_the_attribute_is_told_from_one_that_does_not() -> None:
    """Class axis alone: AUC = Phi(1.5 / sqrt 2) = 0.856 everywhere, whatever the coupling."""
    sides = make_sides(0.8)
    leaning = head_figures(
        logits_of(sides.trained, (1.0, 1.0)), logits_of(sides.held_out, (1.0, 1.0)), sides
    )
    honest = head_figures(
        logits_of(sides.trained, (1.0, 0.0)), logits_of(sides.held_out, (1.0, 0.0)), sides
    )
    assert leaning["difference"][0] > 0.3
    assert leaning["matched_difference"][0] == pytest.approx(leaning["difference"][0], abs=0.05)
    for name in ("difference", "matched_difference", "gap"):
        assert abs(honest[name][0]) < 0.05
    for name in ("as_trained", "reversed", "auc.AP", "auc.PA", "matched", "turned"):
        assert honest[name][0] == pytest.approx(0.856, abs=0.04)
    assert honest["equalised_odds"][0] < 0.15 < leaning["equalised_odds"][0]


def test_the_figures_of_two_heads_are_paired() -> None:
    """Equal heads differ by nothing in every replicate, not only on average."""
    sides = make_sides(0.6)
    logits = logits_of(sides.trained, (1.0, 0.5)), logits_of(sides.held_out, (1.0, 0.5))
    first, second = head_figures(*logits, sides), head_figures(3 * logits[0], 3 * logits[1], sides)
    assert np.array_equal(first["difference"], second["difference"])
