"""The public basis follows from the model alone and spans its head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.config import ImageConfig, ModelConfig
from mfm_core.errors import UpdateRejected
from mfm_core.public_basis import (
    basis_from,
    empty_basis,
    public_basis,
    smooth_pictures,
)
from mfm_core.sums import Sum

SHAPE = ModelConfig(
    widths=(16, 16), depths=(1, 1), groups=1, norm_channels=4, latent_channels=4, linear_path=False
)


@pytest.fixture(scope="module")
def model() -> Autoencoder:
    made = build_autoencoder(SHAPE, ImageConfig(size_px=32), 3, 0)
    with torch.no_grad():
        made.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    return made


def test_it_is_orthonormal_repeatable_and_spans_the_head(model: Autoencoder) -> None:
    one, two = public_basis(model, 8, 0), public_basis(model, 8, 0)
    np.testing.assert_array_equal(one.directions, two.directions)
    np.testing.assert_allclose(one.directions @ one.directions.T, np.eye(8), atol=1e-9)
    head = model.head.weight.detach().numpy().astype(float)
    inside = head @ one.directions.T
    np.testing.assert_allclose(np.linalg.norm(inside, axis=1), np.linalg.norm(head, axis=1))
    assert one.radius > 0 and one.outside >= 0


def test_coordinates_and_latents_are_inverse_inside(model: Autoencoder) -> None:
    basis = public_basis(model, 5, 0, radius=3.0)
    points = np.random.default_rng(0).normal(size=(4, 5))
    np.testing.assert_allclose(basis.coordinates(basis.latents(points)), points, atol=1e-9)


def test_it_travels_and_comes_back_the_same(model: Autoencoder) -> None:
    basis = public_basis(model, 5, 0)
    sent = basis.to_sum()
    assert sent.schema == empty_basis(5, model.latent_size).schema
    back = basis_from(sent)
    np.testing.assert_array_equal(back.directions, basis.directions)
    assert (back.radius, back.outside) == (basis.radius, basis.outside)


@pytest.mark.parametrize("wrong", ["longer", "nan", "no radius"])
def test_what_is_no_basis_is_refused(model: Autoencoder, wrong: str) -> None:
    arrays = dict(public_basis(model, 5, 0).to_sum().arrays)
    if wrong == "longer":
        arrays["directions"] = 1.01 * arrays["directions"]
    elif wrong == "nan":
        arrays["reference"] = arrays["reference"] * np.nan
    else:
        arrays["scale"] = np.zeros(2)
    with pytest.raises(UpdateRejected):
        basis_from(Sum(arrays))


def test_public_pictures_take_the_place_of_generated_ones(model: Autoencoder) -> None:
    pictures = smooth_pictures((1, 32), 40, 7)
    assert pictures.shape == (40, 1, 32, 32) and 0 <= pictures.min() <= pictures.max() <= 1
    other = public_basis(model, 8, 0, pictures=pictures)
    assert not np.allclose(other.reference, public_basis(model, 8, 0).reference)


def test_all_directions_are_the_whole_latent_space(model: Autoencoder) -> None:
    basis = public_basis(model, model.latent_size, 0)
    points = np.random.default_rng(0).normal(size=(3, model.latent_size))
    np.testing.assert_allclose(basis.latents(basis.coordinates(points)), points, atol=1e-6)
