"""Noisy cells become latent sums that an atlas can be made of; without noise, the exact ones."""

from __future__ import annotations

import numpy as np

from mfm_core.atlas import atlas_from
from mfm_core.config import OntologyConfig
from mfm_core.discrete_noise import with_noise
from mfm_core.latent_sums import latent_sum
from mfm_core.noisy_cells import lifted, repaired
from mfm_core.private_cells import GRAINS, CellPlan, as_sum, exact_cells
from mfm_core.public_basis import PublicBasis
from mfm_core.sums import Sum

ONTOLOGY = OntologyConfig(
    classes=("a", "b", "c"), attributes={"view": ("AP", "PA"), "sex": ("F", "M")}
)
PLAN = CellPlan(3, (("view", 2),), 3)


def basis() -> PublicBasis:
    rows, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 3)))
    return PublicBasis(np.linspace(-1, 1, 6), rows.T, 20.0, 0.5)


def world(patients: int) -> tuple[np.ndarray, ...]:
    """Return latents that lie inside the basis, one image a patient, and what is known of them."""
    draw = np.random.default_rng(1)
    labels, view = draw.integers(0, 3, patients), draw.integers(0, 2, patients)
    inside = draw.normal(size=(patients, 3)) * [3, 2, 1] + np.eye(3)[labels] + view[:, None]
    mu = basis().reference + inside @ basis().directions
    return mu, labels, np.stack([view, 0 * view], axis=1), np.arange(patients)


def exact_of(patients: int) -> np.ndarray:
    mu, labels, attributes, who = world(patients)
    return exact_cells(basis().coordinates(mu), labels, attributes[:, :1], who, PLAN)


def test_without_noise_the_atlas_is_the_one_of_the_exact_sums() -> None:
    mu, labels, attributes, who = world(300)
    found = repaired(as_sum(exact_of(300), PLAN), PLAN, 0.0, 1)
    ours = atlas_from(lifted(found, basis(), ONTOLOGY), ONTOLOGY, "x")
    plain = atlas_from(latent_sum(mu, labels, attributes, who, ONTOLOGY), ONTOLOGY, "x")
    near = {"rtol": 0, "atol": 1e-3}
    np.testing.assert_allclose(ours.counts, plain.counts, **near)
    np.testing.assert_allclose(ours.means, plain.means, **near)
    np.testing.assert_allclose(
        ours.attribute_axis("view", "PA", "AP"), plain.attribute_axis("view", "PA", "AP"), **near
    )
    inside = basis().directions
    np.testing.assert_allclose(
        inside @ ours.covariance @ inside.T, inside @ plain.covariance @ inside.T, atol=0.01
    )
    assert found.suppressed == 0 and ours.attribute_counts["sex"].sum() == 0


def test_small_noisy_cells_are_left_out_of_everything() -> None:
    noisy = as_sum(exact_of(60), PLAN)
    counts = noisy["class.count"].copy()
    counts[1] = 49.9
    counts[[0, 2]] = 80.0
    total = Sum({**noisy.arrays, "class.count": counts})
    found = repaired(total, PLAN, 3.0, 50)
    assert found.counts.tolist() == [80.0, 0.0, 80.0]
    assert not found.means[1].any() and not found.cells["view"][0][1].any()
    atlas = atlas_from(lifted(found, basis(), ONTOLOGY), ONTOLOGY, "x")
    assert atlas.present == ("a", "c")


def test_under_heavy_noise_the_covariance_stays_one_and_means_stay_inside_the_clip() -> None:
    deviation = 40.0
    for _ in range(3):
        noisy = as_sum(with_noise(exact_of(200), deviation * GRAINS), PLAN)
        found = repaired(noisy, PLAN, deviation, 1)
        floor = deviation * np.sqrt(6) / max(found.counts.sum(), 1.0)
        assert np.linalg.eigvalsh(found.covariance)[0] >= min(floor, 1.0) * (1 - 1e-9)
        assert np.linalg.norm(found.means, axis=1).max() <= 1 + 1e-12
        count, _ = found.cells["view"]
        assert (count.sum(axis=1) <= found.counts + 1e-9).all()


def test_without_a_second_moment_every_direction_varies_alike() -> None:
    plan = CellPlan(3, (), 3, covariance=False)
    mu, labels, attributes, who = world(200)
    cells = exact_cells(basis().coordinates(mu), labels, attributes[:, :0], who, plan)
    found = repaired(as_sum(cells, plan), plan, 0.0, 1)
    np.testing.assert_array_equal(found.covariance, np.eye(3) / 3)
