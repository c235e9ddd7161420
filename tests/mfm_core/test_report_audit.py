import pytest

from mfm_core.metric_table import METHOD_NAMES
from mfm_core.report_audit import (
    MOST_BIASES,
    bias_lead,
    explained,
    flipped,
    goals_sentence,
    ranked,
    unrecorded,
)

NOTHING = {"value": None, "low": None, "high": None, "n": 0, "goal": 0.95, "met": None}


def figure(value, met, goal=0.9, n=8):
    return {"value": value, "low": 0.1, "high": 1.0, "n": n, "goal": goal, "met": met}


def row(name, flip=True, iou=None):
    maps = dict.fromkeys(METHOD_NAMES, NOTHING)
    return {
        "class": name, "n": 8, "n_masks": 0, "suppressed": 0,
        "spearman": figure(1.0, True, 0.95), "flip_rate": figure(0.5, flip),
        "ssim_outside": NOTHING, "collateral": {"view": figure(0.08, True, 0.1)},
        "iou": maps | ({"class_shift": iou} if iou else {}),
    }  # fmt: skip


def bias(number, flagged=False, **changes):
    known = {
        "attribute": "view", "value": "AP", "against": "PA", "class": f"c{number}",
        "n_value": 16.0, "n_against": 8.0, "encoded_auc": 0.9, "phi": None, "aligned": -0.1,
        "tau": 0.5, "effect": 0.3, "score": 1.0 / (1 + number), "q": 0.01, "flagged": flagged,
        "reason": "", "sentence": f"sentence {number}",
    }  # fmt: skip
    return {**known, **changes}


def unjudged(number, attribute):
    return bias(number, attribute=attribute, score=None, reason="too few patients on one side")


def test_all_classes_come_first_and_goals_are_words():
    table = explained([row("left"), row("right", flip=False), row("all classes")], {})["table"]
    assert list(table.head) == [
        "metric", "goal", "all classes (8)", "left (8)", "right (8)"
    ]  # fmt: skip
    by_name = {cells[0].value: cells for cells in table.rows}
    assert [cell.verdict for cell in by_name["answer turns within two steps"][2:]] == [
        "met", "met", "missed",
    ]  # fmt: skip
    assert by_name["drags along view"][1].value == "≤ 0.1"
    assert "unchanged outside the finding (SSIM)" not in by_name


def test_what_nobody_could_score_is_said():
    found = explained([row("left"), row("all classes")], {})
    assert found["unscored"] == ["unchanged outside the finding (SSIM)"]
    assert found["methods"] is None and found["sites"] is None
    known = explained([row("left"), row("all classes", iou=figure(0.4, None, None))], {})
    assert [cells[0].value for cells in known["methods"].rows] == ["Class shift"]


def test_no_scored_patient_is_no_table():
    assert explained([], {})["table"] is None
    assert explained([{**row("all classes"), "n": 0}], {})["table"] is None


def test_missed_goals_are_named():
    assert goals_sentence([row("all classes")]) == "3 of 3 goals met over all classes."
    text = goals_sentence([row("all classes", flip=False)])
    assert text == "2 of 3 goals met over all classes; missed: answer turns within two steps."


def test_flagged_rows_are_never_cut_off_and_stand_in_order():
    rows = [bias(n, flagged=n in (2, 40)) for n in range(41)]
    found = ranked(rows)
    assert len(found["table"].rows) == MOST_BIASES and found["more"] == 41 - MOST_BIASES
    assert found["found"] == ["sentence 2", "sentence 40"]
    classes = [cells[1].value for cells in found["table"].rows]
    assert classes[-1] == "c40" and classes[:3] == ["c0", "c1", "c2"]
    many = ranked([bias(n, flagged=True) for n in range(30)])
    assert len(many["table"].rows) == 30


def test_unjudged_rows_are_listed_once_with_their_reason():
    found = ranked([unjudged(0, "view"), unjudged(1, "view"), unjudged(0, "sex")])
    assert found["table"] is None
    assert found["unjudged"] == [
        ("too few patients on one side", "view: AP against PA; sex: AP against PA")
    ]
    assert bias_lead([unjudged(0, "view")]).startswith("Nothing could be judged")


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ((False, False), "None of 2 pairs of field and class is found to bias an answer."),
        (
            (True, False),
            "1 of 2 pairs of field and class is found to bias an answer; fields: view.",
        ),
    ],
)
def test_the_lead_counts_what_was_found(flags, text):
    assert bias_lead([bias(n, flagged=flag) for n, flag in enumerate(flags)]) == text


def test_flips_are_a_row_per_field_and_hidden_cells_are_counted():
    known = {"attribute": "view", "value": "AP", "against": "PA", "n": 8.0, "flipped": 2.0}
    shown = {**known, "class": "left", "share": 0.25, "low": 0.07, "high": 0.6, "reason": ""}
    hidden = {**known, "class": "right", "n": None, "share": None, "low": None, "high": None}
    found = flipped([shown, hidden])
    (cells,) = found["table"].rows
    assert [cell.value for cell in cells] == ["view: AP against PA", "25.0 %", "–"]
    assert cells[1].note == "n 8" and found["hidden"] == 1
    assert flipped([hidden])["table"] is None


def test_unrecorded_groups_need_to_have_been_looked_for():
    assert unrecorded(None) is None and unrecorded({"refused": "too few"}) is None
    group = {"class": "left", "cluster": 1, "errors": 5, "n": 9, "other_errors": 1, "others": 30}
    found = unrecorded({"rows": [{**group, "p": 0.0001, "q": 0.02, "found": True}]})
    assert found["lead"] == "1 group of 1 tested with more errors."
    assert [cell.value for cell in found["table"].rows[0]][1:] == [
        "5 of 9", "1 of 30", "< 0.001", "0.020", "found",
    ]  # fmt: skip
