"""The card: filled from the run, or "not done" with what it would take; never silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.card_config import CardConfig
from server.card_items import FILLED, NOT_DONE, Known
from server.finished_run import read_finished
from server.judging import accept, judge
from server.model_card import card_of
from server.release_figures import figures_of, labels_of
from strategies.config import RunConfig
from tests.server.finished import finished_run
from tests.server.test_leak_audit import ATTACK

FACTS = {"run_hash": "r" * 64, "date": "2026-11-23", "recomputed": True, "sites_named": False,
         "status": "complete"}  # fmt: skip
TEXTS = [name for name, field in CardConfig.model_fields.items() if field.default is None]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    found = read_finished(finished_run(Path(tmp_path_factory.mktemp("card"))))
    labels = labels_of(found.lines, named=False)
    figures = figures_of(found.run, found.results, found.lines, labels, None)
    return Known(found.run, figures, FACTS, judge(found.run, figures), CardConfig())


def changed(known: Known, **parts: Any) -> Known:
    return Known(**{**vars(known), **parts})


def items_of(card: dict[str, Any]) -> dict[str, dict[str, str]]:
    parts = [*card["sections"], *card["principles"], card["claim"]]
    return {f"{part['anchor']}: {item['title']}": item for part in parts for item in part["items"]}


def test_no_item_is_silent(known: Known) -> None:
    card = card_of(known)
    items = items_of(card)
    assert card["notice"].startswith("Research software, not a medical device")
    assert all(item["text"] and item["state"] in (FILLED, NOT_DONE) for item in items.values())
    assert card["items"] >= len(items) >= 75
    assert card["not_done"] >= sum(item["state"] == NOT_DONE for item in items.values()) > 30
    assert [part["anchor"] for part in card["principles"]] == [
        "fairness", "universality", "traceability", "usability", "robustness", "explainability",
        "general",
    ]  # fmt: skip


def test_figures_stand_with_their_interval_and_n(known: Known) -> None:
    card = card_of(known)
    metrics = next(part for part in card["sections"] if part["anchor"] == "metrics")
    figure = known.figures["pooled"]["ssim"]
    row = next(row for row in metrics["tables"][0]["rows"] if "SSIM" in row[0]["value"])
    assert row[1]["value"] == f"{figure['value']:.3f}"
    assert row[1]["interval"] == f"{figure['low']:.3f}–{figure['high']:.3f}"
    assert row[2]["value"] == str(figure["n"]) == "32"
    assert "48 training images at 2 hospitals" in str(items_of(card)["training: Amount"])


@pytest.mark.parametrize("field", TEXTS)
def test_what_people_say_fills_an_item_and_is_asked_for_by_name(known: Known, field: str) -> None:
    asked = [item for item in items_of(card_of(known)).values()
             if item["text"].endswith(f": {field}.")]  # fmt: skip
    assert asked and all(item["state"] == NOT_DONE for item in asked)
    people = CardConfig.model_validate({field: "We looked into it"})
    said = [item for item in items_of(card_of(changed(known, people=people))).values()
            if item["text"] == "We looked into it"]  # fmt: skip
    assert said and all(item["state"] == FILLED for item in said)


def test_lists_of_people_are_added_to_what_is_known(known: Known) -> None:
    people = CardConfig(out_of_scope=("Children",), limitations=("One continent",))
    items = items_of(card_of(changed(known, people=people)))
    assert items["use: Out of scope"]["text"].endswith("acquired. Children.")
    assert items["caveats: Known limits"]["text"] == "One continent."


def test_without_figures_the_card_says_not_done(known: Known) -> None:
    bare = {"status": "degraded", "missed": {"site 1": 3}, "per_site": {}, "rounds": 2,
            "sites": 2, "pooled": None, "audit": None, "patients_per_class": None,
            "withheld_cells": None}  # fmt: skip
    items = items_of(card_of(changed(known, figures=bare)))
    for title in ("metrics: Performance", "fairness: Fairness measured", "training: Amount",
                  "evaluation: Test data", "explainability: Explanations offered"):  # fmt: skip
        assert items[title]["state"] == NOT_DONE, title
    assert "3 answers of 1 hospital are missing" in items["caveats: Degraded run"]["text"]


def test_looking_and_seeing_nothing_for_want_of_patients_is_not_done(known: Known) -> None:
    assert known.audit["biases"] and not known.biases
    assert items_of(card_of(known))["fairness: Sources of bias looked for"]["state"] == NOT_DONE
    rows = [{**row, "score": 0.1} for row in known.audit["biases"]]
    figures = {**known.figures, "audit": {**known.audit, "biases": rows}}
    assert changed(known, figures=figures).biases == rows


def test_privacy_is_not_claimed_without_a_mechanism(known: Known) -> None:
    items = items_of(card_of(known))
    assert items["privacy: Differential privacy"]["state"] == NOT_DONE
    assert items["privacy: Attacks tried"]["state"] == NOT_DONE
    privacy = {"training": "dp_sgd", "unit": "patient", "noise_multiplier": 1.0,
               "max_grad_norm": 1.0, "delta": 1e-6, "largest_epsilon": None,
               "unprotected": ["evaluate"]}  # fmt: skip
    figures = {**known.figures, "privacy": privacy, "leak_audit": {"attacks": [ATTACK]}}
    items = items_of(card_of(changed(known, figures=figures)))
    text = items["privacy: Differential privacy"]["text"]
    assert "epsilon not told by every site" in text and "unprotected exchanges: evaluate" in text
    assert "LiRA: AUC 0.510" in items["privacy: Attacks tried"]["text"]
    central = {**privacy, "training": "central", "central": {"clip": 0.25},
               "spent": {"words": "epsilon 3 for a whole site, trusting the server"}}  # fmt: skip
    items = items_of(card_of(changed(known, figures={**known.figures, "privacy": central})))
    text = items["privacy: Differential privacy"]["text"]
    assert "clipped to 0.25" in text and "trusting the server" in text


def test_a_gate_that_was_accepted_stands_among_the_caveats(known: Known) -> None:
    run = RunConfig.model_validate({**known.run.model_dump(), "gates": {"min_ssim": 0.9}})
    verdicts = accept(judge(run, known.figures), {"ssim": "pilot only"})
    card = card_of(changed(known, run=run, verdicts=verdicts))
    text = items_of(card)["caveats: Released although a gate held it back"]["text"]
    assert "Redrawn images, SSIM: fail" in text and text.endswith("pilot only")
    assert next(g for g in card["gates"] if g["gate"] == "ssim")["accepted"] == "pilot only"
    goals = items_of(card)["general: Goals agreed before training"]
    assert goals["text"] == "Redrawn images, SSIM at least 0.9"
