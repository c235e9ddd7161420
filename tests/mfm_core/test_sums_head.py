"""Heads from the atlas alone: known closed forms, balance over the attribute, honest gaps."""

from dataclasses import replace

import numpy as np
import pytest

from mfm_core.config import OntologyConfig
from mfm_core.errors import ConfigError, DataError
from mfm_core.head import Head, fit_heads
from mfm_core.sums_head import ccvr_head, cell_means, lda_head
from tests.mfm_core.bias_world import auc, draw_world, world_atlas

DATA = draw_world(1, 6000, 0.74, 16)
ATLAS = world_atlas(DATA)
PLAIN = fit_heads(ATLAS, (0.0,))[0]
SAME, REVERSED = draw_world(2, 10_000, 0.74, 16), draw_world(3, 10_000, -0.74, 16)


def spread(head: Head) -> float:
    difference = head.weight[1] - head.weight[0]
    return float(np.sqrt(difference @ ATLAS.covariance @ difference))


def test_lda_is_the_closed_form() -> None:
    """M P (mubar_1 - mubar_0), the difference of the balanced means without the axis."""
    axis, cells = ATLAS.attribute_axis("view", "AP", "PA"), cell_means(ATLAS, "view")
    inverse, pull = np.linalg.inv(ATLAS.covariance), (cells[1] - cells[0]).mean(axis=0)
    closed = inverse @ (pull - axis * (axis @ inverse @ pull) / (axis @ inverse @ axis))
    head = lda_head(ATLAS, "view", PLAIN, shrinkage=0.0)
    found = (head.weight[1] - head.weight[0]).astype(np.float64)
    scale = found @ closed / (closed @ closed)
    np.testing.assert_allclose(found, scale * closed, atol=1e-5 * scale)
    assert abs(found @ axis) < 1e-5
    assert abs((PLAIN.weight[1] - PLAIN.weight[0]) @ axis) > 1.0


@pytest.mark.parametrize("build", [lda_head, ccvr_head])
def test_head_is_as_good_when_the_coupling_turns(build) -> None:  # type: ignore[no-untyped-def]
    head = build(ATLAS, "view", PLAIN)
    assert auc(PLAIN, SAME) - auc(PLAIN, REVERSED) > 0.4
    assert abs(auc(head, SAME) - auc(head, REVERSED)) < 0.06
    assert min(auc(head, SAME), auc(head, REVERSED)) > 0.74


@pytest.mark.parametrize("build", [lda_head, ccvr_head])
def test_logits_are_as_spread_as_the_current_heads(build) -> None:  # type: ignore[no-untyped-def]
    for like in (PLAIN, PLAIN.cooled(4.0)):
        head = build(ATLAS, "view", like)
        assert spread(head) == pytest.approx(spread(like), rel=1e-4)
        assert head.weight.dtype == head.bias.dtype == np.float32
    silent = Head(np.zeros_like(PLAIN.weight), np.zeros_like(PLAIN.bias))
    assert spread(build(ATLAS, "view", silent)) > 0.5


@pytest.mark.parametrize("build", [lda_head, ccvr_head])
def test_a_class_without_patients_never_wins(build) -> None:  # type: ignore[no-untyped-def]
    three = OntologyConfig(classes=("well", "ill", "none"), attributes={"view": ("PA", "AP")})
    atlas = world_atlas(DATA, three)
    head = build(atlas, "view", fit_heads(atlas, (0.0,))[0])
    assert head.weight.shape == (3, 16)
    assert not (head.logits(SAME.mu).argmax(axis=1) == 2).any()
    two = build(ATLAS, "view", PLAIN)
    expected = two.logits(SAME.mu) @ np.array([-1.0, 1.0])
    found = head.logits(SAME.mu)[:, :2] @ np.array([-1.0, 1.0])
    assert np.corrcoef(expected, found)[0, 1] > 0.99


def test_priors_follow_the_patients() -> None:
    """Nine in ten are well: so is the usual verdict, however equal the draws."""
    rows = np.flatnonzero((DATA.labels == 0) | (np.arange(6000) % 9 == 0))
    few = world_atlas(replace(DATA, **{k: v[rows] for k, v in vars(DATA).items()}))
    like = fit_heads(few, (0.0,))[0]
    for build in (lda_head, ccvr_head):
        head = build(few, "view", like)
        verdict = head.logits(DATA.mu[rows]).argmax(axis=1)
        assert abs(verdict.mean() - DATA.labels[rows].mean()) < 0.09
        assert DATA.labels[rows].mean() < 0.12


def test_draws_are_seeded_and_hardly_matter() -> None:
    first, again, other = (ccvr_head(ATLAS, "view", PLAIN, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.weight, again.weight)
    assert not np.array_equal(first.weight, other.weight)
    assert auc(first, REVERSED) == pytest.approx(auc(other, REVERSED), abs=0.02)


def test_an_empty_cell_stands_where_the_additive_model_puts_it() -> None:
    draw = np.random.default_rng(0)
    part, effect = draw.normal(size=(2, 1, 16)), draw.normal(size=(1, 2, 16))
    means = part + effect
    counts = np.array([[40.0, 20.0], [30.0, 0.0]])
    means_seen = np.where(counts[..., None] > 0, means, 0.0)
    atlas = replace(ATLAS, attribute_counts={"view": counts}, attribute_means={"view": means_seen})
    np.testing.assert_allclose(cell_means(atlas, "view"), means, atol=1e-10)
    np.testing.assert_array_equal(cell_means(ATLAS, "view"), ATLAS.attribute_means["view"])


@pytest.mark.parametrize("build", [lda_head, ccvr_head])
def test_what_cannot_be_balanced_is_refused(build) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="'age'"):
        build(ATLAS, "age", PLAIN)
    one_sided = replace(ATLAS, attribute_counts={"view": np.array([[50.0, 0.0], [40.0, 0.0]])})
    with pytest.raises(DataError, match="two of its values"):
        build(one_sided, "view", PLAIN)
