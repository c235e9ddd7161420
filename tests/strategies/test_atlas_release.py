"""What the coordinator makes of noisy cells, and when it makes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mfm_core.atlas import atlas_from
from mfm_core.autoencoder import build_autoencoder
from mfm_core.checkpoint import flat_weights
from mfm_core.errors import DataError
from mfm_core.sums import Sum
from strategies.atlas_release import basis_of, latent_sum_of
from strategies.private_atlas import CELLS, cell_plan
from tests.client.test_private_release import ATLAS_RUN as RUN


@pytest.fixture(scope="module")
def weights() -> NDArray[np.float32]:
    classes = len(RUN.ontology.classes)
    return flat_weights(build_autoencoder(RUN.model, RUN.image, classes, RUN.seed))


def cells(count: float) -> Sum:
    """Return cells of so many patients in every class, all at the reference."""
    found = Sum({name: np.zeros(shape) for name, shape in cell_plan(RUN).schema}).arrays
    arrays = {**found, "class.count": np.full(len(RUN.ontology.classes), count)}
    return Sum({CELLS: Sum(arrays).flatten()})


def test_cells_become_an_atlas_around_the_reference(weights: NDArray[np.float32]) -> None:
    total, facts = latent_sum_of(RUN, basis_of(RUN, weights), cells(100.0), 2)
    atlas = atlas_from(total, RUN.ontology, "x")
    for name in RUN.ontology.classes:
        np.testing.assert_allclose(atlas.class_mean(name), basis_of(RUN, weights).reference)
    assert facts["patients_per_class"][RUN.ontology.classes[0]] == 100
    assert facts["private"]["sites"] == 2


def test_too_few_sites_or_patients_make_no_atlas(weights: NDArray[np.float32]) -> None:
    with pytest.raises(DataError, match="min_sites is 2"):
        latent_sum_of(RUN, basis_of(RUN, weights), cells(100.0), 1)
    with pytest.raises(DataError, match="after the noise"):
        latent_sum_of(RUN, basis_of(RUN, weights), cells(0.0), 2)
