from dataclasses import replace

import numpy as np
import pytest

from mfm_core.atlas import Atlas, atlas_from
from mfm_core.collateral import Probes, collateral, probes_of
from mfm_core.config import OntologyConfig
from mfm_core.latent_sums import latent_sum

ONTOLOGY = OntologyConfig(
    classes=("well", "ill", "absent"),
    attributes={"view": ("AP", "PA"), "sex": ("F", "M"), "site": ("x", "y", "z")},
)
ALPHAS = np.linspace(-2, 2, 11)


def small_atlas(one_sided: bool = False) -> Atlas:
    rng = np.random.default_rng(0)
    n = 6000
    labels = rng.integers(0, 2, n)
    view = np.where(rng.random(n) < 0.8, labels, 1 - labels)
    sex, site = rng.integers(0, 2, n), rng.integers(0, 3, n)
    mu = rng.normal(0, 1, (n, 6)) * np.array([1, 2, 1, 1, 1, 3.0])
    mu[:, 0] += 2 * labels
    mu[:, 1] += 3 * view
    mu[:, 2] += sex
    mu[:, 3] += site == 2
    attributes = np.stack([labels * 0 if one_sided else view, sex, site], axis=1)
    return atlas_from(latent_sum(mu, labels, attributes, np.arange(n), ONTOLOGY), ONTOLOGY, "h")


def moved(direction):
    return ALPHAS[:, None] * np.asarray(direction, dtype=np.float32)


def test_probes_have_deviation_one_within_a_class():
    atlas = small_atlas()
    found = probes_of(atlas)
    for row in (*found.targets.values(), *found.attributes["view"], *found.attributes["site"]):
        assert row @ atlas.covariance @ row == pytest.approx(1, rel=0.02)
    assert set(found.targets) == {"well", "ill"}


def test_an_attribute_that_only_goes_with_the_class_is_not_collateral_of_the_pure_class():
    atlas = small_atlas()
    probes = probes_of(atlas)
    assert np.argmax(np.abs(probes.attributes["view"][1])) == 1
    pure = collateral(probes, "ill", ALPHAS, moved([2, 0, 0, 0, 0, 0]))
    dragged = collateral(probes, "ill", ALPHAS, moved([2, 1.8, 0, 0, 0, 0]))
    assert pure["view"] < 0.1
    assert dragged["view"] > 0.25
    assert max(dragged["sex"], dragged["site"]) < 0.1


def test_read_from_the_moved_latents_it_is_the_mahalanobis_cosine_of_the_axes():
    atlas = small_atlas()
    axis, delta = atlas.class_axis("ill"), atlas.attribute_axis("view", "PA", "AP")
    share = 6 / (6 + atlas.counts.sum())
    spread = (1 - share) * atlas.covariance
    spread += share * np.trace(atlas.covariance) / 6 * np.eye(6)
    inverse = np.linalg.inv(spread)
    cosine = abs(axis @ inverse @ delta) / np.sqrt(
        (axis @ inverse @ axis) * (delta @ inverse @ delta)
    )
    found = collateral(probes_of(atlas), "ill", ALPHAS, moved(axis).astype(np.float64))
    assert found["view"] == pytest.approx(cosine, rel=1e-6)


def test_of_several_values_the_one_that_changes_most_counts():
    rows = np.array([[0.0, 0.5], [0.0, -0.9], [0.1, 0.2]])
    probes = Probes({"ill": np.array([2.0, 0.0])}, {"site": rows})
    assert collateral(probes, "ill", ALPHAS, moved([1, 1])) == {"site": pytest.approx(0.45)}


def test_a_one_sided_attribute_has_no_figure_and_no_change_gives_infinity():
    atlas = small_atlas(one_sided=True)
    probes = probes_of(atlas)
    assert set(collateral(probes, "ill", ALPHAS, moved([2, 0, 0, 0, 0, 0]))) == {"sex", "site"}
    still = collateral(probes, "ill", ALPHAS, np.zeros((11, 6)))
    assert all(np.isinf(value) for value in still.values())


def test_with_one_class_alone_there_is_no_target():
    atlas = small_atlas()
    lone = replace(atlas, counts=np.array([10.0, 0.0, 0.0]))
    assert probes_of(lone).targets == {}
