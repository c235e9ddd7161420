"""Averaging over alpha is sampling it for ever; the dial runs from nothing to projection."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax

from mfm_core.atlas import Atlas
from mfm_core.erasure import eraser, value_effects
from mfm_core.errors import ConfigError, DataError
from mfm_core.head import Head, fit_heads
from mfm_core.head_training import (
    course_of,
    lesson_of,
    loss_and_gradient,
    no_shifts,
    train_head,
)
from mfm_core.random_alpha import axis_shifts, normal_points
from tests.mfm_core.bias_world import draw_world, world_atlas

DATA = draw_world(1, 1500, 0.7, 16)
ATLAS = world_atlas(DATA)


def trained(sigma: float, conditional: bool = True, steps: int = 30) -> Head:
    """Return a head trained from the softly erased discriminant, as `mitigation` starts it."""
    course = course_of(ATLAS, axis_shifts(ATLAS, "view", sigma, conditional=conditional), 1e-4)
    start = eraser(ATLAS, "view", conditional=conditional, sigma=sigma)
    return train_head(start.fold(fit_heads(ATLAS, (0.0,))[0]), DATA, ATLAS, course, steps=steps)


def effect(head: Head, conditional: bool = True) -> float:
    """Return how far the axis moves the log-odds."""
    axis = ATLAS.attribute_axis("view", "AP", "PA", conditional)
    return float(abs((head.weight[1] - head.weight[0]) @ axis))


def three_values() -> Atlas:
    draw = np.random.default_rng(0)
    return replace(
        ATLAS,
        attribute_counts={"view": np.array([[50.0, 20.0, 30.0], [40.0, 60.0, 20.0]])},
        attribute_means={"view": draw.normal(size=(2, 3, 16))},
    )


def test_expected_loss_is_the_average_over_drawn_alphas() -> None:
    draw, axis = np.random.default_rng(0), ATLAS.attribute_axis("view", "AP", "PA")
    weight, bias = fit_heads(ATLAS, (0.0,))[0].weight.astype(np.float64), np.array([0.2, -0.1])
    lesson = lesson_of(DATA, ATLAS)
    course = course_of(ATLAS, axis_shifts(ATLAS, "view", 1.5), penalty=0.0)
    losses = []
    for alpha in 1.5 * draw.normal(size=(60, len(DATA.labels))):
        logits = (lesson.latents + alpha[:, None] * axis) @ weight.T + bias
        losses.append(-(log_softmax(logits, axis=1) * lesson.own).sum(axis=1).mean())
    found = loss_and_gradient(weight, bias, lesson, course)[0]
    assert found == pytest.approx(np.mean(losses), abs=5 * np.std(losses) / np.sqrt(60))
    unmoved = loss_and_gradient(weight, bias, lesson, course_of(ATLAS, no_shifts(16), 0.0))[0]
    assert abs(found - unmoved) > 20 * np.std(losses) / np.sqrt(60)


def test_small_sigma_is_the_second_order_ridge() -> None:
    """(sigma^2 / 2) (w' d)^2 E[p (1 - p)], for the log-odds of two classes."""
    axis, sigma = ATLAS.attribute_axis("view", "AP", "PA"), 0.05
    head = fit_heads(ATLAS, (0.1,))[0].cooled(3.0)
    weight, bias = head.weight.astype(np.float64), head.bias @ np.eye(2)
    lesson = lesson_of(DATA, ATLAS)
    moved, still = (
        loss_and_gradient(weight, bias, lesson, course_of(ATLAS, shifts, 0.0))[0]
        for shifts in (axis_shifts(ATLAS, "view", sigma), no_shifts(16))
    )
    p = np.exp(log_softmax(lesson.latents @ weight.T + bias, axis=1))[:, 1]
    ridge = sigma**2 / 2 * ((weight[1] - weight[0]) @ axis) ** 2 * (p * (1 - p)).mean()
    assert moved - still == pytest.approx(ridge, rel=0.02)


def test_sigma_zero_is_plain_training() -> None:
    course = course_of(ATLAS, no_shifts(16), 1e-4)
    plain = train_head(fit_heads(ATLAS, (0.0,))[0], DATA, ATLAS, course, steps=30)
    for conditional in (True, False):
        found = trained(0.0, conditional)
        np.testing.assert_allclose(found.weight, plain.weight, atol=1e-5)


@pytest.mark.parametrize("conditional", [True, False])
def test_effect_of_the_axis_falls_with_sigma_to_nothing(conditional: bool) -> None:
    effects = [effect(trained(s, conditional), conditional) for s in (0.0, 0.5, 1.0, 3.0, 30.0)]
    assert (np.diff(effects) < 0).all()
    assert effects[-1] < 0.01 * effects[0]


def test_training_itself_weakens_the_axis() -> None:
    head = fit_heads(ATLAS, (0.0,))[0]
    course = course_of(ATLAS, axis_shifts(ATLAS, "view", 1.0), 1e-4)
    found = [effect(train_head(head, DATA, ATLAS, course, steps=n)) for n in (0, 10, 100)]
    assert found[1] < 0.7 * found[0]
    assert found[2] == pytest.approx(effect(trained(1.0, steps=100)), rel=0.02)


def test_large_sigma_is_training_on_erased_latents() -> None:
    strong = trained(100.0)
    removed = eraser(ATLAS, "view", shrinkage=0.0)
    erased = replace(DATA, mu=removed.apply(DATA.mu))
    course = course_of(ATLAS, no_shifts(16), 1e-4)
    head = train_head(fit_heads(ATLAS, (0.0,))[0], erased, ATLAS, course, steps=60)
    ours, theirs = strong.logits(DATA.mu), removed.fold(head).logits(DATA.mu)
    scores = [found[:, 1] - found[:, 0] for found in (ours, theirs)]
    assert np.corrcoef(*scores)[0, 1] > 0.999
    plain = trained(0.0).logits(DATA.mu)
    assert np.corrcoef(plain[:, 1] - plain[:, 0], scores[0])[0, 1] < 0.95


def test_two_values_move_along_their_axis_by_sigma() -> None:
    axis = ATLAS.attribute_axis("view", "AP", "PA")
    shifts = axis_shifts(ATLAS, "view", 2.0)
    np.testing.assert_allclose(shifts.covariance, 4.0 * np.outer(axis, axis), atol=1e-10)
    np.testing.assert_allclose(shifts.weights @ shifts.steps, 0.0, atol=1e-12)
    paper = ATLAS.attribute_axis("view", "AP", "PA", conditional=False)
    marginal = axis_shifts(ATLAS, "view", 2.0, conditional=False)
    np.testing.assert_allclose(marginal.covariance, 4.0 * np.outer(paper, paper), atol=1e-10)


def test_no_value_of_three_is_favoured() -> None:
    atlas = three_values()
    shifts, effects = axis_shifts(atlas, "view", 1.5), value_effects(atlas, "view")
    np.testing.assert_allclose(shifts.covariance, 2 * 1.5**2 * effects.T @ effects, atol=1e-9)
    order = [2, 0, 1]
    turned = replace(
        atlas,
        attribute_counts={"view": atlas.attribute_counts["view"][:, order]},
        attribute_means={"view": atlas.attribute_means["view"][:, order]},
    )
    np.testing.assert_allclose(
        axis_shifts(turned, "view", 1.5).covariance, shifts.covariance, atol=1e-9
    )


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_points_have_the_moments_of_the_normal(rank: int) -> None:
    points, weights = normal_points(rank)
    again, _ = normal_points(rank)
    np.testing.assert_array_equal(points, again)
    assert weights.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(weights @ points, 0.0, atol=1e-12)
    np.testing.assert_allclose((points * weights[:, None]).T @ points, np.eye(rank), atol=1e-9)
    np.testing.assert_allclose(weights @ points**4, 3.0, rtol=0.15)


def test_what_makes_no_sense_is_refused() -> None:
    for sigma in (-1.0, np.nan, np.inf):
        with pytest.raises(ConfigError, match="sigma"):
            axis_shifts(ATLAS, "view", sigma)
    with pytest.raises(ConfigError, match="'sex' is not in the atlas"):
        axis_shifts(ATLAS, "sex", 1.0)
    apart = replace(ATLAS, attribute_counts={"view": np.diag([50.0, 40.0])})
    with pytest.raises(DataError, match="two of its values"):
        axis_shifts(apart, "view", 1.0)
