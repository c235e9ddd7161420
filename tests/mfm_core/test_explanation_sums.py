import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from mfm_core import explanation_sums
from mfm_core.atlas import atlas_from
from mfm_core.checkpoint import encoder_hash
from mfm_core.config import OntologyConfig
from mfm_core.dataset import ImageSet
from mfm_core.errors import CheckpointError
from mfm_core.explanation_sums import (
    ALL_CLASSES,
    empty_explanation_sum,
    explanation_figures,
    explanation_sum,
)
from mfm_core.inference import infer
from mfm_core.latent_sums import latent_sum
from mfm_core.metric_table import metrics_of
from tests.mfm_core.blob_world import CLASSES, blob_world

SMALL = np.arange(156, 180)
"""Images of the blob world with all labels alike often; few enough to be scored all."""


def quick_scores(bench, case):
    """Stand in for the real scores: they follow from the image, its question and its seed."""
    light = float(case.image.mean())
    scores = {"cycle": light, "flip_rate": float(case.own), "ssim_whole": case.seed % 101 / 100}
    if case.own and case.mask is not None and case.mask.any():
        scores["iou.class_shift"] = float(case.mask.mean())
    return scores


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(explanation_sums, "score_case", quick_scores)


def scored(indices=SMALL, images=None, masked=True, **extent):
    world = blob_world()
    images = world.images if images is None else images
    masks = world.masks if masked else None
    extent.setdefault("per_class", 100)
    return explanation_sum(world.model, world.atlas, images, indices, masks, **extent)


def same(one, other):
    return one.schema == other.schema and np.array_equal(one.flatten(), other.flatten())


@cache
def rows_of_faithful_world():
    world = blob_world(empty_class=True)
    rows = world.images.select("test")
    total = explanation_sum(world.model, world.atlas, world.images, rows, world.masks, per_class=4)
    return total, explanation_figures(total, world.ontology)


def test_goals_are_reached_in_a_world_where_the_model_is_faithful():
    _, rows = rows_of_faithful_world()
    assert [row["class"] for row in rows] == [*CLASSES, "never seen", ALL_CLASSES]
    for row in rows[:3]:
        assert row["n"] == 8
        for name in ("spearman", "strictly_monotone", "flip_rate", "cycle", "sanity_labels"):
            assert row[name]["met"] is True, name
        assert row["spearman"]["low"] >= 0.95 and 0 < row["flip_alpha"]["value"] <= 2
    assert rows[0]["n_masks"] == 0 and rows[0]["iou"]["class_shift"]["value"] is None
    assert rows[0]["ssim_outside"]["value"] is None and rows[0]["ssim_whole"]["n"] > 0
    for row in rows[1:3]:
        assert row["n_masks"] == 4 and row["iou"]["class_shift"]["value"] > 0.3
        assert row["pointing"]["class_shift"]["value"] == 1.0
        assert row["ssim_outside"]["value"] > row["ssim_whole"]["value"]


def test_a_class_that_nobody_has_is_null_everywhere():
    _, rows = rows_of_faithful_world()
    assert rows[3]["n"] == 0
    assert all(rows[3][name]["value"] is None for name in ("spearman", "flip_rate", "ssim"))
    assert all(figure["n"] == 0 for figure in rows[3]["deletion"].values())


def test_the_table_is_json_and_says_how_wide_its_intervals_are():
    _, rows = rows_of_faithful_world()
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    figure = rows[-1]["iou"]["class_shift"]
    assert set(figure) == {"value", "low", "high", "n", "goal", "met"}
    assert figure["low"] < figure["value"] < figure["high"]


def test_the_names_follow_from_the_ontology_alone(quick):
    world = blob_world()
    assert scored().schema == empty_explanation_sum(world.ontology).schema
    ontology = OntologyConfig(classes=CLASSES, attributes={"view": ("AP", "PA")})
    assert "collateral.view" in empty_explanation_sum(ontology).arrays


def test_sums_of_two_sites_are_the_sum_over_their_pooled_images(quick):
    merged = scored(SMALL[::2]).merge(scored(SMALL[1::2]))
    assert same(merged, scored()) and merged["scored"][-1] == len(SMALL)


def test_real_scores_of_two_sites_are_those_of_the_pooled_images():
    some = SMALL[:3]
    parts = [scored(part, masked=False) for part in (some[:1], some[1:])]
    assert same(parts[0].merge(parts[1]), scored(some, masked=False))


def test_the_order_of_the_images_does_not_matter(quick):
    assert same(scored(SMALL[::-1].copy(), per_class=2), scored(per_class=2))


def test_another_seed_chooses_other_images(quick):
    assert not same(scored(per_class=2), scored(per_class=2, seed=1))


def test_each_patient_stands_once_in_a_row(quick):
    world = blob_world()
    patients = np.arange(len(world.images)) // 9 * 3 + world.images.labels
    total = scored(images=replace(world.images, patients=patients))
    people = len(np.unique(patients[SMALL]))
    assert total["scored"][-1] == people < len(SMALL)
    for metric in metrics_of(world.ontology):
        assert (total[metric.name].sum(axis=1) <= total["scored"]).all()
    own = [len(np.unique(patients[SMALL][world.images.labels[SMALL] == k])) for k in range(3)]
    assert total["iou.class_shift"].sum(axis=1).tolist() == [0, *own[1:], sum(own[1:])]
    assert total["scored"][:3].sum() == 2 * people


def test_a_patient_with_images_of_two_classes_is_scored_for_one(quick):
    world = blob_world()
    lone = replace(world.images, patients=np.zeros(len(world.images), dtype=np.int64))
    assert scored(images=lone)["scored"][:3].sum() == 2 and scored(images=lone)["scored"][-1] == 1


def test_in_the_last_row_both_kinds_of_question_count(quick):
    own = scored()["flip_rate"][-1]
    assert own.sum() == len(SMALL) and own.min() > 0


def test_no_more_than_asked_are_scored_per_class(quick):
    total = scored(per_class=2)
    assert (total["scored"][:3] == 4).all()
    assert (total["flip_rate"].sum(axis=1) == total["scored"]).all()
    assert (total["flip_rate"][:3, 1] == 2).all()


def test_small_cells_stay_at_the_site_and_are_counted(quick):
    free, held = scored(per_class=2), scored(per_class=2, smallest=3)
    assert free["suppressed"].sum() == 0
    assert np.array_equal(held["scored"], free["scored"])
    assert np.array_equal(held["cycle"], free["cycle"])
    assert free["iou.class_shift"][1].sum() == 2
    assert held["iou.class_shift"][1].sum() == 0
    assert held["suppressed"][:3].tolist() == [0, 1, 1]


def test_no_cell_of_fewer_than_the_smallest_leaves(quick):
    for smallest in (2, 5, 9, 30, 1000):
        total = scored(smallest=smallest)
        for name in ("scored", *(metric.name for metric in metrics_of(blob_world().ontology))):
            cells = total[name] if name == "scored" else total[name].sum(axis=1)
            assert ((cells == 0) | (cells >= smallest)).all()
    assert total["suppressed"].sum() > 0


def test_a_class_that_is_held_back_adds_nothing_to_the_last_row(quick):
    labels = blob_world().images.labels
    few = np.concatenate([np.flatnonzero(labels == 0)[:9], np.flatnonzero(labels == 1)[:1]])
    total = scored(few, smallest=8)
    assert (total["scored"] > 0).tolist() == [True, False, False, True]
    for metric in metrics_of(blob_world().ontology):
        assert np.array_equal(total[metric.name][-1], total[metric.name][0])


def test_a_withheld_cell_is_not_the_last_row_less_the_other_rows(monkeypatch):
    def few_maps(bench, case):
        return {"cycle": 0.1} | ({"deletion.class_shift": case.seed % 9 / 10} if case.own else {})

    monkeypatch.setattr(explanation_sums, "score_case", few_maps)
    labels = blob_world().images.labels
    chosen = np.concatenate([np.flatnonzero(labels == k)[:n] for k, n in enumerate((3, 12, 12))])
    total = scored(chosen, smallest=6)
    maps = total["deletion.class_shift"].sum(axis=1)
    assert total["scored"][0] >= 6 and maps[0] == 0 and maps[1:3].min() >= 6
    assert np.array_equal(
        total["deletion.class_shift"][3], total["deletion.class_shift"][1:3].sum(0)
    )


def test_no_images_and_unlabelled_images_give_the_empty_sum():
    world = blob_world()
    unlabelled = replace(world.images, labels=np.full(len(world.images), -1))
    empty = empty_explanation_sum(world.ontology)
    assert same(scored(SMALL[:0]), empty) and same(scored(images=unlabelled), empty)


def test_an_atlas_of_another_encoder_is_refused():
    world = blob_world()
    other = replace(world.atlas, encoder_hash="0" * 64)
    with pytest.raises(CheckpointError, match="same run"):
        explanation_sum(world.model, other, world.images, SMALL)


def test_collateral_is_scored_per_attribute_and_null_where_it_is_one_sided():
    world = blob_world()
    ontology = OntologyConfig(
        classes=CLASSES, attributes={"tilt": ("up", "down"), "view": ("AP", "PA")}
    )
    below = world.images.images[:, 0, 24:].mean(axis=(1, 2)) > world.images.images[
        :, 0, :8
    ].mean(axis=(1, 2))  # fmt: skip
    attributes = np.stack([below.astype(np.int64), np.zeros(len(below), dtype=np.int64)], axis=1)
    images = ImageSet(
        world.images.images, world.images.labels, attributes, world.images.patients,
        world.images.splits,
    )  # fmt: skip
    train = images.select("train")
    mu = infer(world.model, images, train).mu
    cells = latent_sum(mu, images.labels[train], attributes[train], train, ontology)
    atlas = atlas_from(cells, ontology, encoder_hash(world.model))
    total = explanation_sum(world.model, atlas, images, SMALL, per_class=1)
    row = explanation_figures(total, ontology)[-1]
    assert row["collateral"]["view"]["value"] is None and row["collateral"]["view"]["n"] == 0
    assert row["collateral"]["tilt"]["n"] == row["n"] > 0
    assert 0 <= row["collateral"]["tilt"]["value"] < 1
