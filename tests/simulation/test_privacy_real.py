"""Small hospitals: own moments hold where nothing is released; few test films are left out."""

from __future__ import annotations

import numpy as np
import pytest

from mfm_core.atlas import atlas_from
from mfm_core.config import OntologyConfig
from mfm_core.latent_sums import latent_sum
from simulation.privacy_real import TESTS, Hospital, make_table, scores_of
from simulation.privacy_study import Latents, figure_of

ONTOLOGY = OntologyConfig(classes=("no", "yes"), attributes={"view": ("AP", "PA")})


def latents(seed: int, count: int) -> Latents:
    """Return films whose class lies along the first direction and whose view along the second."""
    draw = np.random.default_rng(seed)
    labels, views = np.arange(count) % 2, (np.arange(count) // 2) % 2
    mu = draw.normal(size=(count, 6))
    mu[:, 0] += 3 * labels
    mu[:, 1] += 3 * views
    return Latents(mu.astype(np.float32), labels, views[:, None], np.arange(count))


def hospital(name: str, seed: int, tests: int = 200) -> Hospital:
    train = latents(seed, 300)
    own = latent_sum(train.mu, train.labels, train.views, train.patients, ONTOLOGY)
    return Hospital(name, train, latents(seed + 100, tests), own)


@pytest.fixture(scope="module")
def hospitals() -> list[Hospital]:
    return [hospital("a", 0), hospital("b", 1)]


def test_the_exact_atlas_scores_itself_perfectly(hospitals: list[Hospital]) -> None:
    exact = atlas_from(hospitals[0].own.merge(hospitals[1].own), ONTOLOGY, "")
    found = scores_of(exact, exact, hospitals)
    assert found["class axis"] == pytest.approx(1) and found["view axis"] == pytest.approx(1)
    assert found["released"] > 0.95 and found["own, shrunk"] > 0.95


def test_without_a_released_atlas_the_own_moments_are_left(hospitals: list[Hospital]) -> None:
    exact = atlas_from(hospitals[0].own.merge(hospitals[1].own), ONTOLOGY, "")
    found = scores_of(exact, None, hospitals)
    assert found["released"] == 0.5 and found["class axis"] == 0
    assert found["own, shrunk"] > 0.95


def test_hospitals_with_few_test_films_of_a_class_are_not_judged() -> None:
    assert hospital("a", 0, 2 * TESTS).tested
    assert not hospital("a", 0, 2 * TESTS - 2).tested


def test_the_table_shows_every_row() -> None:
    one = vars(figure_of([0.5]))
    content = {
        "seed": 0, "delta": 1e-6, "directions": 4, "draws": 1, "clipped_share": {"generated": 0.1},
        "hospitals": {"a": {"train_patients": 3, "test_films": 2, "tested": False}},
        "rows": [{"atlas": "own alone", "sum": "-", "epsilon": None, "own, shrunk": one}],
    }  # fmt: skip
    assert make_table(content).row_count == 1
