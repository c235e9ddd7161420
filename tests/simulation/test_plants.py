"""The benchmark plants what it says, counts what it says, and finds a plant that anybody could."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mfm_core.errors import ConfigError
from simulation.phantoms import CLASSES
from simulation.plants import (
    FIELDS,
    NULL_FIELDS,
    PHI,
    Outcome,
    Plant,
    Pool,
    PoolSize,
    draw_cohort_rows,
    draw_plant,
    draw_pool,
    judge_cohort,
    make_table,
    plant_all,
    summarise,
    visible_values,
)
from simulation.progress import SilentDisplay

AGE, VIEW = ("age", "65+"), ("view", "AP")


def make_pool(people: int = 2000, seed: int = 0) -> Pool:
    """Return latents of 16 numbers: 5 of the class, 4 of fields; age is nowhere."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 5, people)
    fields = np.column_stack([draw.integers(0, len(v), people) for v in FIELDS.values()])
    mu = draw.normal(size=(people, 16))
    mu[np.arange(people), labels] += 3.0
    for place, (column, value) in enumerate(((0, 0), (1, 0), (3, 2), (4, 0)), start=5):
        mu[:, place] += 3.0 * (fields[:, column] == value)
    return Pool(mu.astype(np.float32), labels, fields, np.arange(people))


def found_phi(pool: Pool, rows, plant: Plant) -> float:
    own = pool.labels[rows] == CLASSES.index(plant.finding)
    column = pool.attributes[rows, list(FIELDS).index(plant.field)]
    return float(np.corrcoef(own, column == FIELDS[plant.field].index(plant.value))[0, 1])


@pytest.mark.parametrize("phi", [-0.8, -0.4, 0.4, 0.8])
def test_a_cohort_has_the_phi_that_was_planted(phi: float) -> None:
    pool, draw = make_pool(), np.random.default_rng(1)
    for field, value in (("view", "AP"), ("marker", "R")):
        plant = Plant(field, value, "effusion", phi)
        rows = draw_cohort_rows(pool, plant, 300, draw)
        assert len(np.unique(rows)) == len(rows)
        assert found_phi(pool, rows, plant) == pytest.approx(phi, abs=0.02)


def test_without_a_plant_nothing_is_coupled() -> None:
    pool = make_pool()
    rows = draw_cohort_rows(pool, None, 1000, np.random.default_rng(2))
    assert len(np.unique(rows)) == 1000
    assert abs(found_phi(pool, rows, Plant("view", "AP", "effusion", 0.5))) < 0.1


def test_a_pool_without_enough_films_is_refused() -> None:
    plant = Plant("marker", "R", "nodule", 0.8)
    with pytest.raises(ConfigError, match="draw more patients or fewer films"):
        draw_cohort_rows(make_pool(300), plant, 300, np.random.default_rng(3))


def test_plants_are_of_the_values_asked_for_and_both_signs() -> None:
    draw = np.random.default_rng(4)
    plants = [draw_plant([AGE, VIEW], draw) for _ in range(200)]
    assert {(plant.field, plant.value) for plant in plants} == {AGE, VIEW}
    assert {plant.finding for plant in plants} == set(CLASSES)
    sizes = [abs(plant.phi) for plant in plants]
    assert PHI[0] <= min(sizes) < 0.42 and 0.78 < max(sizes) <= PHI[1]
    assert 70 < sum(plant.phi > 0 for plant in plants) < 130


def test_what_the_latents_show_is_visible_and_nothing_else() -> None:
    aucs = visible_values(make_pool(), np.random.default_rng(5), 600)
    assert aucs["view", "AP"] > 0.9
    assert max(aucs["age", value] for value in FIELDS["age"]) < 0.6


def test_a_plain_plant_is_found_and_null_fields_are_not() -> None:
    pool, draw = make_pool(), np.random.default_rng(6)
    plants = [Plant("view", "AP", name, phi) for name in CLASSES for phi in (-0.6, 0.6)]
    outcomes = [judge_cohort(pool, plant, draw, 400) for plant in plants]
    assert all(outcome.fields[0] == "view" for outcome in outcomes)
    assert all("view" in outcome.flagged for outcome in outcomes)
    assert sum(name in outcome.flagged for outcome in outcomes for name in NULL_FIELDS) <= 2
    assert set(outcomes[0].fields) == {*FIELDS, *NULL_FIELDS}


def test_lines_count_fields_and_cohorts() -> None:
    plant = Plant("view", "AP", "nodule", 0.5)
    hit = Outcome(plant, ("view", "coin"), ("view", "coin"))
    miss = replace(hit, fields=("sex", "view"), flagged=())
    none = Outcome(None, ("sex",), ("sex", "clerk"))
    lines = {line.what: line.to_dict() for line in summarise([hit, miss], [miss], [none])}
    first = lines["planted field ranked first"]
    assert (first["hits"], first["n"], first["met"]) == (1, 2, False)
    assert lines["null fields flagged, beside a plant"]["hits"] == 1
    assert lines["null fields flagged, beside a plant"]["n"] == 6
    assert lines["null fields flagged, no plant"]["share"] == pytest.approx(1 / 3)
    assert lines["fields of the films flagged, no plant"]["hits"] == 1
    assert lines["ranked first: age"]["share"] is None
    assert lines["other values, ranked first"]["n"] == 1


def test_the_whole_benchmark_repeats_and_is_ready_for_json() -> None:
    pool = make_pool()
    values = dict.fromkeys([VIEW, ("sex", "F")], 0.9) | {AGE: 0.5}

    def run():
        draw = np.random.default_rng(7)
        return plant_all(pool, values, 3, draw, SilentDisplay(), 300)

    content = run()
    assert content == run()
    json.dumps(content, allow_nan=False)
    planted = [entry["plant"] for entry in content["plants"]]
    assert [plant["field"] for plant in planted[3:]] == ["age", "age"]
    table = make_table({"seed": 7, "films": {"pool": 2000, "cohort": 300}, **content})
    assert table.row_count >= 7


def test_the_pool_holds_only_patients_the_encoder_did_not_learn_from() -> None:
    pool = draw_pool(1, PoolSize(patients=60, teachers=20, steps=1))
    assert pool.patients.min() == 20
    assert pool.mu.shape == (len(pool), 512)
    assert pool.attributes.shape == (len(pool), len(FIELDS))
    assert pool.attributes.max(axis=0).tolist() == [len(v) - 1 for v in FIELDS.values()]
