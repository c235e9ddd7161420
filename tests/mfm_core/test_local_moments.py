"""A site's own atlas is nearer to the truth than its own cells or the noisy ones alone."""

from __future__ import annotations

import numpy as np
import pytest

from mfm_core.atlas import Atlas, atlas_from
from mfm_core.config import OntologyConfig
from mfm_core.errors import DataError
from mfm_core.latent_sums import latent_sum
from mfm_core.local_moments import own_weight, shrunk_atlas
from mfm_core.sums import Sum

ONTOLOGY = OntologyConfig(classes=("a", "b", "c"), attributes={"view": ("AP", "PA")})
L = 30


def sums(seed: int, patients: int, shift: float = 0.0) -> Sum:
    draw = np.random.default_rng(seed)
    labels, view = draw.integers(0, 2, patients), draw.integers(0, 2, (patients, 1))
    mu = draw.normal(size=(patients, L)) + 2 * np.eye(L)[labels] + shift * np.eye(L)[5]
    return latent_sum(mu, labels, view, np.arange(patients), ONTOLOGY)


def truth(shift: float = 0.0) -> np.ndarray:
    return 2 * np.eye(L)[:2] + shift * np.eye(L)[5]


def consortium() -> Atlas:
    return atlas_from(sums(0, 20_000), ONTOLOGY, "encoder")


def error(atlas: Atlas, shift: float) -> float:
    return float(np.linalg.norm(atlas.means[:2] - truth(shift)))


@pytest.mark.parametrize("shift", [0.0, 4.0])
def test_it_beats_the_worse_and_nearly_reaches_the_better(shift: float) -> None:
    errors = np.zeros(3)
    for seed in range(1, 9):
        own = sums(seed, 40, shift)
        alone, shrunk = atlas_from(own, ONTOLOGY, ""), shrunk_atlas(own, consortium())
        errors += [error(alone, shift), error(consortium(), shift), error(shrunk, shift)]
    assert errors[2] < 0.9 * errors[:2].max()
    assert errors[2] < 1.1 * errors[:2].min() + 0.2 * errors[:2].max()


def test_a_site_without_a_class_takes_the_consortiums() -> None:
    draw = np.random.default_rng(3)
    labels = np.zeros(50, dtype=np.int64)
    own = latent_sum(draw.normal(size=(50, L)), labels, labels[:, None], np.arange(50), ONTOLOGY)
    found = shrunk_atlas(own, consortium())
    np.testing.assert_array_equal(found.means[1], consortium().means[1])
    assert found.counts[0] == 50 and found.present == ("a", "b")
    assert found.encoder_hash == "encoder"
    assert np.linalg.eigvalsh(found.covariance)[0] > 0


def test_nobody_is_the_consortium_and_other_shapes_are_refused() -> None:
    known = consortium()
    empty = Sum({name: 0 * array for name, array in sums(1, 10).arrays.items()})
    assert shrunk_atlas(empty, known) is known
    with pytest.raises(DataError, match="expected"):
        shrunk_atlas(Sum({"class.sum": np.zeros((3, 2)), "class.count": np.zeros(3)}), known)


def test_weights_follow_distance_and_count() -> None:
    near, far = np.zeros((1, 4)), np.full((1, 4), 3.0)
    few, many = np.array([2.0]), np.array([1000.0])
    assert own_weight(few, near, near, 4.0)[0] == 0.0
    assert own_weight(few, far, near, 4.0)[0] < own_weight(many, far, near, 4.0)[0] < 1.0
