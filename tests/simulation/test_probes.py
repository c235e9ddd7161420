"""Probes: they find what is there, not what is not, and are not taken in by the class."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from simulation.probes import (
    PENALTIES,
    ProbeKind,
    Seen,
    across_scores,
    balancing_weights,
    choose_penalty,
    inside_scores,
)

KINDS: tuple[ProbeKind, ...] = ("linear", "mlp")


def make_seen(seed: int, shift: float, coupling: float, kind: str = "linear") -> Seen:
    """Latents of 300 patients with 2 images: class on axis 0, the attribute on axis 1 by shift.

    With kind "curved" the attribute scales axis 1 in place of shifting it: no line can read it.
    """
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(300), 2)
    labels = rng.integers(0, 2, 300)[patients]
    chance = np.where(labels == 1, 0.5 + coupling / 2, 0.5 - coupling / 2)
    values = (rng.random(600) < chance).astype(np.int64)
    x = rng.standard_normal((600, 6))
    x[:, 0] += 2.0 * labels
    x[:, 1] = x[:, 1] * (1 + shift * values) if kind == "curved" else x[:, 1] + shift * values
    return Seen(x, values, labels, patients)


def within(scores: np.ndarray, seen: Seen) -> float:
    parts = [roc_auc_score(seen.values[seen.labels == k], scores[seen.labels == k]) for k in (0, 1)]
    return float(np.mean(parts))


@pytest.mark.parametrize("kind", KINDS)
def test_an_attribute_that_is_there_is_read_across_and_inside(kind: ProbeKind) -> None:
    home, there = make_seen(0, 2.0, 0.6), make_seen(1, 2.0, -0.6)
    assert within(across_scores(kind, home, there, 0.3), there) > 0.85
    assert within(inside_scores(kind, there, 0.3), there) > 0.85


def test_the_class_is_not_taken_for_the_attribute() -> None:
    """Only the class can be read: plain AUC at the reversed hospital would fall far below 0.5."""
    plain, inside = [], []
    for seed in range(6):
        home, there = make_seen(20 + seed, 0.0, 0.8), make_seen(40 + seed, 0.0, -0.8)
        scores = across_scores("linear", home, there, 0.03)
        plain.append(roc_auc_score(there.values, scores))
        inside.append(within(scores, there))
    assert abs(np.mean(plain) - 0.5) < 0.1
    assert abs(np.mean(inside) - 0.5) < 0.06


def test_only_the_mlp_reads_a_difference_in_spread() -> None:
    home, there = make_seen(4, 3.0, 0.0, "curved"), make_seen(5, 3.0, 0.0, "curved")
    assert abs(within(across_scores("linear", home, there, 0.3), there) - 0.5) < 0.1
    assert within(across_scores("mlp", home, there, 0.3), there) > 0.65


def test_noise_that_belongs_to_a_patient_is_not_read_inside() -> None:
    """Each patient has an own latent and one value: a split by image would recognise them."""
    rng = np.random.default_rng(6)
    patients = np.repeat(np.arange(40), 8)
    values = rng.integers(0, 2, 40)[patients]
    x = rng.standard_normal((40, 60))[patients] + 0.01 * rng.standard_normal((320, 60))
    seen = Seen(x, values, np.zeros(320, dtype=np.int64), patients)
    assert roc_auc_score(values, inside_scores("linear", seen, 3.0)) < 0.8
    assert roc_auc_score(values, across_scores("linear", seen, seen, 3.0)) > 0.99


def test_balancing_weights_make_attribute_and_class_independent() -> None:
    seen = make_seen(7, 1.0, 0.7)
    weights = balancing_weights(seen.values, seen.labels)
    shares = [
        np.average(seen.values[seen.labels == k], weights=weights[seen.labels == k]) for k in (0, 1)
    ]
    assert shares[0] == pytest.approx(shares[1])
    assert weights.sum() == pytest.approx(len(weights))


def test_the_penalty_is_stronger_where_the_signal_is_spread_over_many_directions() -> None:
    rng = np.random.default_rng(8)
    labels, values = rng.integers(0, 2, (2, 120))
    noise = rng.standard_normal((120, 100))
    spread, narrow = noise + 0.25 * values[:, None], noise.copy()
    narrow[:, 0] += 4.0 * values
    chosen = [choose_penalty(Seen(x, values, labels, np.arange(120))) for x in (spread, narrow)]
    assert chosen[0] < chosen[1]
    assert set(chosen) <= set(PENALTIES)


def test_one_value_or_one_patient_gives_no_information() -> None:
    seen = make_seen(9, 1.0, 0.0)
    same = Seen(seen.x, np.zeros_like(seen.values), seen.labels, seen.patients)
    alone = Seen(seen.x, seen.values, seen.labels, np.zeros_like(seen.patients))
    assert not across_scores("linear", same, seen, 0.3).any()
    assert not inside_scores("linear", same, 0.3).any()
    assert not inside_scores("mlp", alone, 0.3).any()
    assert choose_penalty(same) == PENALTIES[0]
