"""What the coordinator reads off audit counts."""

from __future__ import annotations

import numpy as np

from mfm_core.atlas import atlas_from
from mfm_core.config import OntologyConfig
from mfm_core.head import Head
from mfm_core.latent_sums import latent_sum
from mfm_core.sums import Sum
from server.audit import audit_figures, bias_rows
from strategies.answers import CHOSEN, answer_of, latent_size
from tests.server.hospitals import RUN


def test_counts_of_nobody_give_rows_without_figures() -> None:
    schema = answer_of(RUN, "audit").total
    assert schema is not None
    found = audit_figures(RUN, Sum({name: np.zeros(shape) for name, shape in schema}))
    assert found["explanations"] == []
    assert set(found["flips"]) == set(found["subgroups"]) == {CHOSEN, *RUN.mitigation.methods}
    assert not any(row["n"] for row in found["flips"][CHOSEN])


def test_a_site_whose_pictures_differ_is_a_field_of_the_ranking() -> None:
    rng = np.random.default_rng(0)
    labels, nobody = np.tile([0, 1], 200), np.zeros((400, 1), dtype=np.int64)
    halves, cells, total = np.repeat([0, 1], 200), {}, None
    mu = rng.normal(size=(400, latent_size(RUN)))
    mu[halves == 1, 0] += 3.0
    for index, name in enumerate(("north", "south")):
        rows = halves == index
        cells[name] = latent_sum(
            mu[rows], labels[rows], nobody[rows], np.flatnonzero(rows), RUN.ontology
        )
        total = cells[name] if total is None else total.merge(cells[name])
    weight = np.zeros((2, latent_size(RUN)), dtype=np.float32)
    weight[1, 0] = 1.0
    head = Head(weight, np.zeros(2, dtype=np.float32))
    assert total is not None
    first, *_ = bias_rows(atlas_from(total, RUN.ontology, ""), cells, head)
    assert first["attribute"] == "site" and first["flagged"] and first["encoded_auc"] > 0.9


def test_a_recorded_attribute_of_the_name_site_is_ranked_in_place_of_the_sites() -> None:
    rng = np.random.default_rng(0)
    ontology = OntologyConfig(classes=("a", "b"), attributes={"site": ("ward", "clinic")})
    labels, wards = np.arange(200) % 2, rng.integers(0, 2, (200, 1))
    total = latent_sum(rng.normal(size=(200, 4)), labels, wards, np.arange(200), ontology)
    head = Head(np.eye(2, 4, dtype=np.float32), np.zeros(2, dtype=np.float32))
    rows = bias_rows(atlas_from(total, ontology, ""), {"north": total}, head)
    assert {(row["attribute"], row["value"]) for row in rows} == {("site", "ward")}
