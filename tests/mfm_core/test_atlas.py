"""Federated equals pooled; axes are the paper's; what nobody measured is refused, not guessed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfm_core.atlas import Atlas, atlas_from, load_atlas, save_atlas
from mfm_core.checkpoint import load_arrays, save_arrays
from mfm_core.config import OntologyConfig
from mfm_core.errors import CheckpointError, ConfigError, DataError
from mfm_core.latent_sums import latent_sum
from mfm_core.sums import Accumulator, Sum

ONTOLOGY = OntologyConfig(classes=("ill", "rare", "well"), attributes={"view": ("AP", "PA")})


def cohort(seed: int, people: int = 120, size: int = 6) -> tuple[np.ndarray, ...]:
    """Return mu, labels, attributes, patients: one to four images a person, far from zero."""
    draw = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), draw.integers(1, 5, people))
    labels = draw.choice(3, people, p=(0.5, 0.1, 0.4))[who]
    labels[draw.random(len(who)) < 0.1] = -1
    view = draw.integers(-1, 2, len(who))
    mu = 3.0 + draw.normal(size=(people, size))[who] + 0.4 * draw.normal(size=(len(who), size))
    mu[:, 0] += 2.0 * (labels == 0)
    mu[:, 1] += 1.5 * (view == 1)
    return mu, labels, view[:, None], who


def pick(data: tuple[np.ndarray, ...], rows: np.ndarray) -> Sum:
    mu, labels, attributes, who = (part[rows] for part in data)
    return latent_sum(mu, labels, attributes, who, ONTOLOGY)


def pooled(seed: int) -> Atlas:
    return atlas_from(latent_sum(*cohort(seed), ONTOLOGY), ONTOLOGY, "hash")


def everything(atlas: Atlas) -> dict[str, np.ndarray]:
    return {
        "means": atlas.means,
        "covariance": atlas.covariance,
        "axis": atlas.class_axis("ill"),
        "versus": atlas.class_axis("ill", "well"),
        "conditional": atlas.attribute_axis("view", "PA", "AP"),
        "marginal": atlas.attribute_axis("view", "PA", "AP", conditional=False),
        "cells": atlas.attribute_means["view"],
    }


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_federated_equals_pooled(seed: int, sites: int) -> None:
    data, draw = cohort(seed), np.random.default_rng(seed)
    home = draw.integers(0, sites, int(data[3].max()) + 1)[data[3]]
    parts = [pick(data, np.flatnonzero(home == site)) for site in range(sites)]
    merged, accumulator = parts[0], Accumulator(parts[0].flatten().size)
    for part in parts[1:]:
        merged = merged.merge(part)
    for site in draw.permutation(sites):
        accumulator.add(parts[site].flatten())
    fixed = Sum.unflatten(merged.schema, accumulator.result())
    expected = everything(pooled(seed))
    for total in (merged, fixed):
        found = everything(atlas_from(total, ONTOLOGY, "hash"))
        for name, array in expected.items():
            scale = max(1.0, float(np.abs(array).max()))
            assert np.abs(found[name] - array).max() <= 1e-8 * scale, name


def test_class_axis_is_mean_of_the_class_minus_mean_of_all_others() -> None:
    mu, labels, _, who = cohort(1)
    pairs = set(zip(who.tolist(), labels.tolist(), strict=True))
    units = {(w, k): mu[(who == w) & (labels == k)].mean(axis=0) for w, k in pairs}
    ill = [u for (_, k), u in units.items() if k == 0]
    others = [u for (_, k), u in units.items() if k > 0]
    well = [u for (_, k), u in units.items() if k == 2]
    atlas = pooled(1)
    np.testing.assert_allclose(
        atlas.class_axis("ill"), np.mean(ill, axis=0) - np.mean(others, axis=0), atol=1e-12
    )
    np.testing.assert_allclose(
        atlas.class_axis("ill", "well"), np.mean(ill, axis=0) - np.mean(well, axis=0), atol=1e-12
    )
    np.testing.assert_allclose(
        atlas.class_axis("well", "ill"), -atlas.class_axis("ill", "well"), atol=1e-12
    )


def test_covariance_is_the_pooled_within_class_one() -> None:
    mu, labels, _, who = cohort(2)
    scatter, people = np.zeros((6, 6)), 0
    for k in range(3):
        units = [mu[(who == w) & (labels == k)].mean(axis=0) for w in set(who[labels == k])]
        scatter += np.cov(np.array(units).T, bias=True) * len(units)
        people += len(units)
    np.testing.assert_allclose(pooled(2).covariance, scatter / (people - 3), atol=1e-10)


def confounded(seed: int, flip: float) -> Atlas:
    """Return an atlas where view PA goes with illness and the true view effect is axis 1."""
    draw = np.random.default_rng(seed)
    people = 6000
    labels = 2 * draw.integers(0, 2, people)
    view = np.where(draw.random(people) < flip, labels == 0, labels == 2).astype(np.int64)
    mu = draw.normal(size=(people, 3))
    mu[:, 0] += 2.0 * (labels == 0)
    mu[:, 1] += 1.0 * (view == 1)
    total = latent_sum(mu, labels, view[:, None], np.arange(people), ONTOLOGY)
    return atlas_from(total, ONTOLOGY, "hash")


@pytest.mark.parametrize("flip", [0.15, 0.5, 0.85])
def test_conditional_axis_holds_the_view_and_not_the_disease(flip: float) -> None:
    atlas = confounded(3, flip)
    conditional = atlas.attribute_axis("view", "PA", "AP")
    marginal = atlas.attribute_axis("view", "PA", "AP", conditional=False)
    np.testing.assert_allclose(conditional, [0.0, 1.0, 0.0], atol=0.12)
    np.testing.assert_allclose(marginal, [2.0 * (2 * flip - 1), 1.0, 0.0], atol=0.12)


def test_conditional_axis_leaves_one_sided_classes_out() -> None:
    mu = np.array([[0.0], [2.0], [10.0], [12.0], [100.0]])
    labels, view = np.array([0, 0, 2, 2, 1]), np.array([0, 1, 0, 1, 1])
    total = latent_sum(mu, labels, view[:, None], np.arange(5), ONTOLOGY)
    atlas = atlas_from(total, ONTOLOGY, "hash")
    np.testing.assert_allclose(atlas.attribute_axis("view", "PA", "AP"), [2.0])
    np.testing.assert_allclose(atlas.attribute_axis("view", "AP", "PA"), [-2.0])


def test_omega_weighs_classes_by_what_they_know() -> None:
    mu = np.array([[0.0]] * 4 + [[1.0]] * 4 + [[0.0]] * 2 + [[4.0]] * 1)
    labels = np.array([0] * 8 + [2] * 3)
    view = np.array([0] * 4 + [1] * 4 + [0] * 2 + [1])
    atlas = atlas_from(
        latent_sum(mu, labels, view[:, None], np.arange(11), ONTOLOGY), ONTOLOGY, "hash"
    )
    expected = (2.0 * 1.0 + (2 / 3) * 4.0) / (2.0 + 2 / 3)
    np.testing.assert_allclose(atlas.attribute_axis("view", "PA", "AP"), [expected])


def test_covariance_of_few_patients_can_be_inverted() -> None:
    draw = np.random.default_rng(4)
    mu, labels = draw.normal(size=(12, 40)), np.repeat([0, 1, 2], 4)
    total = latent_sum(mu, labels, np.zeros((12, 1), dtype=np.int64), np.arange(12), ONTOLOGY)
    variances = np.linalg.eigvalsh(atlas_from(total, ONTOLOGY, "hash").covariance)
    assert variances[0] > 0
    assert variances[-1] / variances[0] < 1e9
    same = latent_sum(
        np.ones((12, 4)), labels, np.zeros((12, 1), dtype=np.int64), np.arange(12), ONTOLOGY
    )
    assert np.linalg.eigvalsh(atlas_from(same, ONTOLOGY, "hash").covariance)[0] > 0


def test_missing_classes_are_refused_with_what_to_do() -> None:
    data = cohort(5)
    atlas = atlas_from(pick(data, np.flatnonzero(data[1] != 1)), ONTOLOGY, "hash")
    assert atlas.present == ("ill", "well")
    assert not atlas.means[1].any()
    for ask in (lambda: atlas.class_axis("rare"), lambda: atlas.class_axis("ill", "rare")):
        with pytest.raises(DataError, match=r"no site .* 'rare'.*choose one of ill, well"):
            ask()
    assert np.isfinite(atlas.class_axis("ill")).all()


def test_one_class_alone_has_no_axis() -> None:
    data = cohort(6)
    atlas = atlas_from(pick(data, np.flatnonzero(data[1] == 0)), ONTOLOGY, "hash")
    with pytest.raises(DataError, match="second class"):
        atlas.class_axis("ill")


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (lambda atlas: atlas.class_axis("flu"), "'flu' is not in the ontology; it has ill"),
        (lambda atlas: atlas.class_axis("ill", "ill"), "against itself"),
        (lambda atlas: atlas.attribute_axis("sex", "F", "M"), "attribute 'sex'"),
        (lambda atlas: atlas.attribute_axis("view", "LL", "AP"), "it has AP, PA"),
        (lambda atlas: atlas.attribute_axis("view", "AP", "AP"), "against itself"),
    ],
)
def test_unknown_names_are_refused(ask: object, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ask(pooled(7))  # type: ignore[operator]


def test_one_sided_attributes_are_refused() -> None:
    mu, labels, view, who = cohort(8)
    only = atlas_from(latent_sum(mu, labels, np.zeros_like(view), who, ONTOLOGY), ONTOLOGY, "hash")
    for conditional in (True, False):
        with pytest.raises(DataError, match="no patient has view 'PA'"):
            only.attribute_axis("view", "PA", "AP", conditional)
    apart = (labels == 0).astype(np.int64)[:, None]
    split = atlas_from(latent_sum(mu, labels, apart, who, ONTOLOGY), ONTOLOGY, "hash")
    with pytest.raises(DataError, match="conditional=False"):
        split.attribute_axis("view", "PA", "AP")
    assert np.isfinite(split.attribute_axis("view", "PA", "AP", conditional=False)).all()


def test_too_few_patients_for_a_covariance_are_refused() -> None:
    total = latent_sum(
        np.eye(3), np.arange(3), np.zeros((3, 1), dtype=np.int64), np.arange(3), ONTOLOGY
    )
    with pytest.raises(DataError, match="3 patients in 3 classes"):
        atlas_from(total, ONTOLOGY, "hash")


def test_file_gives_the_same_atlas_back(tmp_path: Path) -> None:
    total = latent_sum(*cohort(9), ONTOLOGY)
    atlas = atlas_from(total, ONTOLOGY, "encoder", "config")
    save_atlas(tmp_path / "atlas.safetensors", atlas)
    again = load_atlas(tmp_path / "atlas.safetensors", "encoder")
    assert again.ontology == ONTOLOGY
    assert (again.encoder_hash, again.config_hash) == ("encoder", "config")
    assert again.latent_size == 6
    np.testing.assert_array_equal(again.counts, atlas.counts)
    np.testing.assert_array_equal(again.attribute_counts["view"], atlas.attribute_counts["view"])
    for name, array in everything(atlas).items():
        np.testing.assert_array_equal(everything(again)[name], array)


def test_an_atlas_of_another_encoder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "atlas.safetensors"
    save_atlas(path, pooled(10))
    with pytest.raises(CheckpointError, match=r"made with encoder hash.*the model is other"):
        load_atlas(path, "other")
    assert load_atlas(path).encoder_hash == "hash"


def test_files_that_are_no_atlas_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "atlas.safetensors"
    with pytest.raises(CheckpointError, match="no such file"):
        load_atlas(path)
    path.write_bytes(b"not an atlas")
    with pytest.raises(CheckpointError, match="damaged"):
        load_atlas(path)
    save_arrays(path, {"counts": np.ones(2)}, {"kind": "model"})
    with pytest.raises(CheckpointError, match="kind"):
        load_atlas(path)
    save_arrays(path, {"counts": np.ones(2)}, {"kind": "atlas"})
    with pytest.raises(CheckpointError, match="'ontology' is missing"):
        load_atlas(path)
    save_arrays(path, {"counts": np.ones(2)}, {"kind": "atlas", "ontology": '{"x": 1}'})
    with pytest.raises(CheckpointError, match=r"ontology: classes: .*x: ") as caught:
        load_atlas(path)
    assert "pydantic" not in str(caught.value)


def test_arrays_that_do_not_fit_the_ontology_are_named_at_once(tmp_path: Path) -> None:
    path, atlas = tmp_path / "atlas.safetensors", pooled(11)
    counts, cells = atlas.counts.copy(), atlas.attribute_means["view"].copy()
    counts[0], cells[0, 0, 0] = -3, np.nan
    save_atlas(
        path,
        replace(
            atlas,
            counts=counts,
            means=atlas.means[:, :4],
            attribute_counts={"view": atlas.attribute_counts["view"].astype(np.float32)},
            attribute_means={"view": cells},
        ),
    )
    with pytest.raises(CheckpointError, match="restore it") as caught:
        load_atlas(path)
    text = str(caught.value)
    assert "counts holds negative" in text
    assert "covariance is (6, 6) float64, expected (4, 4)" in text
    assert "attribute.view.counts is (3, 2) float32, expected (3, 2) float64" in text
    assert "attribute.view.means is (3, 2, 6)" in text
    save_atlas(path, replace(atlas, attribute_means={"view": cells}))
    with pytest.raises(CheckpointError, match=r"attribute\.view\.means .* not finite"):
        load_atlas(path)


def test_an_atlas_whose_numbers_changed_on_disk_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "atlas.safetensors"
    save_atlas(path, pooled(12))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="changed after saving; restore"):
        load_atlas(path)


def test_an_atlas_without_a_hash_of_its_numbers_is_read(tmp_path: Path) -> None:
    path, atlas = tmp_path / "atlas.safetensors", pooled(13)
    save_atlas(path, atlas)
    arrays, metadata = load_arrays(path, {"kind": "atlas"})
    old = {key: value for key, value in metadata.items() if key not in ("arrays_hash", "format")}
    save_arrays(path, arrays, old)
    np.testing.assert_array_equal(load_atlas(path).means, atlas.means)
