"""One face: every method ends as a head; the table of the design comes out; sites add up."""

from dataclasses import replace
from functools import cache
from typing import get_args

import numpy as np
import pytest

from mfm_core.atlas import Atlas
from mfm_core.erasure import eraser
from mfm_core.errors import ConfigError, DataError
from mfm_core.head import Head, fit_heads
from mfm_core.mitigation import (
    METHODS,
    TRAINED,
    HeadData,
    MethodName,
    Recipe,
    empty_head_round_sum,
    finish_round,
    head_round,
    head_round_sum,
    start_heads,
)
from mfm_core.sums import Accumulator, Sum
from tests.mfm_core.bias_world import auc, draw_world, take, world_atlas

Heads = dict[MethodName, Head]
RECIPE = Recipe("view", sigma=4.0)


def one_round(
    heads: Heads, sites: list[HeadData], atlas: Atlas, recipe: Recipe = RECIPE, steps: int = 1
) -> Heads:
    """Return the heads after one exchange with every site."""
    sums = []
    for data in sites:
        after = {
            name: head_round(name, head, data, atlas, recipe, steps=steps)
            for name, head in heads.items()
            if name in TRAINED
        }
        sums.append(head_round_sum({n: heads[n] for n in after}, after, data.images))
    total = sums[0]
    for other in sums[1:]:
        total = total.merge(other)
    return finish_round(heads, total)


@cache
def world() -> tuple[Atlas, Head, tuple[HeadData, ...]]:
    """Return atlas, plain head and three sites of 10,030 patients, phi = 0.74."""
    data = draw_world(1, 10_030, 0.74)
    atlas = world_atlas(data)
    sites = tuple(take(data, np.flatnonzero(np.arange(10_030) % 3 == site)) for site in range(3))
    return atlas, fit_heads(atlas, (0.0,))[0], sites


@cache
def mitigated() -> Heads:
    atlas, head, sites = world()
    heads = start_heads(METHODS, atlas, head, RECIPE)
    for _ in range(20):
        heads = one_round(heads, list(sites), atlas)
    return heads


@pytest.fixture(scope="module")
def tests() -> tuple[HeadData, HeadData]:
    """Return patients with the coupling of training and with the reversed one."""
    return draw_world(101, 20_000, 0.74), draw_world(201, 20_000, -0.74)


@pytest.mark.parametrize(
    ("method", "as_trained", "turned"),
    [
        ("erm", 0.914, 0.376),
        ("random_alpha_marginal", 0.654, 0.887),
        ("random_alpha", 0.802, 0.795),
        ("leace", 0.798, 0.799),
        ("lda", 0.798, 0.799),
        ("ccvr", 0.783, 0.808),
        ("reweighting", 0.783, 0.815),
    ],
)
def test_the_table_of_the_design(
    method: MethodName, as_trained: float, turned: float, tests: tuple[HeadData, HeadData]
) -> None:
    """AUC as trained and with the coupling reversed, against the design's simulation.

    Its world is not written down in full, hence 0.04; the estimate of the axis from 10,030
    patients alone moves each figure by 0.01.
    """
    head = mitigated()[method]
    assert auc(head, tests[0]) == pytest.approx(as_trained, abs=0.04)
    assert auc(head, tests[1]) == pytest.approx(turned, abs=0.04)


def test_the_pattern_of_the_table(tests: tuple[HeadData, HeadData]) -> None:
    gaps = {name: auc(head, tests[0]) - auc(head, tests[1]) for name, head in mitigated().items()}
    assert gaps["erm"] > 0.4
    assert gaps["random_alpha_marginal"] < -0.15
    for name in ("random_alpha", "leace", "lda", "ccvr", "reweighting"):
        assert abs(gaps[name]) < 0.05


def test_more_sigma_closes_more_of_the_gap(tests: tuple[HeadData, HeadData]) -> None:
    atlas, head, sites = world()
    gaps = []
    for sigma in (0.0, 0.5, 1.0, 4.0):
        recipe = Recipe("view", sigma)
        heads = start_heads(["random_alpha"], atlas, head, recipe)
        for _ in range(4):
            heads = one_round(heads, list(sites[:1]), atlas, recipe)
        gaps.append(auc(heads["random_alpha"], tests[0]) - auc(heads["random_alpha"], tests[1]))
    assert (np.diff(gaps) < -0.02).all()


def test_sigma_zero_is_erm_through_all_rounds() -> None:
    atlas, head, sites = world()
    recipe = Recipe("view", 0.0)
    names: tuple[MethodName, ...] = ("erm", "random_alpha", "random_alpha_marginal")
    heads = start_heads(names, atlas, head, recipe)
    for _ in range(3):
        heads = one_round(heads, list(sites[:2]), atlas, recipe, steps=2)
    assert np.abs(heads["erm"].weight - head.weight).max() > 1e-3
    for name in names[1:]:
        np.testing.assert_allclose(heads[name].weight, heads["erm"].weight, atol=1e-5)


@pytest.mark.parametrize("method", TRAINED)
def test_federated_rounds_equal_pooled_ones(method: MethodName) -> None:
    """Unequal sites, one with one view only and one with one class only."""
    data = draw_world(5, 900, 0.6, 16)
    atlas = world_atlas(data)
    view, ill = data.attributes[:, 0], data.labels
    home = np.where(np.arange(900) < 200, 0, np.where(view == 1, 1, np.where(ill == 1, 2, 3)))
    sites = [take(data, np.flatnonzero(home == site)) for site in range(4)]
    start = start_heads([method], atlas, fit_heads(atlas, (0.3,))[0], RECIPE)
    apart, pooled = start, start
    for _ in range(5):
        apart, pooled = one_round(apart, sites, atlas), one_round(pooled, [data], atlas)
    assert np.abs(pooled[method].weight - start[method].weight).max() > 1e-3
    np.testing.assert_allclose(apart[method].weight, pooled[method].weight, atol=2e-6)
    np.testing.assert_allclose(apart[method].bias, pooled[method].bias, atol=2e-6)


def test_one_step_a_round_converges_and_more_drift_apart() -> None:
    """Two sites of opposite coupling: what they average after five steps is no pooled training."""
    parts = [draw_world(7, 1500, 0.8, 16), draw_world(8, 900, -0.3, 16)]
    atlas, test = two_sites(parts), draw_world(9, 5000, -0.8, 16)
    start = start_heads(TRAINED, atlas, fit_heads(atlas, (0.3,))[0], RECIPE)
    turned: dict[tuple[int, int], dict[MethodName, float]] = {}
    for rounds, steps in ((5, 1), (20, 1), (4, 5)):
        heads = start
        for _ in range(rounds):
            heads = one_round(heads, parts, atlas, steps=steps)
        turned[rounds, steps] = {name: auc(heads[name], test) for name in TRAINED}
    assert turned[5, 1] == pytest.approx(turned[20, 1], abs=0.005)
    assert turned[20, 1]["reweighting"] - turned[4, 5]["reweighting"] > 0.03
    assert turned[20, 1]["erm"] - turned[4, 5]["erm"] > 0.03
    assert turned[20, 1]["random_alpha"] == pytest.approx(turned[4, 5]["random_alpha"], abs=0.005)


def two_sites(parts: list[HeadData]) -> Atlas:
    mu, labels, view = (
        np.concatenate([vars(part)[key] for part in parts])
        for key in ("mu", "labels", "attributes")
    )
    return world_atlas(HeadData(mu, labels, view, np.arange(len(mu))))


def test_closed_forms_are_finished_and_the_others_start_at_the_head() -> None:
    atlas, head, _ = world()
    heads = start_heads(METHODS, atlas, head, RECIPE)
    assert tuple(heads) == METHODS
    assert heads["erm"] is head
    assert heads["reweighting"] is head
    np.testing.assert_array_equal(heads["leace"].weight, eraser(atlas, "view").fold(head).weight)
    soft = eraser(atlas, "view", conditional=False, sigma=4.0).fold(head)
    np.testing.assert_array_equal(heads["random_alpha_marginal"].weight, soft.weight)
    for name, found in heads.items():
        assert found.weight.shape == head.weight.shape, name
        assert found.weight.dtype == found.bias.dtype == np.float32, name
        assert np.isfinite(found.weight).all(), name


def test_rounds_leave_closed_forms_alone() -> None:
    atlas, head, sites = world()
    heads = start_heads(METHODS, atlas, head, RECIPE)
    after = one_round(heads, [sites[0]], atlas)
    for name in METHODS:
        assert (after[name] is heads[name]) == (name not in TRAINED)


def test_schema_is_known_without_data_and_survives_the_exact_sum() -> None:
    draw = np.random.default_rng(0)

    def random_heads() -> Heads:
        return {
            name: Head(
                draw.normal(size=(2, 6)).astype(np.float32), draw.normal(size=2).astype(np.float32)
            )
            for name in METHODS
        }

    before, after = random_heads(), random_heads()
    parts = [head_round_sum(before, after, images) for images in (7, 0, 30)]
    empty = empty_head_round_sum(METHODS, 2, 6)
    assert {part.schema for part in parts} == {empty.schema}
    assert not empty.flatten().any()
    assert not parts[1].flatten().any()
    assert {name.partition(".")[0] for name, _ in empty.schema} == {*TRAINED, "images"}
    accumulator = Accumulator(empty.flatten().size)
    for part in parts:
        accumulator.add(part.flatten())
    moved = finish_round(before, Sum.unflatten(empty.schema, accumulator.result()))
    for name in TRAINED:
        np.testing.assert_allclose(moved[name].weight, after[name].weight, atol=1e-6)
        np.testing.assert_allclose(moved[name].bias, after[name].bias, atol=1e-6)
        assert moved[name].weight.dtype == np.float32


def test_a_round_without_images_moves_nothing() -> None:
    atlas, head, sites = world()
    heads = start_heads(TRAINED, atlas, head, RECIPE)
    nobody = take(sites[0], np.zeros(0, dtype=np.int64))
    after = one_round(heads, [nobody], atlas)
    for name in TRAINED:
        np.testing.assert_array_equal(after[name].weight, heads[name].weight)


def test_images_are_weighted_not_sites() -> None:
    old = Head(np.zeros((2, 3), np.float32), np.zeros(2, np.float32))
    ones = Head(np.ones((2, 3), np.float32), np.ones(2, np.float32))
    total = head_round_sum({"erm": old}, {"erm": ones}, 30)
    total = total.merge(head_round_sum({"erm": old}, {"erm": old}, 10))
    np.testing.assert_allclose(finish_round({"erm": old}, total)["erm"].weight, 0.75)


def test_names_are_those_of_the_type() -> None:
    assert get_args(MethodName) == METHODS
    assert set(TRAINED) < set(METHODS)


def test_what_makes_no_sense_is_refused_before_anything_is_sent() -> None:
    atlas, head, sites = world()
    with pytest.raises(ConfigError, match="unknown method 'magic'"):
        start_heads(["magic"], atlas, head, RECIPE)  # type: ignore[list-item]
    for name in METHODS:
        if name != "erm":
            with pytest.raises(ConfigError, match="'age' is not in the atlas"):
                start_heads([name], atlas, head, Recipe("age"))
    with pytest.raises(ConfigError, match="'leace' has no rounds"):
        head_round("leace", head, sites[0], atlas, RECIPE, steps=1)
    with pytest.raises(ConfigError, match="sigma"):
        start_heads(["random_alpha"], atlas, head, Recipe("view", -1.0))
    one_sided = replace(atlas, attribute_counts={"view": np.array([[50.0, 0.0], [40.0, 0.0]])})
    for name in ("random_alpha", "random_alpha_marginal", "leace", "lda", "ccvr"):
        with pytest.raises(DataError, match="two of its values"):
            start_heads([name], one_sided, head, RECIPE)


@pytest.mark.parametrize("method", TRAINED)
def test_broken_latents_are_refused_by_number_only(method: MethodName) -> None:
    atlas, head, sites = world()
    mu = sites[0].mu.copy()
    mu[3, 5] = np.inf
    with pytest.raises(DataError, match="1 labelled images have a latent that is not finite"):
        head_round(method, head, replace(sites[0], mu=mu), atlas, RECIPE, steps=1)


@pytest.mark.parametrize("method", TRAINED)
def test_indices_outside_the_ontology_are_refused(method: MethodName) -> None:
    atlas, head, sites = world()
    wrong = sites[0].labels.copy()
    wrong[0] = 2
    for data in (
        replace(sites[0], labels=wrong),
        replace(sites[0], attributes=wrong[:, None]),
    ):
        with pytest.raises(DataError, match=r"1 indices outside -1\.\.1"):
            head_round(method, head, data, atlas, RECIPE, steps=1)
