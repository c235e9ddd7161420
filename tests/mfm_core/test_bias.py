"""What is planted is found, what is merely visible is not, and nothing crashes on one side."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mfm_core.atlas import atlas_from
from mfm_core.bias import (
    SMALLEST_AUC,
    SMALLEST_EFFECT,
    BiasRow,
    encoded_auc,
    here_or_elsewhere,
    rank_biases,
    rank_fields,
    with_sites,
)
from mfm_core.config import OntologyConfig
from mfm_core.errors import DataError
from mfm_core.head import Head, fit_heads
from mfm_core.latent_sums import latent_sum
from tests.mfm_core.latent_world import ONTOLOGY, draw_latents, head_using


def pick(rows, attribute: str, label: str, value: str | None = None) -> BiasRow:
    return next(
        row
        for row in rows
        if (row.attribute, row.class_name) == (attribute, label) and value in (None, row.value)
    )


def test_a_used_field_is_flagged_and_a_visible_unused_one_is_not():
    rows = rank_biases(draw_latents(2).atlas(), head_using(0.7))
    assert (rows[0].attribute, rows[0].class_name) == ("view", "effusion")
    assert rank_fields(rows)[0] is rows[0]
    assert rows[0].flagged
    assert "higher for effusion with AP than with PA" in rows[0].sentence
    sex = pick(rows, "sex", "effusion")
    assert sex.encoded_auc > 0.85  # as visible as the view
    assert not sex.flagged
    assert "hardly moves" in sex.sentence
    coin = pick(rows, "coin", "effusion")
    assert coin.encoded_auc < SMALLEST_AUC
    assert not coin.flagged
    assert len(rows) == 6 * 3
    scores = [row.score for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_being_visible_alone_raises_alarms_at_the_nominal_rate():
    rows = [rank_biases(draw_latents(seed).atlas(), head_using(0.7)) for seed in range(30)]
    sex = [row for found in rows for row in found if row.attribute == "sex"]
    assert min(row.encoded_auc for row in sex) > 0.85
    assert np.mean([row.p < 0.05 for row in sex]) < 0.12
    assert np.mean([row.flagged for row in sex]) < 0.05


def test_figures_are_those_of_the_definition():
    data, head = draw_latents(2, people=4000, coupling=0.5), head_using(0.5)
    atlas = data.atlas()
    row = pick(rank_biases(atlas, head), "view", "effusion")
    axis = atlas.attribute_axis("view", "AP", "PA")
    pull = head.weight[0] - head.weight[1:].mean(axis=0)
    assert row.tau == pytest.approx(float(pull @ axis), rel=1e-5)
    sd = np.sqrt(pull @ atlas.covariance @ pull)
    assert row.effect == pytest.approx(row.tau / float(sd), rel=1e-5)
    assert row.score == pytest.approx((2 * row.encoded_auc - 1) * abs(row.effect))
    ill, lying = data.labels == 0, data.attributes[:, 0] == 0
    assert row.phi == pytest.approx(np.corrcoef(ill, lying)[0, 1], abs=1e-9)
    inverse, other = np.linalg.inv(atlas.covariance), atlas.class_axis("effusion")
    size = np.sqrt((axis @ inverse @ axis) * (other @ inverse @ other))
    assert row.aligned == pytest.approx(float(axis @ inverse @ other / size), abs=1e-6)
    # unit variance on the view's axis, 3 apart: AUC = Phi(3 / 2) = 0.933
    assert row.encoded_auc == pytest.approx(0.933, abs=0.01)


def test_a_visible_field_reads_its_auc_from_few_patients_too():
    for people, within in ((100, 0.06), (300, 0.04), (1000, 0.02)):
        found = [
            pick(
                rank_biases(draw_latents(s, people=people).atlas(), head_using(0.7)), "sex", "none"
            )
            for s in range(5)
        ]
        assert np.mean([row.encoded_auc for row in found]) == pytest.approx(0.933, abs=within)


@pytest.mark.parametrize("people", [300, 1000, 5000])
def test_null_fields_read_half_and_raise_no_alarm(people: int) -> None:
    """Twenty coins on latents of 64 numbers: a coin is in every class, and the head is LDA's."""
    draw = np.random.default_rng(people)
    names = tuple(f"coin{number}" for number in range(20))
    ontology = OntologyConfig(classes=("a", "b", "c"), attributes=dict.fromkeys(names, ("x", "y")))
    label, size = draw.integers(0, 3, people), 64
    mu = draw.normal(size=(people, size)) * np.geomspace(3, 0.1, size)
    mu[np.arange(people), label] += 4.0
    coins = (draw.random((people, 20)) < np.linspace(0.2, 0.8, 20)).astype(np.int64)
    total = latent_sum(mu, label, coins, np.arange(people), ontology)
    atlas = atlas_from(total, ontology, "hash")
    rows = rank_biases(atlas, fit_heads(atlas, (0.1,))[0])
    assert sum(row.flagged for row in rows) <= 1
    found = np.array([pick(rows, name, "a").encoded_auc for name in names])
    assert np.median(found) < 0.55
    assert found.max() < 0.66
    p = np.array([row.p for row in rows])
    assert (p <= 0.05).mean() < 0.10
    assert (p <= 0.5).mean() < 0.62


def test_fields_of_single_images_raise_no_more_alarms_than_fields_of_patients():
    data, draw = draw_latents(3, people=200, films=3), np.random.default_rng(4)
    alarms = 0
    for _ in range(20):
        tossed = data.with_attribute("coin", draw.integers(0, 2, len(data.labels)))
        rows = rank_biases(tossed.atlas(), head_using(0.7))
        alarms += sum(row.p < 0.05 for row in rows if row.attribute == "coin")
    assert alarms <= 0.1 * 20 * 3


def test_a_field_within_patients_is_seen_and_its_auc_is_no_overestimate():
    draw = np.random.default_rng(5)
    data = draw_latents(5, people=500, films=2)
    view = draw.integers(0, 2, len(data.labels))
    mu = data.mu.copy()
    mu[:, 3] += 3.0 * ((view == 0).astype(float) - (data.attributes[:, 0] == 0))
    mixed = replace(data.with_attribute("view", view), mu=mu)
    row = pick(rank_biases(mixed.atlas(), head_using(0.7)), "view", "effusion")
    assert row.flagged
    assert 0.8 < row.encoded_auc < 0.95


def test_the_sign_of_a_coupling_does_not_matter():
    for coupling in (0.6, -0.6):
        data = draw_latents(6, coupling=coupling)
        atlas = data.atlas()
        rows = rank_biases(atlas, fit_heads(atlas, (0.01,))[0])
        assert rows[0].attribute == "view"
        assert rows[0].flagged
        effusion = pick(rows, "view", "effusion")
        assert np.sign(effusion.phi) == np.sign(coupling)
        assert ("more often" if coupling > 0 else "less often") in effusion.sentence


def test_sites_are_ranked_like_any_field():
    data = draw_latents(7, people=900)
    site = data.patients % 3
    mu = data.mu.copy()
    mu[site == 2, 3] += 3.0  # one site's machine looks like AP
    moved = replace(data, mu=mu)
    cells = {str(s): moved.sums(np.flatnonzero(site == s)) for s in range(3)}
    rows = rank_biases(with_sites(moved.atlas(), cells), head_using(0.7))
    found = pick(rows, "site", "effusion", "2")
    assert found.flagged
    assert found.against == "0 or 1"
    here = rank_biases(here_or_elsewhere(moved.atlas(), cells["2"]), head_using(0.7))
    own = pick(here, "site", "effusion", "here")
    assert own.tau == pytest.approx(found.tau)
    assert own.encoded_auc == pytest.approx(found.encoded_auc)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (lambda data: np.zeros_like(data.labels), "every patient is on one side"),
        (lambda data: np.full_like(data.labels, -1), "no patient with a known value"),
        (lambda data: (data.labels == 0).astype(np.int64), "cannot be told apart"),
        (lambda data: (np.arange(len(data.labels)) < 4).astype(np.int64), "too few patients"),
    ],
)
def test_a_field_that_cannot_be_judged_gives_rows_with_a_reason(values, text):
    data = draw_latents(8)
    rows = rank_biases(data.with_attribute("view", values(data)).atlas(), head_using(0.7))
    view = [row for row in rows if row.attribute == "view"]
    assert len(view) == 3
    for row in view:
        assert text in row.reason
        assert (row.score, row.p, row.q, row.flagged) == (None, None, None, False)
        assert text in row.sentence
    assert rows[-3:] == tuple(view)
    assert rows[0].score is not None


def test_all_suppressed_cells_give_reasons_and_no_crash():
    atlas = draw_latents(9).atlas()
    counts = {name: np.zeros_like(c) for name, c in atlas.attribute_counts.items()}
    means = {name: np.zeros_like(m) for name, m in atlas.attribute_means.items()}
    empty = replace(atlas, attribute_counts=counts, attribute_means=means)
    rows = rank_biases(empty, head_using(0.7))
    assert len(rows) == 18
    assert all(row.reason for row in rows)
    nothing = replace(empty, counts=np.zeros(3), means=np.zeros_like(atlas.means))
    assert all("too few" in row.reason for row in rank_biases(nothing, head_using(0.7)))


def test_a_class_without_patients_is_named():
    data = draw_latents(10)
    atlas = atlas_from(data.sums(np.flatnonzero(data.labels != 1)), ONTOLOGY, "hash")
    rows = rank_biases(atlas, head_using(0.7))
    assert pick(rows, "view", "nodule").reason == "no patient of this class was counted"
    assert pick(rows, "view", "effusion").flagged


def test_an_ontology_without_attributes_has_no_rows():
    data = draw_latents(11)
    ontology = OntologyConfig(classes=ONTOLOGY.classes)
    columns = (data.labels, np.zeros((len(data.labels), 0), dtype=np.int64), data.patients)
    atlas = atlas_from(latent_sum(data.mu, *columns, ontology), ontology, "hash")
    assert rank_biases(atlas, head_using(0.7)) == ()


def test_a_head_that_says_nothing_uses_nothing():
    rows = rank_biases(draw_latents(12).atlas(), head_using(0.0, scale=0.0))
    assert not any(row.flagged for row in rows)
    assert {row.effect for row in rows} == {0.0}


def test_wrong_arrays_are_refused_all_at_once():
    atlas, head = draw_latents(13).atlas(), head_using(0.7)
    broken = replace(atlas, covariance=np.full_like(atlas.covariance, np.nan))
    weight = head.weight.copy()
    weight[0, 0] = np.inf
    with pytest.raises(DataError) as refused:
        rank_biases(broken, Head(weight, head.bias))
    assert len(refused.value.problems) == 2
    with pytest.raises(DataError, match=r"shape \(3, 11\), the atlas needs \(3, 12\)"):
        rank_biases(atlas, head_using(0.7, size=11))
    below = replace(atlas, counts=-atlas.counts)
    with pytest.raises(DataError, match="below 0"):
        rank_biases(below, head)


def test_rows_are_ready_for_json_and_repeatable():
    atlas = draw_latents(14).atlas()
    first, again = rank_biases(atlas, head_using(0.7)), rank_biases(atlas, head_using(0.7))
    assert first == again
    content = json.loads(json.dumps([row.to_dict() for row in first], allow_nan=False))
    assert content[0]["class"] == "effusion"
    assert content[0]["flagged"] is True
    assert set(content[0]) == {*vars(first[0]), "class"} - {"class_name"}


def test_flags_need_a_minimum_effect():
    rows = rank_biases(draw_latents(15, people=20_000).atlas(), head_using(0.03))
    row = pick(rows, "view", "effusion")
    assert row.q < 0.01
    assert abs(row.effect) < SMALLEST_EFFECT
    assert not row.flagged


def test_auc_of_no_distance_is_half():
    np.testing.assert_allclose(
        encoded_auc(np.array([-1.0, 0.0, 4.0])), [0.5, 0.5, 0.841345], atol=1e-6
    )
