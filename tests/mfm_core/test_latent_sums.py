"""Latent sums count patients, not images, and say what is wrong without naming anybody."""

import numpy as np
import pytest

from mfm_core.config import OntologyConfig
from mfm_core.errors import DataError, MfmError
from mfm_core.latent_sums import latent_sum
from mfm_core.sums import Sum

ONTOLOGY = OntologyConfig(
    classes=("a", "b", "c"), attributes={"view": ("AP", "PA"), "age": ("low", "mid", "high")}
)


def cohort(seed: int, images: int = 60) -> tuple[np.ndarray, ...]:
    draw = np.random.default_rng(seed)
    return (
        draw.normal(size=(images, 5)).astype(np.float32),
        draw.integers(-1, 3, images),
        np.stack([draw.integers(-1, 2, images), draw.integers(-1, 3, images)], axis=1),
        draw.integers(0, 25, images),
    )


def by_hand(mu: np.ndarray, labels: np.ndarray, attributes: np.ndarray, who: np.ndarray) -> Sum:
    """Return the same cells by plain loops over patients and classes."""
    size = mu.shape[1]
    found = {
        "images": np.array([float((labels >= 0).sum())]),
        "class.count": np.zeros(3),
        "class.sum": np.zeros((3, size)),
        "second_moment": np.zeros((size, size)),
    }
    for name, values in ONTOLOGY.attributes.items():
        found[f"attribute.{name}.count"] = np.zeros((3, len(values)))
        found[f"attribute.{name}.sum"] = np.zeros((3, len(values), size))
    for person in set(who.tolist()):
        for k in range(3):
            rows = np.flatnonzero((who == person) & (labels == k))
            if not len(rows):
                continue
            mean = mu[rows].astype(np.float64).mean(axis=0)
            found["class.count"][k] += 1
            found["class.sum"][k] += mean
            found["second_moment"] += np.outer(mean, mean)
            for column, name in enumerate(ONTOLOGY.attributes):
                for row in rows[attributes[rows, column] >= 0]:
                    value = attributes[row, column]
                    found[f"attribute.{name}.count"][k, value] += 1 / len(rows)
                    found[f"attribute.{name}.sum"][k, value] += mu[row] / len(rows)
    return Sum(found)


@pytest.mark.parametrize("seed", range(5))
def test_cells_equal_plain_loops(seed: int) -> None:
    total, expected = latent_sum(*cohort(seed), ONTOLOGY), by_hand(*cohort(seed))
    assert total.schema == expected.schema
    np.testing.assert_allclose(total.flatten(), expected.flatten(), rtol=1e-6, atol=1e-6)


def test_contract_names_and_shapes() -> None:
    assert latent_sum(*cohort(0), ONTOLOGY).schema == (
        ("attribute.age.count", (3, 3)),
        ("attribute.age.sum", (3, 3, 5)),
        ("attribute.view.count", (3, 2)),
        ("attribute.view.sum", (3, 2, 5)),
        ("class.count", (3,)),
        ("class.sum", (3, 5)),
        ("images", (1,)),
        ("second_moment", (5, 5)),
    )


def test_more_images_of_one_patient_do_not_weigh_more() -> None:
    mu, labels, attributes, who = cohort(1)
    again = np.concatenate([np.arange(len(mu)), np.arange(len(mu))])
    once = latent_sum(mu, labels, attributes, who, ONTOLOGY)
    twice = latent_sum(mu[again], labels[again], attributes[again], who[again], ONTOLOGY)
    assert twice["images"][0] == 2 * once["images"][0]
    for name in set(once.arrays) - {"images"}:
        np.testing.assert_allclose(twice[name], once[name], atol=1e-12)


def test_no_patient_weighs_more_than_one_per_class() -> None:
    mu, labels, attributes, who = cohort(2)
    total = latent_sum(mu, labels, attributes, who, ONTOLOGY)
    patients = [len(set(who[labels == k].tolist())) for k in range(3)]
    np.testing.assert_array_equal(total["class.count"], patients)
    assert (total["attribute.view.count"].sum(axis=1) <= total["class.count"] + 1e-12).all()


def test_a_known_attribute_splits_the_class_cells_exactly() -> None:
    mu, labels, attributes, who = cohort(3)
    total = latent_sum(mu, labels, np.abs(attributes), who, ONTOLOGY)
    for name in ONTOLOGY.attributes:
        counts, sums = total[f"attribute.{name}.count"], total[f"attribute.{name}.sum"]
        np.testing.assert_allclose(counts.sum(axis=1), total["class.count"], atol=1e-12)
        np.testing.assert_allclose(sums.sum(axis=1), total["class.sum"], atol=1e-12)


def test_unlabelled_images_change_nothing() -> None:
    mu, labels, attributes, who = cohort(4)
    kept = labels >= 0
    with_them = latent_sum(mu, labels, attributes, who, ONTOLOGY)
    without = latent_sum(mu[kept], labels[kept], attributes[kept], who[kept], ONTOLOGY)
    np.testing.assert_array_equal(with_them.flatten(), without.flatten())


def test_an_unknown_value_leaves_the_other_attribute_alone() -> None:
    mu, labels, attributes, who = cohort(5)
    hidden = attributes.copy()
    hidden[:, 0] = -1
    full = latent_sum(mu, labels, attributes, who, ONTOLOGY)
    half = latent_sum(mu, labels, hidden, who, ONTOLOGY)
    assert not half["attribute.view.count"].any()
    for name in ("attribute.age.count", "attribute.age.sum", "class.sum", "second_moment"):
        np.testing.assert_array_equal(half[name], full[name])


def test_a_site_without_labelled_images_gives_zeros_of_the_same_schema() -> None:
    mu, labels, attributes, who = cohort(6)
    none = latent_sum(mu, np.full_like(labels, -1), attributes, who, ONTOLOGY)
    assert none.schema == latent_sum(mu, labels, attributes, who, ONTOLOGY).schema
    assert not none.flatten().any()
    empty = latent_sum(mu[:0], labels[:0], attributes[:0], who[:0], ONTOLOGY)
    assert empty.schema == none.schema


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_latents_that_are_not_finite_are_refused(value: float) -> None:
    mu, labels, attributes, who = cohort(7)
    mu[[3, 8], 2] = value
    with pytest.raises(MfmError, match=r"2 of 60 images .* not finite.*diverged"):
        latent_sum(mu, labels, attributes, who, ONTOLOGY)


def test_all_problems_are_told_at_once_and_no_patient_is_named() -> None:
    mu, labels, attributes, who = cohort(8)
    who += 987_654_000
    mu[0, 0], labels[1], attributes[2, 1], attributes[3, 0] = np.nan, 3, 3, -2
    with pytest.raises(DataError) as caught:
        latent_sum(mu, labels, attributes, who, ONTOLOGY)
    assert len(caught.value.problems) == 4
    assert "987" not in str(caught.value)


def test_shapes_that_disagree_are_refused() -> None:
    mu, labels, attributes, who = cohort(9)
    with pytest.raises(DataError, match="expected mu"):
        latent_sum(mu, labels[:-1], attributes, who, ONTOLOGY)
    with pytest.raises(DataError, match="one column per attribute"):
        latent_sum(mu, labels, attributes[:, :1], who, ONTOLOGY)
