"""A private run is refused unless its final weights follow from private updates alone."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from strategies.config import RunConfig
from strategies.plan import KINDS, plan_of
from strategies.privacy import label_of

PRIVATE = {
    "name": "private",
    "ontology": {"classes": ["a", "b"], "attributes": {"view": ["AP", "PA"]}},
    "statistics": {"refit_head": False},
    "privacy": {"training": "dp_sgd", "unprotected": ["latent_sums", "evaluate", "audit"]},
}


def run_with(**changes: object) -> RunConfig:
    return RunConfig.model_validate({**PRIVATE, **changes})


def test_a_private_run_makes_no_exchange_that_is_not_labelled() -> None:
    run = run_with()
    made = {step.kind for step in plan_of(run)}
    assert made == {"train", "latent_sums", "evaluate", "atlas", "audit"}
    assert {kind for kind in made if label_of(run, kind).level == "formal"} == {"train"}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"statistics": {}}, "refit_head"),
        ({"mitigation": {"attribute": "view", "use": "random_alpha"}}, "mitigation.use"),
        ({"mitigation": {"attribute": "view"}}, "must list mitigate"),
        ({"audit": {"enabled": False}}, "lists audit"),
        ({"learning": {"objective": {"attention": {"rounds": 2}}}}, "attention"),
        ({"learning": {"trainable": "lora"}}, "no gradients per image"),
        ({"learning": {"trainable": "head"}}, "privacy.trainable: head"),
        ({"learning": {"pseudo_labels": {"from_round": 2}}}, "class sums leave unprotected"),
        ({"privacy": {"training": "dp_sgd"}}, "must list audit, evaluate, latent_sums"),
        ({"privacy": {"training": "dp_sgd", "noise_multiplier": 0}}, "noise_multiplier"),
        ({"privacy": {"trainable": "head"}}, "belong to training"),
        ({"privacy": {"unprotected": ["audit"]}}, "belong to training"),
        ({"privacy": {"training": "dp_sgd", "unprotected": ["train"]}}, "unprotected"),
    ],
)
def test_what_would_break_the_promise_is_refused(changes: dict[str, object], found: str) -> None:
    with pytest.raises(ValidationError, match=found):
        run_with(**changes)


def test_every_problem_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        run_with(statistics={}, audit={"enabled": False})
    assert "refit_head" in str(caught.value) and "lists audit" in str(caught.value)


def test_nothing_is_called_formal_without_noise() -> None:
    plain = run_with(statistics={}, privacy={})
    assert {label_of(plain, kind).level for kind in KINDS} == {"heuristic", "none"}


def test_a_formal_label_names_unit_relation_and_accountant() -> None:
    label = label_of(run_with(), "train")
    assert (label.unit, label.neighbours) == ("patient", "add or remove one patient")
    assert "PRV" in label.words and "Poisson" in label.words and label.delta == 1e-6
