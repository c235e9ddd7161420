"""Flips are counted per patient, add over sites, and are none where the head looks elsewhere."""

from dataclasses import replace

import numpy as np
import pytest

from mfm_core.errors import DataError
from mfm_core.flips import empty_flip_sum, flip_figures, flip_sum, without_small_cells
from tests.mfm_core.latent_world import ONTOLOGY, Latents, draw_latents, head_using


def flips(data: Latents, head, atlas=None):
    atlas = atlas or data.atlas()
    return flip_sum(data.mu, data.labels, data.attributes, data.patients, atlas, head)


def row_of(rows, attribute, label):
    return next(r for r in rows if (r["attribute"], r["class"]) == (attribute, label))


def test_the_schema_follows_from_the_ontology_alone():
    assert flips(draw_latents(1), head_using(1.0)).schema == empty_flip_sum(ONTOLOGY).schema
    assert not empty_flip_sum(ONTOLOGY).flatten().any()


def test_flips_are_what_a_plain_loop_counts():
    data, head = draw_latents(2, people=200), head_using(0.8)
    axis = data.atlas().attribute_axis("view", "AP", "PA")
    expected = np.zeros(3)
    for latent, label, value in zip(data.mu, data.labels, data.attributes[:, 0], strict=True):
        moved = latent + (axis if value == 1 else -axis)
        before, after = head.logits(np.stack([latent, moved])).argmax(axis=1)
        expected[label] += before != after
    total = flips(data, head)
    np.testing.assert_array_equal(total["flip.view.flipped"][0], expected)
    assert expected.sum() > 20
    assert total["flip.images"][0] == 200


def test_a_head_that_ignores_a_field_is_not_flipped_by_it():
    data = draw_latents(3)
    rows = flip_figures(flips(data, head_using(1.0)), ONTOLOGY)
    assert row_of(rows, "view", "nodule")["share"] > 0.2
    assert row_of(rows, "sex", "effusion")["share"] < 0.05
    assert row_of(rows, "coin", "none")["share"] < 0.05


def test_sites_add_up_to_the_pooled_count():
    data, head = draw_latents(4, films=2), head_using(0.7)
    atlas, parts = data.atlas(), []
    for site in range(3):
        mine = data.patients % 3 == site
        columns = (data.mu[mine], data.labels[mine], data.attributes[mine], data.patients[mine])
        parts.append(flip_sum(*columns, atlas, head))
    merged = parts[0].merge(parts[1]).merge(parts[2])
    np.testing.assert_allclose(merged.flatten(), flips(data, head, atlas).flatten(), atol=1e-9)


def test_a_patient_counts_once_whatever_the_number_of_images():
    data, head = draw_latents(5, people=90), head_using(0.7)
    atlas = data.atlas()
    again = np.concatenate([np.arange(90), np.repeat(np.arange(30), 4)])
    more = Latents(*(part[again] for part in vars(data).values()))
    once, often = flips(data, head, atlas), flips(more, head, atlas)
    for name in ("flip.view.count", "flip.view.flipped", "flip.marker.flipped"):
        np.testing.assert_allclose(often[name], once[name], atol=1e-9)


def test_unknown_values_and_labels_are_left_out():
    data = draw_latents(6)
    atlas, attributes, labels = data.atlas(), data.attributes.copy(), data.labels.copy()
    attributes[:100, 0] = -1
    labels[-50:] = -1
    total = flips(replace(data, attributes=attributes, labels=labels), head_using(1.0), atlas)
    assert total["flip.view.count"].sum() == 600 - 150
    assert total["flip.sex.count"].sum() == 600 - 50


def test_a_one_sided_field_counts_nobody_and_says_so():
    data = draw_latents(7)
    only = data.with_attribute("view", np.zeros_like(data.labels))
    rows = flip_figures(flips(only, head_using(1.0)), ONTOLOGY)
    row = row_of(rows, "view", "effusion")
    assert row["share"] is None
    assert row["reason"] == "no patient was counted"


def test_small_cells_are_suppressed():
    data = draw_latents(8, people=60)
    total = flips(data, head_using(1.0))
    large = float(np.median(total["flip.view.count"]))
    kept = without_small_cells(total, large)
    small = total["flip.view.count"] < large
    assert small.any() and not small.all()
    assert not kept["flip.view.count"][small].any()
    assert not kept["flip.view.flipped"][small].any()
    np.testing.assert_array_equal(kept["flip.view.count"][~small], total["flip.view.count"][~small])
    reasons = [row["reason"] for row in flip_figures(total, ONTOLOGY, smallest=1000)]
    assert set(reasons) == {"fewer than 1000 patients; not shown"}


def test_what_cannot_be_used_is_refused_all_at_once():
    data, head = draw_latents(9, people=50), head_using(1.0)
    atlas = data.atlas()
    broken, labels = data.mu.copy(), data.labels.copy()
    broken[0, 0], labels[0] = np.nan, 7
    with pytest.raises(DataError) as refused:
        flips(replace(data, mu=broken, labels=labels), head, atlas)
    assert len(refused.value.problems) == 2
    with pytest.raises(DataError, match="same run"):
        flips(data, head_using(1.0, size=11), atlas)
    with pytest.raises(DataError, match="of shape"):
        flips(replace(data, labels=data.labels[:10]), head, atlas)
