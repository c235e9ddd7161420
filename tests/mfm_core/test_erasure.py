"""The eraser is LEACE: nothing linear is left within classes, and nothing else is touched."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from mfm_core.atlas import Atlas, atlas_from
from mfm_core.config import OntologyConfig
from mfm_core.erasure import (
    SHRINKAGE,
    centre_of,
    eraser,
    scarcity,
    shrunk_covariance,
    value_effects,
    value_span,
)
from mfm_core.errors import ConfigError, DataError
from mfm_core.head import Head
from mfm_core.latent_sums import latent_sum

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the library still uses torch.jit
    from concept_erasure import LeaceFitter

ONTOLOGY = OntologyConfig(
    classes=("well", "ill", "rare"), attributes={"view": ("PA", "AP"), "site": ("n", "h", "v")}
)
MOVES = {"view": ((0.0, 1.5),), "site": ((0.0, 1.0, 0.4), (0.0, -0.5, 1.1))}
Cohort = tuple[np.ndarray, np.ndarray, np.ndarray]


def cohort(seed: int, people: int = 900, size: int = 12) -> Cohort:
    """Return mu, labels, attributes of one image a person; view and class go together."""
    shape, draw = np.random.default_rng(0), np.random.default_rng(seed)
    mixing = np.eye(size) + 0.4 * shape.normal(size=(size, size))
    labels = draw.choice(3, people, p=(0.5, 0.35, 0.15))
    view = np.where(draw.random(people) < (0.2, 0.8, 0.5)[0] + 0.55 * (labels == 1), 1, 0)
    site = draw.choice(3, people, p=(0.5, 0.3, 0.2))
    mu = 2.0 + draw.normal(size=(people, size)) @ mixing
    mu[:, 3] += 1.2 * (labels == 1) - 0.8 * (labels == 2)
    for values, name in ((view, "view"), (site, "site")):
        for index, move in enumerate(MOVES[name]):
            mu += np.array(move)[values][:, None] * shape.normal(size=size) * (1 + index)
    return mu, labels, np.stack([view, site], axis=1)


def atlas_of(data: Cohort) -> Atlas:
    total = latent_sum(*data, np.arange(len(data[0])), ONTOLOGY)
    return atlas_from(total, ONTOLOGY, "encoder")


def within(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Take each class's mean away."""
    means = np.stack([values[labels == k].mean(axis=0) for k in range(3)])
    return values - means[labels]


def library(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return P of the concept-erasure library."""
    fitter = LeaceFitter(
        *(x.shape[1], z.shape[1]),
        dtype=torch.float64,
        shrinkage=False,
        constrain_cov_trace=False,
        svd_tol=1e-9,
    )
    fitter.update(torch.from_numpy(x), torch.from_numpy(z))
    return fitter.eraser.P.numpy()


@pytest.mark.parametrize("attribute", ["view", "site"])
def test_conditional_eraser_is_the_library_on_class_centred_latents(attribute: str) -> None:
    mu, labels, attributes = cohort(1)
    column = list(ONTOLOGY.attributes).index(attribute)
    hot = np.eye(len(ONTOLOGY.attributes[attribute]))[attributes[:, column]]
    expected = library(within(mu, labels), within(hot, labels))
    found = eraser(atlas_of((mu, labels, attributes)), attribute, shrinkage=0.0)
    np.testing.assert_allclose(found.matrix, expected, atol=1e-10)
    assert np.linalg.matrix_rank(np.eye(12) - expected, tol=1e-6) == hot.shape[1] - 1


def test_marginal_span_is_the_librarys_and_binary_closed_form_holds() -> None:
    data = cohort(2)
    atlas = atlas_of(data)
    delta = atlas.attribute_axis("view", "AP", "PA")
    inverse = np.linalg.inv(atlas.covariance)
    closed = np.eye(12) - np.outer(delta, delta @ inverse) / (delta @ inverse @ delta)
    np.testing.assert_allclose(eraser(atlas, "view", shrinkage=0.0).matrix, closed, atol=1e-10)
    mu, _, attributes = data
    axis = mu[attributes[:, 0] == 1].mean(axis=0) - mu[attributes[:, 0] == 0].mean(axis=0)
    marginal = eraser(atlas, "view", conditional=False)
    np.testing.assert_allclose(marginal.matrix @ axis, 0.0, atol=1e-10)
    assert np.abs(marginal.matrix @ delta).max() > 0.1


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("attribute", ["view", "site"])
def test_no_least_squares_probe_within_classes_is_left(attribute: str, shrinkage: float) -> None:
    mu, labels, attributes = cohort(3)
    column = list(ONTOLOGY.attributes).index(attribute)
    hot = within(np.eye(3)[attributes[:, column]], labels)
    before = LinearRegression().fit(within(mu, labels), hot).score(within(mu, labels), hot)
    erased = eraser(atlas_of((mu, labels, attributes)), attribute, shrinkage=shrinkage).apply(mu)
    left = within(erased, labels).T @ hot / len(mu)
    assert before > 0.2
    assert np.abs(left).max() < 1e-12


def test_marginal_eraser_leaves_what_the_conditional_one_removes() -> None:
    """Where view and class go together the marginal axis is another one."""
    mu, labels, attributes = cohort(4)
    atlas, hot = atlas_of((mu, labels, attributes)), within(np.eye(2)[attributes[:, 0]], labels)
    left = within(eraser(atlas, "view", conditional=False).apply(mu), labels).T @ hot / len(mu)
    assert np.abs(left).max() > 0.01


def test_fresh_patients_keep_the_class_and_lose_the_attribute() -> None:
    data, (mu, labels, attributes) = cohort(5, 4000), cohort(6, 4000)
    found = eraser(atlas_of(data), "view")
    erased, hot = within(found.apply(mu), labels), attributes[:, 0]
    probe = LinearRegression().fit(within(found.apply(data[0]), data[1]), data[2][:, 0])
    scores = probe.predict(erased)
    before = LinearRegression().fit(within(data[0], data[1]), data[2][:, 0])
    assert np.corrcoef(before.predict(within(mu, labels)), hot)[0, 1] > 0.5
    assert abs(np.corrcoef(scores, hot - np.array([0.2, 0.75, 0.2])[labels])[0, 1]) < 0.06


def test_folded_head_reads_the_erased_latent_and_keeps_the_mean_logits() -> None:
    data = cohort(7)
    atlas, draw = atlas_of(data), np.random.default_rng(0)
    head = Head(draw.normal(size=(3, 12)).astype(np.float32), np.ones(3, dtype=np.float32))
    found = eraser(atlas, "site")
    folded = found.fold(head)
    assert folded.weight.dtype == folded.bias.dtype == np.float32
    np.testing.assert_allclose(folded.logits(data[0]), head.logits(found.apply(data[0])), atol=1e-4)
    middle = centre_of(atlas)[None]
    np.testing.assert_allclose(folded.logits(middle), head.logits(middle), atol=1e-5)
    np.testing.assert_allclose(folded.weight @ value_effects(atlas, "site").T, 0.0, atol=1e-5)


def test_projection_is_idempotent_and_its_parts_are_dual() -> None:
    found = eraser(atlas_of(cohort(8)), "site")
    np.testing.assert_allclose(found.matrix @ found.matrix, found.matrix, atol=1e-10)
    np.testing.assert_allclose(found.right @ found.left, np.eye(2), atol=1e-10)


def test_soft_eraser_is_the_discriminant_under_variance_along_the_axis() -> None:
    atlas, sigma = atlas_of(cohort(9)), 0.7
    pull = atlas.class_axis("ill")
    for attribute in ("view", "site"):
        span = value_span(atlas, attribute)
        wide = atlas.covariance + 2 * sigma**2 * span.T @ span
        soft = eraser(atlas, attribute, sigma=sigma, shrinkage=0.0)
        discriminant = np.linalg.solve(atlas.covariance, pull)
        np.testing.assert_allclose(soft.matrix.T @ discriminant, np.linalg.solve(wide, pull))
    delta = atlas.attribute_axis("view", "AP", "PA")
    np.testing.assert_allclose(
        2 * value_span(atlas, "view").T @ value_span(atlas, "view"),
        np.outer(delta, delta),
        atol=1e-12,
    )


def test_sigma_runs_from_nothing_to_projection() -> None:
    atlas = atlas_of(cohort(10))
    nothing, whole = eraser(atlas, "view", sigma=0.0), eraser(atlas, "view")
    strong = eraser(atlas, "view", sigma=1e6)
    np.testing.assert_allclose(nothing.matrix, np.eye(12), atol=1e-12)
    np.testing.assert_allclose(strong.matrix, whole.matrix, atol=1e-9)


def test_effects_are_the_axis_for_two_values_and_free_of_disease() -> None:
    atlas = atlas_of(cohort(11))
    effects = value_effects(atlas, "view")
    np.testing.assert_allclose(effects[1] - effects[0], atlas.attribute_axis("view", "AP", "PA"))
    np.testing.assert_allclose(effects.sum(axis=0), 0.0, atol=1e-12)
    marginal = value_effects(atlas, "view", conditional=False)
    axis = atlas.attribute_axis("view", "AP", "PA", conditional=False)
    np.testing.assert_allclose(marginal[1] - marginal[0], axis)


def test_additive_cells_are_recovered_whatever_their_counts() -> None:
    atlas, draw = atlas_of(cohort(12)), np.random.default_rng(1)
    part, effect = draw.normal(size=(3, 1, 12)), draw.normal(size=(1, 3, 12))
    counts = np.array([[50.0, 3.0, 0.0], [1.0, 40.0, 7.0], [0.0, 0.0, 9.0]])
    atlas = replace(
        atlas, attribute_counts={"site": counts}, attribute_means={"site": part + effect}
    )
    expected = effect[0] - effect[0].mean(axis=0)
    np.testing.assert_allclose(value_effects(atlas, "site"), expected, atol=1e-10)


def test_a_value_that_no_class_shares_has_no_effect_of_its_own() -> None:
    atlas = atlas_of(cohort(13))
    counts = np.array([[50.0, 30.0, 0.0], [10.0, 40.0, 0.0], [0.0, 0.0, 9.0]])
    atlas = replace(atlas, attribute_counts={"site": counts})
    effects = value_effects(atlas, "site")
    np.testing.assert_allclose(effects[2], 0.0, atol=1e-12)
    assert np.abs(effects[0]).max() > 0.1
    assert value_span(atlas, "site").shape == (1, 12)


def test_what_cannot_be_compared_is_refused_with_advice() -> None:
    atlas = atlas_of(cohort(14))
    with pytest.raises(ConfigError, match=r"'age' is not in the atlas; it has view, site"):
        eraser(atlas, "age")
    apart = {"view": np.array([[50.0, 0.0], [0.0, 40.0], [0.0, 9.0]])}
    with pytest.raises(DataError, match="no class has patients with two of its values"):
        eraser(replace(atlas, attribute_counts=apart), "view")
    assert eraser(replace(atlas, attribute_counts=apart), "view", conditional=False).left.any()
    one_sided = {"view": np.array([[50.0, 0.0], [40.0, 0.0], [9.0, 0.0]])}
    with pytest.raises(DataError, match="let sites join"):
        eraser(replace(atlas, attribute_counts=one_sided), "view", conditional=False)


def test_shrinkage_is_for_few_patients() -> None:
    few, many = atlas_of(cohort(15, 30)), atlas_of(cohort(15, 1200))
    assert scarcity(few) == pytest.approx(12 / 30)
    assert scarcity(replace(few, counts=np.array([2.0, 1.0, 1.0]))) == 1.0
    for atlas in (few, many):
        share = SHRINKAGE * scarcity(atlas)
        found, expected = eraser(atlas, "view"), eraser(atlas, "view", shrinkage=share)
        np.testing.assert_array_equal(found.matrix, expected.matrix)
    np.testing.assert_allclose(np.trace(shrunk_covariance(few, 0.7)), np.trace(few.covariance))


def test_latents_that_do_not_vary_with_the_attribute_stay_as_they_are() -> None:
    atlas = atlas_of(cohort(16))
    same = {"view": np.broadcast_to(atlas.means[:, None], (3, 2, 12)).copy()}
    found = eraser(replace(atlas, attribute_means=same), "view")
    np.testing.assert_allclose(found.matrix, np.eye(12), atol=1e-9)
