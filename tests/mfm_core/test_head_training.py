"""Averaged one-step rounds are pooled training; the steps reach the optimum; odd sites are fine."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize
from sklearn.linear_model import LogisticRegression

from mfm_core.atlas import Atlas
from mfm_core.config import OntologyConfig
from mfm_core.errors import ConfigError, DataError
from mfm_core.head import Head, fit_heads
from mfm_core.head_training import (
    Course,
    HeadData,
    Shifts,
    course_of,
    descend,
    lesson_of,
    loss_and_gradient,
    no_shifts,
    train_head,
)
from tests.mfm_core.bias_world import draw_world, take, world_atlas

THREE = OntologyConfig(classes=("well", "ill", "rare"), attributes={"view": ("PA", "AP")})
SIZE = 8


def cohort(seed: int, people: int = 300) -> HeadData:
    """Return three classes, one to four images a person, some without label or view."""
    draw = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), draw.integers(1, 5, people))
    labels = draw.choice([-1, 0, 1, 2], people, p=(0.1, 0.4, 0.3, 0.2))[who]
    view = draw.integers(-1, 2, len(who))
    mu = 4.0 + draw.normal(size=(people, SIZE))[who] + 0.5 * draw.normal(size=(len(who), SIZE))
    mu[:, 0] += 2.0 * (labels == 1)
    mu[:, 1] += 1.5 * (view == 1) + 2.0 * (labels == 2)
    return HeadData(mu.astype(np.float32), labels, view[:, None], who)


def shifts_of(atlas: Atlas, length: float = 1.0) -> Shifts:
    step = length * atlas.attribute_axis("view", "AP", "PA")
    return Shifts(np.stack([-step, 0 * step, step]), np.array([0.25, 0.5, 0.25]))


def zeros() -> Head:
    return Head(np.zeros((3, SIZE), np.float32), np.zeros(3, np.float32))


def far_head(seed: int) -> Head:
    draw = np.random.default_rng(seed)
    return Head(draw.normal(size=(3, SIZE)).astype(np.float32), np.ones(3, np.float32))


@pytest.mark.parametrize("sites", [2, 5])
def test_one_step_rounds_averaged_by_images_equal_pooled_training(sites: int) -> None:
    data = cohort(1)
    atlas = world_atlas(data, THREE)
    course = course_of(atlas, shifts_of(atlas))
    home = np.random.default_rng(sites).integers(0, sites, 300)[data.patients]
    parts = [take(data, np.flatnonzero(home == site)) for site in range(sites)]
    pooled = merged = (far_head(0).weight.astype(np.float64), np.zeros(3))
    for _ in range(6):
        pooled = descend(*pooled, lesson_of(data, atlas), course, 1)
        moved = [descend(*merged, lesson_of(part, atlas), course, 1) for part in parts]
        share = np.array([part.images for part in parts]) / data.images
        merged = tuple(sum(s * m[k] for s, m in zip(share, moved, strict=True)) for k in range(2))
    assert np.abs(pooled[0] - far_head(0).weight).max() > 0.1
    np.testing.assert_allclose(merged[0], pooled[0], atol=1e-8)
    np.testing.assert_allclose(merged[1], pooled[1], atol=1e-8)


def test_gradient_is_the_derivative_of_the_loss() -> None:
    data = cohort(2, 40)
    atlas = world_atlas(data, THREE)
    lesson, course = lesson_of(data, atlas), course_of(atlas, shifts_of(atlas), penalty=0.5)

    def loss(flat: np.ndarray) -> float:
        return loss_and_gradient(flat[:-3].reshape(3, SIZE), flat[-3:], lesson, course)[0]

    place = np.random.default_rng(0).normal(size=3 * SIZE + 3)
    _, slope, by_bias = loss_and_gradient(place[:-3].reshape(3, SIZE), place[-3:], lesson, course)
    expected = approx_fprime(place, loss, 1e-6)
    np.testing.assert_allclose(np.concatenate([slope.ravel(), by_bias]), expected, atol=1e-5)


def test_optimum_is_sklearns_and_twenty_steps_come_close() -> None:
    data = draw_world(1, 2000, 0.6, 16)
    atlas = world_atlas(data)
    course = course_of(atlas, no_shifts(16))
    start = fit_heads(atlas, (0.3,))[0]
    oracle = LogisticRegression(C=1 / (2000 * course.ridge / 2), tol=1e-10, max_iter=2000)
    oracle.fit(data.mu - atlas.counts @ atlas.means / 2000, data.labels)

    def difference(head: Head) -> np.ndarray:
        return (head.weight[1] - head.weight[0]).astype(np.float64)

    converged = difference(train_head(start, data, atlas, course, steps=400))
    np.testing.assert_allclose(converged, oracle.coef_[0], atol=2e-4)
    scores = [data.mu @ w for w in (difference(start), converged)]
    near = data.mu @ difference(train_head(start, data, atlas, course, steps=20))
    assert np.corrcoef(near, scores[1])[0, 1] > 0.999
    assert np.std(near - scores[1]) < 0.05 * np.std(scores[1])
    assert np.std(scores[0] - scores[1]) > 0.05 * np.std(scores[1])


def test_steps_never_raise_a_small_sites_loss() -> None:
    """Twelve latents in 64 dimensions are far from white."""
    data = draw_world(2, 1000, 0.5)
    atlas = world_atlas(data)
    few = take(data, np.arange(12))
    lesson, course = lesson_of(few, atlas), course_of(atlas, no_shifts(64))
    place: tuple[np.ndarray, np.ndarray] = (np.zeros((2, 64)), np.zeros(2))
    losses = [
        loss_and_gradient(*descend(*place, lesson, course, steps), lesson, course)[0]
        for steps in range(1, 30)
    ]
    assert (np.diff(losses) <= 1e-12).all()
    assert losses[-1] < losses[0]


def test_every_patient_counts_as_in_the_atlas() -> None:
    data = cohort(3)
    atlas = world_atlas(data, THREE)
    lesson = lesson_of(data, atlas)
    np.testing.assert_allclose((lesson.own.T @ lesson.weights) * data.images, atlas.counts)
    twice = HeadData(*(np.repeat(part, 2, axis=0) for part in vars(data).values()))
    course = course_of(atlas, no_shifts(SIZE), penalty=0.0)
    one, two = (loss_and_gradient(np.zeros((3, SIZE)), np.zeros(3), lesson_of(d, atlas), course)
                for d in (data, twice))  # fmt: skip
    np.testing.assert_allclose(two[1] * 2, one[1], atol=1e-9)


def test_latents_far_from_zero_and_on_another_scale_give_the_same_scores() -> None:
    data = cohort(4)
    other = replace(data, mu=(100.0 * data.mu.astype(np.float64) - 5000.0))
    found = []
    for cohort_ in (data, other):
        atlas = world_atlas(cohort_, THREE)
        head = train_head(zeros(), cohort_, atlas, course_of(atlas, no_shifts(SIZE)), steps=15)
        logits = head.logits(cohort_.mu)
        found.append(logits - logits.mean(axis=1, keepdims=True))
    assert np.std(found[0]) > 0.3
    np.testing.assert_allclose(found[1], found[0], atol=2e-2)


def test_same_arguments_give_the_same_bits() -> None:
    data = cohort(5)
    atlas = world_atlas(data, THREE)
    course = course_of(atlas, shifts_of(atlas))
    first, again = (train_head(far_head(1), data, atlas, course, steps=5) for _ in range(2))
    np.testing.assert_array_equal(first.weight, again.weight)
    assert first.weight.dtype == first.bias.dtype == np.float32


@pytest.mark.parametrize("kept", ["one class", "one value", "no value known"])
def test_odd_sites_take_part(kept: str) -> None:
    data = cohort(6)
    atlas = world_atlas(data, THREE)
    rows = {
        "one class": data.labels == 1,
        "one value": data.attributes[:, 0] == 1,
        "no value known": data.attributes[:, 0] == -1,
    }[kept]
    course = course_of(atlas, shifts_of(atlas))
    head = train_head(zeros(), take(data, np.flatnonzero(rows)), atlas, course, steps=10)
    assert np.isfinite(head.weight).all()
    assert np.isfinite(head.bias).all()
    assert np.abs(head.weight).max() > 0


@pytest.mark.parametrize("unlabelled", [True, False])
def test_a_site_without_labelled_images_changes_nothing(unlabelled: bool) -> None:
    data = cohort(7)
    atlas = world_atlas(data, THREE)
    rows = np.flatnonzero(data.labels == -1) if unlabelled else np.zeros(0, dtype=np.int64)
    none = take(data, rows)
    assert none.images == 0
    head = far_head(2)
    assert train_head(head, none, atlas, course_of(atlas, no_shifts(SIZE)), steps=5) is head


def test_unlabelled_images_change_nothing_even_if_broken() -> None:
    data = cohort(8)
    atlas = world_atlas(data, THREE)
    course, broken = course_of(atlas, no_shifts(SIZE)), data.mu.copy()
    broken[data.labels == -1] = np.nan
    clean = take(data, np.flatnonzero(data.labels >= 0))
    for part in (clean, replace(data, mu=broken)):
        head = train_head(zeros(), part, atlas, course, steps=3)
        expected = train_head(zeros(), data, atlas, course, steps=3)
        np.testing.assert_array_equal(head.weight, expected.weight)


def test_a_class_without_patients_never_wins() -> None:
    data = take(cohort(9), np.flatnonzero(cohort(9).labels != 2))
    atlas = world_atlas(data, THREE)
    start = fit_heads(atlas, (0.3,))[0]
    head = train_head(start, data, atlas, course_of(atlas, no_shifts(SIZE)), steps=30)
    assert not (head.logits(data.mu).argmax(axis=1) == 2).any()


def test_everything_wrong_is_said_at_once() -> None:
    data = cohort(10)
    atlas = world_atlas(data, THREE)
    course = course_of(atlas, no_shifts(SIZE))
    mu, labels, view = data.mu.copy(), data.labels.copy(), data.attributes.copy()
    rows = np.flatnonzero(labels >= 0)[:4]
    mu[rows[:2], 0] = np.nan
    labels[rows[2]], view[rows[3]] = 3, 2
    with pytest.raises(DataError) as caught:
        train_head(zeros(), HeadData(mu, labels, view, data.patients), atlas, course, steps=1)
    text = str(caught.value)
    assert "2 labelled images have a latent that is not finite" in text
    assert "label: 1 indices outside -1..2" in text
    assert "attribute view: 1 indices outside -1..1" in text
    with pytest.raises(DataError, match="expected mu, labels"):
        train_head(zeros(), replace(data, labels=labels[:-1]), atlas, course, steps=1)
    for penalty in (-1.0, np.nan):
        with pytest.raises(ConfigError, match="penalty"):
            course_of(atlas, no_shifts(SIZE), penalty)


def test_shifts_stand_for_latents_moved_by_hand() -> None:
    data = cohort(11)
    atlas = world_atlas(data, THREE)
    shifts = shifts_of(atlas, 2.0)
    course = Course(shifts, np.eye(SIZE), 0.0)
    weight, bias = np.random.default_rng(0).normal(size=(3, SIZE)), np.zeros(3)
    lesson, plain = lesson_of(data, atlas), Course(no_shifts(SIZE), np.eye(SIZE), 0.0)
    found = loss_and_gradient(weight, bias, lesson, course)
    parts = [
        loss_and_gradient(weight, bias, replace(lesson, latents=lesson.latents + step), plain)
        for step in shifts.steps
    ]
    for index in range(3):
        by_hand = sum(w * p[index] for w, p in zip(shifts.weights, parts, strict=True))
        np.testing.assert_allclose(found[index], by_hand, atol=1e-12)


def test_descent_is_as_good_as_a_general_optimiser() -> None:
    data = cohort(12)
    atlas = world_atlas(data, THREE)
    lesson, course = lesson_of(data, atlas), course_of(atlas, shifts_of(atlas))

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, *slopes = loss_and_gradient(flat[:-3].reshape(3, SIZE), flat[-3:], lesson, course)
        return value, np.concatenate([slope.ravel() for slope in slopes])

    best = minimize(loss, np.zeros(3 * SIZE + 3), jac=True, method="L-BFGS-B").fun
    first = loss(np.zeros(3 * SIZE + 3))[0]
    place = descend(np.zeros((3, SIZE)), np.zeros(3), lesson, course, 20)
    found = loss_and_gradient(*place, lesson, course)[0]
    assert found - best < 0.02 * (first - best)
