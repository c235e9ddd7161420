"""The drawn null is what true permutations of raw latents give."""

from dataclasses import replace

import numpy as np
import pytest

from mfm_core.atlas import atlas_from
from mfm_core.contrasts import contrast_to, sides_of
from mfm_core.whitening import PATIENTS_PER_DIRECTION, whiten
from tests.mfm_core.latent_world import ONTOLOGY, draw_latents, head_using

COIN = contrast_to(ONTOLOGY, "coin", "a")


def permuted(data, draw):
    """Return the data with "coin" permuted within classes."""
    coin = data.attributes[:, 3].copy()
    for label in range(3):
        own = np.flatnonzero(data.labels == label)
        coin[own] = coin[draw.permutation(own)]
    return data.with_attribute("coin", coin)


@pytest.mark.parametrize(("people", "size"), [(150, 40), (400, 12)])
def test_draws_agree_with_true_permutations(people: int, size: int) -> None:
    data, head = draw_latents(1, people=people, size=size), head_using(0.7, size)
    space, draw, count = whiten(data.atlas(), head), np.random.default_rng(2), 400
    found = []
    for _ in range(count):
        sides = sides_of(permuted(data, draw).atlas(), COIN)
        omega = sides.omega.sum()
        r_squared = np.square(space.place(sides.axis)).sum() * omega / space.degrees
        effects = space.logit_change(sides.axis) / space.spread * np.sqrt(omega)
        found.append([r_squared, *np.abs(effects), r_squared * abs(effects[0])])
    null = space.draw(0, 20_000)
    sizes = np.abs(null.effects)
    drawn = np.column_stack([null.r_squared, sizes, null.r_squared * sizes[:, 0]])
    for level in (0.5, 0.8, 0.95):
        above = (np.array(found) > np.quantile(drawn, level, axis=0)).mean(axis=0)
        error = np.sqrt(level * (1 - level) / count)
        assert np.abs(above - (1 - level)).max() < 4 * error, level


def test_whitened_places_measure_mahalanobis_distance() -> None:
    data = draw_latents(3, people=500)
    atlas = data.atlas()
    space = whiten(atlas, head_using(0.7))
    assert space.size == 12  # all of them: 500 patients are enough
    shift = np.random.default_rng(4).normal(size=12)
    expected = shift @ np.linalg.inv(atlas.covariance) @ shift
    np.testing.assert_allclose(np.square(space.place(shift)).sum(), expected, rtol=1e-9)


def test_few_patients_give_few_directions() -> None:
    space = whiten(draw_latents(5, people=60, size=30).atlas(), head_using(0.7, 30))
    assert space.size == (60 - 3) // PATIENTS_PER_DIRECTION
    assert space.directions.shape == (30, space.size)


def test_logits_have_unit_spread_after_scaling() -> None:
    data, head = draw_latents(6), head_using(0.7)
    space = whiten(data.atlas(), head)
    logits = head.logits(data.mu)
    score = logits[:, 0] - logits[:, 1:].mean(axis=1)
    within = np.concatenate(
        [score[data.labels == k] - score[data.labels == k].mean() for k in range(3)]
    )
    sd = np.sqrt(np.square(within).sum() / (len(within) - 3))
    np.testing.assert_allclose(space.spread[0], sd, rtol=1e-6)
    inside = np.square(space.inside).sum(axis=0) + np.square(space.outside).sum(axis=0)
    np.testing.assert_allclose(inside, 1.0, rtol=1e-9)


def test_the_same_seed_gives_the_same_draws() -> None:
    space = whiten(draw_latents(7).atlas(), head_using(0.7))
    one, same, other = space.draw(1, 50), space.draw(1, 50), space.draw(2, 50)
    np.testing.assert_array_equal(one.effects, same.effects)
    assert not np.array_equal(one.effects, other.effects)


def test_a_class_without_patients_has_no_pull() -> None:
    data = draw_latents(8)
    kept = data.labels != 1
    atlas = atlas_from(data.sums(np.flatnonzero(kept)), ONTOLOGY, "hash")
    space = whiten(atlas, head_using(0.7))
    assert not space.pulls[:, 1].any()
    np.testing.assert_allclose(space.pulls[:, 0], -space.pulls[:, 2])
    assert np.isfinite(space.draw(0, 10).effects).all()


def test_a_covariance_without_spread_in_a_direction_gives_finite_figures() -> None:
    """One number that the class decides: no spread within classes, the most between them."""
    data, head = draw_latents(8, people=90), head_using(0.7)
    mu = data.mu.copy()
    mu[:, 5] = 30.0 * data.labels
    atlas = replace(data, mu=mu).atlas()
    assert atlas.covariance[5, 5] < 1e-6 * np.trace(atlas.covariance)
    space = whiten(atlas, head)
    assert np.isfinite(space.place(np.ones(atlas.latent_size))).all()
    null = space.draw(0, 500)
    assert np.isfinite(null.effects).all() and null.r_squared.max() <= 1.0


def test_no_more_coordinates_are_drawn_than_there_are_degrees_of_freedom() -> None:
    """With nu = 2 and one direction, R^2 is a Beta(1/2, 1/2): its mean is 1/2 whatever K is."""
    space = whiten(draw_latents(9, people=120).atlas(), head_using(0.7))
    few = replace(
        space,
        degrees=2,
        directions=space.directions[:, :1],
        root=space.root[:1, :1],
        inside=space.inside[:1],
    )
    assert few.inside.shape[1] == 3
    drawn = few.draw(0, 20_000).r_squared
    np.testing.assert_allclose(drawn.mean(), 0.5, atol=0.01)
