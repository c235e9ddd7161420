import numpy as np
import pytest

from mfm_core.config import OntologyConfig
from mfm_core.report_groups import CHOSEN, gap_lead, grouped, mitigated, within_auc
from mfm_core.subgroup_rows import subgroup_figures
from mfm_core.subgroups import subgroup_sum

ONTOLOGY = OntologyConfig(classes=("left", "right"), attributes={"view": ("AP", "PA")})


def rows_of(noise_of_pa=0.5, smallest=1, values=2):
    """Rows of 200 patients; answers for the second view are noisier by choice."""
    generator = np.random.default_rng(3)
    labels = np.arange(200) % 2
    view = (np.arange(200) // 2) % values
    noise = np.where(view == 1, noise_of_pa, 0.5) * generator.standard_normal(200)
    score = (labels * 2 - 1) + 2 * noise
    logits = np.stack([-score, score], axis=1)
    total = subgroup_sum(
        logits, labels, view[:, None], np.arange(200), ONTOLOGY, smallest=1, seed=0
    )
    return subgroup_figures(total, ONTOLOGY, smallest)


@pytest.fixture(scope="module")
def unequal():
    return rows_of(3.0)


@pytest.fixture(scope="module")
def equal():
    return rows_of(0.5)


def test_the_lead_names_the_gap_and_the_goal(unequal):
    text = gap_lead(unequal)
    raw = next(r for r in unequal if r["kind"] == "gap" and r["class"] is None)["raw"]["auc"]
    assert f"by {raw['value']:.3f} ({raw['low']:.3f}–{raw['high']:.3f})" in text
    assert "missed for view" in text


def test_values_have_counts_figures_and_all_classes_first(unequal):
    (attribute,) = grouped(unequal, {})["attributes"]
    table = attribute["values"]
    names = [cells[0].value for cells in table.rows]
    assert names == [
        "AP, all classes", "PA, all classes", "AP, left", "PA, left", "AP, right", "PA, right"
    ]  # fmt: skip
    assert table.strong == {0, 1}
    assert [cell.value for cell in table.rows[0][1:3]] == ["100", "100"]
    for cells in table.rows[2:]:
        assert all(cell.interval for cell in cells[3:6])


def test_a_gap_says_whether_the_goal_is_met_and_how_sure_that_is(unequal, equal):
    for rows, verdict in ((unequal, "missed"), (equal, "")):
        (attribute,) = grouped(rows, {})["attributes"]
        whole = attribute["gaps"].rows[0]
        assert whole[0].value == "all classes (mean)" and whole[1].verdict
        assert whole[1].verdict.startswith(verdict)
    assert "not certain" in whole[1].verdict


def test_hidden_groups_are_said_and_not_drawn():
    found = grouped(rows_of(smallest=1000), {"north": rows_of(smallest=1000)})
    (attribute,) = found["attributes"]
    assert any("too few patients" in note for note in attribute["notes"])
    assert {cell.value for row in attribute["gaps"].rows for cell in row[1:]} == {"–"}
    assert found["sites"] == {"table": None, "without": "north view"}
    assert found["lead"].startswith("No gap could be measured")


def test_hospitals_have_a_row_each(equal, unequal):
    table = grouped(equal, {"north": equal, "south": unequal})["sites"]["table"]
    assert [row[0].value for row in table.rows] == ["north", "south"]
    assert table.rows[1][4].note in ("left", "right")


def test_the_mean_within_groups_is_weighted_and_inside_its_interval(unequal):
    found = within_auc(unequal)
    parts = [r for r in unequal if r["kind"] == "value" and r["class"] is None]
    mean = sum(r["n"] * r["auc"]["value"] for r in parts) / 200
    assert found["value"] == pytest.approx(mean) and found["n"] == 200
    widths = [r["auc"]["high"] - r["auc"]["low"] for r in parts]
    assert found["low"] < found["value"] < found["high"] < found["low"] + max(widths)
    assert within_auc([])["value"] is None


def test_mitigation_shows_before_after_price_and_the_head_in_use(equal, unequal):
    flips = [{"attribute": "view", "value": "AP", "share": 0.5, "flipped": 3.0, "n": 6.0}]
    audit = {
        "subgroups": {"leace": equal, CHOSEN: unequal},
        "flips": {CHOSEN: flips, "leace": []},
    }
    found = mitigated(audit, "view", "leace")
    before, after = found["table"].rows
    assert (before[0].value, after[0].value) == ("before", "leace")
    assert found["table"].strong == {1} and after[0].note == "in use"
    lost = within_auc(unequal)["value"] - within_auc(equal)["value"]
    assert after[2].value == f"{lost:.3f}".replace("-", "−") and after[2].note == "gained"
    assert before[-1].value == "50.0 %" and after[-1].value == "–"
    assert "in use is the head leace" in found["lead"] and "(leace)" in found["lead"]


def test_without_other_heads_there_is_no_mitigation(equal):
    assert mitigated({"subgroups": {CHOSEN: equal}}, "view", CHOSEN)["table"] is None
    heads = {CHOSEN: equal, "leace": equal}
    assert mitigated({"subgroups": heads}, "sex", CHOSEN)["table"] is None
