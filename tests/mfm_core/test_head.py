"""The head from sums is scikit-learn's LDA; the choice needs nothing but sums."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import log_loss

from mfm_core.atlas import Atlas, atlas_from
from mfm_core.config import OntologyConfig
from mfm_core.errors import DataError
from mfm_core.head import (
    LARGEST_LOSS,
    SHRINKAGES,
    TEMPERATURES,
    Head,
    candidate_sum,
    choose_head,
    chosen_head,
    fit_heads,
)
from mfm_core.latent_sums import latent_sum

ONTOLOGY = OntologyConfig(classes=("a", "b", "c", "d"))
SHARES = (0.4, 0.3, 0.2, 0.1)


def gaussians(seed: int, images: int, size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Return latents of four classes with one common, lopsided covariance."""
    shape, draw = np.random.default_rng(0), np.random.default_rng(seed)
    means = 4.0 + 0.6 * shape.normal(size=(4, size))
    mixing = shape.normal(size=(size, size)) * np.exp(shape.normal(size=size)) / np.sqrt(size)
    labels = draw.choice(4, images, p=SHARES)
    common, own = draw.normal(size=(images, size)), draw.normal(size=(images, size))
    return means[labels] + common @ mixing + 0.7 * own, labels


def atlas_of(mu: np.ndarray, labels: np.ndarray) -> Atlas:
    none = np.zeros((len(mu), 0), dtype=np.int64)
    return atlas_from(
        latent_sum(mu, labels, none, np.arange(len(mu)), ONTOLOGY), ONTOLOGY, "encoder"
    )


def centred(values: np.ndarray) -> np.ndarray:
    """Take away what all classes share: it changes no probability."""
    return values - values.mean(axis=0)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 0.5, 1.0])
def test_head_is_sklearns_lda_of_the_same_shrinkage(shrinkage: float) -> None:
    mu, labels = gaussians(1, 600)
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(mu, labels)
    (head,) = fit_heads(atlas_of(mu, labels), (shrinkage,))
    # sklearn divides the scatter by N, we by N - K: its discriminants are N / (N - K) of ours.
    scale, prior = 600 / 596, np.log(np.bincount(labels) / 600)
    assert head.weight.dtype == head.bias.dtype == np.float32
    np.testing.assert_allclose(
        centred(head.weight * scale), centred(oracle.coef_), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        centred((head.bias - prior) * scale + prior),
        centred(oracle.intercept_),
        rtol=1e-4,
        atol=1e-3,
    )


@pytest.mark.parametrize("shrinkage", [0.0, 0.1])
def test_head_is_as_accurate_as_the_oracle(shrinkage: float) -> None:
    (mu, labels), (test, truth) = gaussians(2, 800), gaussians(3, 4000)
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(mu, labels)
    (head,) = fit_heads(atlas_of(mu, labels), (shrinkage,))
    ours, theirs = head.logits(test).argmax(axis=1), oracle.predict(test)
    assert (ours == theirs).mean() > 0.998
    assert (ours == truth).mean() == pytest.approx((theirs == truth).mean(), abs=2e-3)
    assert (ours == truth).mean() > 0.7


def test_equal_priors_move_the_biases_only() -> None:
    atlas = atlas_of(*gaussians(4, 500))
    (data,), (equal,) = fit_heads(atlas, (0.1,)), fit_heads(atlas, (0.1,), priors="equal")
    np.testing.assert_array_equal(data.weight, equal.weight)
    moved = (data.bias - equal.bias).astype(np.float64)
    np.testing.assert_allclose(
        centred(moved), centred(np.log(atlas.counts / atlas.counts.sum())), atol=1e-3
    )


def test_full_shrinkage_is_the_nearest_class_mean() -> None:
    mu, labels = gaussians(5, 500)
    atlas = atlas_of(mu, labels)
    (head,) = fit_heads(atlas, (1.0,), priors="equal")
    distance = ((mu[:, None] - atlas.means) ** 2).sum(axis=2)
    np.testing.assert_array_equal(head.logits(mu).argmax(axis=1), distance.argmin(axis=1))


def test_a_class_without_patients_is_never_chosen() -> None:
    mu, labels = gaussians(6, 400)
    kept = labels != 2
    heads = fit_heads(atlas_of(mu[kept], labels[kept]), SHRINKAGES)
    anywhere = 1e3 * np.random.default_rng(0).normal(size=(2000, 12))
    for head in heads:
        assert np.isfinite(head.weight).all()
        assert np.isfinite(head.bias).all()
        for latents in (mu, anywhere):
            assert not (head.logits(latents).argmax(axis=1) == 2).any()


def test_candidate_sum_equals_sklearns_log_loss() -> None:
    mu, labels = gaussians(7, 300)
    heads = fit_heads(atlas_of(*gaussians(8, 300)), (0.1, 0.9))
    total = candidate_sum(mu, labels, heads)
    for index, head in enumerate(heads):
        logits = head.logits(mu)
        assert total["correct"][index] == (logits.argmax(axis=1) == labels).sum()
        for column, temperature in enumerate(TEMPERATURES):
            if temperature >= 1:
                expected = log_loss(labels, softmax(logits / temperature, axis=1)) * 300
                assert total["cross_entropy"][index, column] == pytest.approx(expected, rel=1e-6)


def test_sites_add_up_to_the_pooled_choice() -> None:
    mu, labels = gaussians(9, 400)
    heads = fit_heads(atlas_of(*gaussians(10, 60)))
    pooled = candidate_sum(mu, labels, heads)
    parts = [candidate_sum(mu[rows], labels[rows], heads) for rows in np.split(np.arange(400), 4)]
    merged = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    np.testing.assert_allclose(merged.flatten(), pooled.flatten(), rtol=1e-12)
    assert choose_head(merged) == choose_head(pooled)


def test_choice_finds_the_better_head_behind_a_bad_scale() -> None:
    mu, labels = gaussians(11, 500)
    (good,) = fit_heads(atlas_of(*gaussians(12, 2000)), (0.01,))
    shy = Head(0.1 * np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32), good.bias)
    overconfident = good.cooled(1 / 20)
    total = candidate_sum(mu, labels, (shy, overconfident))
    at_one = total["cross_entropy"][:, TEMPERATURES.tolist().index(1.0)]
    assert at_one[1] > at_one[0], "without a temperature the random head would win"
    assert choose_head(total) == 1
    chosen = chosen_head((shy, overconfident), total)
    np.testing.assert_array_equal(
        chosen.logits(mu).argmax(axis=1), overconfident.logits(mu).argmax(axis=1)
    )
    calibrated = log_loss(labels, softmax(chosen.logits(mu), axis=1))
    assert calibrated < 1.05 * log_loss(labels, softmax(good.logits(mu), axis=1))


def test_refit_head_beats_a_random_one_and_shrinks_when_patients_are_few() -> None:
    mu, labels = gaussians(13, 2000)
    few = fit_heads(atlas_of(*gaussians(14, 25)), (0.0, 0.3))
    assert choose_head(candidate_sum(mu, labels, few)) == 1
    many = fit_heads(atlas_of(*gaussians(15, 4000)), (0.0, 0.9))
    assert choose_head(candidate_sum(mu, labels, many)) == 0


def test_of_equal_candidates_the_trained_one_stays() -> None:
    mu, labels = gaussians(16, 200)
    (head,) = fit_heads(atlas_of(mu, labels), (0.1,))
    assert choose_head(candidate_sum(mu, labels, (head, head, head))) == 0


def test_without_validation_images_the_trained_head_stays_as_it_is() -> None:
    mu, labels = gaussians(17, 100)
    heads = fit_heads(atlas_of(mu, labels), (0.9, 0.1))
    for rows, truth in ((mu[:0], labels[:0]), (mu, np.full_like(labels, -1))):
        total = candidate_sum(rows, truth, heads)
        assert not total.flatten().any()
        assert total.schema == candidate_sum(mu, labels, heads).schema
        assert chosen_head(heads, total) is heads[0]


def test_unlabelled_images_are_left_out() -> None:
    mu, labels = gaussians(18, 100)
    heads = fit_heads(atlas_of(mu, labels), (0.1,))
    hidden = np.where(np.arange(100) < 50, labels, -1)
    np.testing.assert_array_equal(
        candidate_sum(mu, hidden, heads).flatten(),
        candidate_sum(mu[:50], labels[:50], heads).flatten(),
    )


def test_one_image_costs_a_bounded_loss() -> None:
    wild = Head(
        np.full((4, 12), 1e6, dtype=np.float32) * np.eye(4, 12, dtype=np.float32),
        np.zeros(4, dtype=np.float32),
    )
    total = candidate_sum(*gaussians(19, 50), (wild,))
    assert total["cross_entropy"].max() <= 50 * LARGEST_LOSS


def test_logits_that_are_not_finite_are_refused() -> None:
    mu, labels = gaussians(20, 50)
    broken = Head(np.full((4, 12), np.nan, dtype=np.float32), np.zeros(4, dtype=np.float32))
    with pytest.raises(DataError, match="candidate 0"):
        candidate_sum(mu, labels, (broken,))
