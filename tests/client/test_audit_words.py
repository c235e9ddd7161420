from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from client.audit import Audited
from client.audit_words import print_audit
from mfm_core.config import OntologyConfig
from mfm_core.explanation_sums import empty_explanation_sum, explanation_figures
from mfm_core.flips import empty_flip_sum, flip_figures
from mfm_core.subgroups import empty_subgroup_sum, subgroup_figures, subgroup_sum

ONTOLOGY = OntologyConfig(classes=("[bold]odd[/x", "other"), attributes={"view": ("AP", "P[/A]")})


def audited(**parts) -> Audited:
    content = {"site": "north", "test_images": 40, "test_patients": 20, "note": "stays"}
    content |= {"heads": ["final"], "final_is": "", "mitigated_attribute": "", **parts}
    return Audited(Path("out") / "audit.json", content)


def printed(capsys, **parts) -> str:
    print_audit(audited(**parts), False)
    return capsys.readouterr().out


def subgroup_rows(bias: float, n: int = 4000) -> list[dict]:
    rng = np.random.default_rng(0)
    labels, view = rng.integers(0, 2, n), rng.integers(0, 2, (n, 1))
    pull = np.where(view == 0, 2.0 - bias, 2.0)
    logits = rng.normal(size=(n, 2)) + pull * np.eye(2)[labels]
    total = subgroup_sum(logits, labels, view, np.arange(n), ONTOLOGY, smallest=1, seed=0)
    return subgroup_figures(total, ONTOLOGY, 1)


def test_nothing_measured_prints_without_a_crash(capsys):
    flips = flip_figures(empty_flip_sum(ONTOLOGY), ONTOLOGY)
    text = printed(
        capsys,
        explanations=explanation_figures(empty_explanation_sum(ONTOLOGY), ONTOLOGY),
        bias={"ranking": [], "flips": {"final": flips}, "site": "not compared"},
        subgroups={
            "rows": {"final": subgroup_figures(empty_subgroup_sum(ONTOLOGY), ONTOLOGY, 10)},
            "unknown": ["view"],
        },
        slices={"rows": [], "picture": None},
    )
    assert "were not scored" in text and "view is unknown for all test images" in text
    assert "No field is found" in text and "No cell has enough patients" in text
    assert "0 of 0 groups" in text and "no test image of it" in text


def test_the_map_that_no_head_could_change_is_explained_where_it_was_scored(capsys):
    """A missed goal of the class shift's map would else read as a fault of this model."""
    total = empty_explanation_sum(ONTOLOGY)
    words = "by construction another head hardly changes it"
    rows = explanation_figures(total, ONTOLOGY)
    assert words not in printed(capsys, explanations=rows)
    total["sanity_head.class_shift"][-1, 90] = 12.0
    text = printed(capsys, explanations=explanation_figures(total, ONTOLOGY))
    assert words in text and "sanity labels checks it" in text


@pytest.mark.parametrize(("bias", "verdict"), [(0.0, "met"), (1.5, "MISSED")])
def test_a_gap_is_judged_against_its_goal(capsys, bias, verdict):
    rows = {"final": subgroup_rows(bias)}
    text = printed(capsys, subgroups={"rows": rows, "unknown": []})
    (line,) = [line for line in text.splitlines() if "all (mean)" in line]
    assert verdict in line and "not certain" not in line


def test_a_gap_that_few_images_leave_open_says_so(capsys):
    rows = {"final": subgroup_rows(0.0, n=60)}
    text = printed(capsys, subgroups={"rows": rows, "unknown": []})
    assert "not certain" in text


def test_heads_stand_side_by_side(capsys):
    rows = {"final": subgroup_rows(1.5), "leace": subgroup_rows(0.0)}
    text = printed(capsys, subgroups={"rows": rows, "unknown": []})
    lines = [line for line in text.splitlines() if "all (mean)" in line]
    assert ["final" in line for line in lines] == [True, False] and "leace" in lines[1]


def test_the_head_in_use_is_named(capsys):
    heads = {"heads": ["final", "chosen"], "final_is": "leace", "mitigated_attribute": "view"}
    text = printed(capsys, **heads)
    assert "(final) is leace" in text and "view" in text


def test_names_are_text_not_markup(capsys):
    text = printed(capsys, subgroups={"rows": {"final": subgroup_rows(0.5)}, "unknown": []})
    assert "[bold]odd[/x" in text and "P[/A]" in text


def test_a_refused_part_prints_its_reason(capsys):
    text = printed(capsys, slices={"refused": "slices: [too] few"})
    assert "[too] few" in text and "Recorded fields" not in text


def test_json_adds_the_path(capsys):
    print_audit(audited(slices={"rows": [], "picture": None}), True)
    content = json.loads(capsys.readouterr().out)
    assert content["record"].endswith("audit.json") and content["site"] == "north"
