"""The shrunk axis: least squares with many patients, no attenuation with few, nothing for noise."""

import numpy as np

from mfm_core.axis_shrinkage import shrunk_span
from mfm_core.erasure import eraser, value_span
from mfm_core.head import fit_heads
from mfm_core.mitigation import METHODS, Recipe, axis_of, start_heads
from tests.mfm_core.bias_world import auc, draw_world, world_atlas

BINARY = np.array([[-1.0], [1.0]]) / np.sqrt(2.0)
SIZE = 200


def drawn_cells(
    counts: np.ndarray, seed: int, lengths: tuple[float, float]
) -> tuple[np.ndarray, ...]:
    """Return cell means of unit noise, and the true class and value effects, of given lengths."""
    draw = np.random.default_rng(seed)
    classes, values = counts.shape
    effects = []
    for count, length in zip((classes, values), lengths, strict=True):
        effect = draw.normal(size=(count, SIZE)) * length / np.sqrt(2 * SIZE)
        effects.append(effect - effect.mean(axis=0))
    noise = draw.normal(size=(classes, values, SIZE)) / np.sqrt(np.maximum(counts, 1))[..., None]
    return effects[0][:, None] + effects[1][None] + noise, *effects


def span_of(counts: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return the shrunk span of two values with the identity as covariance."""
    return shrunk_span(counts, means, BINARY, np.eye(SIZE))[0]


def least_squares(counts: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return the weighted mean over classes of the difference of the two values."""
    weights = counts[:, 0] * counts[:, 1] / counts.sum(axis=1)
    return weights @ (means[:, 1] - means[:, 0]) / weights.sum() / np.sqrt(2.0)


def test_many_patients_in_every_cell_give_least_squares() -> None:
    counts = np.full((3, 2), 1e6)
    means, _, _ = drawn_cells(counts, 0, (3.0, 5.0))
    found, expected = span_of(counts, means), least_squares(counts, means)
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


def test_few_against_the_coupling_leave_no_part_of_the_axis_on_average() -> None:
    """What is left of the true axis after projection is a tenth of what least squares leaves.

    Least squares leaves L / Omega of the squared length, 6 of 36; mean of 20 cohorts.
    """
    counts = np.array([[17.0, 340.0], [340.0, 17.0]])
    left: dict[str, list[float]] = {"shrunk": [], "least": []}
    for seed in range(20):
        means, _, effects = drawn_cells(counts, seed, (4.0, 6.0))
        axis = (effects[1] - effects[0]) / np.sqrt(2.0)
        for name, found in (
            ("shrunk", span_of(counts, means)),
            ("least", least_squares(counts, means)),
        ):
            left[name].append(1.0 - (axis @ found) / (found @ found))
    assert 0.12 < np.mean(left["least"]) < 0.3
    assert abs(np.mean(left["shrunk"])) < 0.1 * np.mean(left["least"]) + 0.02


def test_the_shrunk_axis_is_nearer_to_the_true_one() -> None:
    """By 13 % where the lengths are those of the prior; the draws differ by 2 %."""
    counts = np.array([[17.0, 340.0], [340.0, 17.0]])
    for seed in range(5):
        means, _, effects = drawn_cells(counts, seed, (4.0, 6.0))
        axis = (effects[1] - effects[0]) / np.sqrt(2.0)
        own, plain = span_of(counts, means), least_squares(counts, means)
        assert np.linalg.norm(own - axis) < 0.95 * np.linalg.norm(plain - axis)


def test_an_attribute_without_effect_is_left_alone() -> None:
    counts = np.array([[40.0, 40.0], [40.0, 40.0], [40.0, 40.0]])
    means, _, _ = drawn_cells(counts, 3, (4.0, 0.0))
    assert np.linalg.norm(span_of(counts, means)) < 0.3 * np.linalg.norm(
        least_squares(counts, means)
    )


def test_units_and_rotations_of_the_latents_do_not_matter() -> None:
    counts = np.array([[20.0, 90.0], [70.0, 15.0]])
    means, _, _ = drawn_cells(counts, 4, (3.0, 5.0))
    turn = np.random.default_rng(5).normal(size=(SIZE, SIZE)) + 15 * np.eye(SIZE)
    there = shrunk_span(counts, means @ turn, BINARY, turn.T @ turn)[0]
    np.testing.assert_allclose(there, span_of(counts, means) @ turn, rtol=0, atol=1e-3)


def test_a_cell_without_patients_says_nothing() -> None:
    counts = np.array([[30.0, 0.0], [25.0, 30.0]])
    means, _, _ = drawn_cells(counts, 6, (3.0, 5.0))
    other = means.copy()
    other[0, 1] = 1e6
    np.testing.assert_array_equal(span_of(counts, means), span_of(counts, other))


def test_the_erasers_axis_is_the_shrunk_one_and_the_marginal_one_stays() -> None:
    atlas = world_atlas(draw_world(1, 2000, 0.74))
    span = value_span(atlas, "view", shrunk=True)
    np.testing.assert_allclose(eraser(atlas, "view", shrunk=True).matrix @ span.T, 0, atol=1e-9)
    assert np.linalg.norm(span) < np.linalg.norm(value_span(atlas, "view"))
    for shrunk in (False, True):
        np.testing.assert_array_equal(
            value_span(atlas, "view", conditional=False, shrunk=shrunk),
            value_span(atlas, "view", conditional=False),
        )


def test_heads_hold_better_on_the_reversed_coupling_when_few_stand_against_it() -> None:
    """64 latent numbers, 500 patients, phi .9; mean distance over 6 cohorts."""
    gaps: dict[str, list[float]] = {"leace": [], "leace_shrunk": []}
    matching, turned = draw_world(101, 4000, 0.9), draw_world(201, 4000, -0.9)
    for seed in range(6):
        atlas = world_atlas(draw_world(seed, 500, 0.9))
        head = fit_heads(atlas, (0.1,))[0]
        heads = start_heads(("leace", "leace_shrunk"), atlas, head, Recipe("view"))
        for name, found in heads.items():
            gaps[name].append(abs(auc(found, matching) - auc(found, turned)))
    assert np.mean(gaps["leace_shrunk"]) < 0.75 * np.mean(gaps["leace"])


def test_every_method_knows_its_axis() -> None:
    told = {name: axis_of(name) for name in METHODS}
    assert [name for name, axis in told.items() if axis["shrunk"]] == [
        *("random_alpha_shrunk", "leace_shrunk")
    ]
    assert [name for name, axis in told.items() if not axis["conditional"]] == [
        "random_alpha_marginal"
    ]
