"""Gates: pass, fail and not done, and what holds a release back."""

from __future__ import annotations

import copy
from typing import Any, get_args

import pytest

from mfm_core.errors import ConfigError
from server.judging import Verdict, accept, holding, judge
from strategies.config import RunConfig
from strategies.gates import GateName
from tests.server.test_leak_audit import ATTACK

AGREED = {"name": "r", "ontology": {"classes": ["a", "b"], "attributes": {"view": ["AP", "PA"]}}}


def estimate(value: float | None, low: float | None = None, high: float | None = None) -> Any:
    return {"value": value, "low": low, "high": high, "n": 100}


FIGURES: dict[str, Any] = {
    "status": "complete",
    "missed": {},
    "pooled": {
        "macro_auc": estimate(0.85, 0.80, 0.90),
        "ssim": estimate(0.9, 0.88, 0.92),
        "per_class": [
            {"class": "a", "auc": estimate(0.8, 0.7, 0.9)},
            {"class": "b", "auc": estimate(0.9, 0.8, 0.95)},
        ],
    },
    "audit": {
        "subgroups": {
            "chosen": [
                {
                    "kind": "gap",
                    "attribute": "view",
                    "class": None,
                    "raw": {"auc": estimate(0.03, 0.01, 0.08)},
                }
            ]
        }
    },
    "privacy": {"training": "none", "largest_epsilon": None},
    "leak_audit": None,
}


def verdict(gate: str, gates: dict[str, Any], **changed: Any) -> Verdict:
    run = RunConfig.model_validate({**AGREED, "gates": gates})
    return next(v for v in judge(run, {**FIGURES, **changed}) if v.gate == gate)


def test_every_gate_speaks_once_and_in_order() -> None:
    found = judge(RunConfig.model_validate(AGREED), FIGURES)
    assert tuple(v.gate for v in found) == get_args(GateName)
    assert {v.gate: v.state for v in found if v.state != "not done"} == {"run_status": "pass"}
    assert holding(found) == []


@pytest.mark.parametrize(
    ("gate", "limit", "within", "beyond"),
    [
        ("macro_auc", "min_macro_auc", 0.80, 0.801),
        ("class_auc", "min_class_auc", 0.8, 0.81),
        ("ssim", "min_ssim", 0.9, 0.91),
        ("subgroup_gap", "max_subgroup_gap", 0.08, 0.079),
    ],
)
def test_a_limit_is_met_or_not(gate: str, limit: str, within: float, beyond: float) -> None:
    met, missed = verdict(gate, {limit: within}), verdict(gate, {limit: beyond})
    assert met.state == "pass" and not met.blocks
    assert missed.state == "fail" and missed.blocks


def test_the_judged_end_of_a_gap_is_agreed() -> None:
    def state(end: str, limit: float) -> str:
        agreed = {"max_subgroup_gap": limit, "subgroup_gap_end": end}
        found = verdict("subgroup_gap", agreed)
        assert {"low": "lower", "value": "value", "high": "upper"}[end] in found.judged
        return found.state

    assert [state(end, 0.05) for end in ("low", "value", "high")] == ["pass", "pass", "fail"]
    assert [state(end, 0.02) for end in ("low", "value", "high")] == ["pass", "fail", "fail"]
    assert state("low", 0.005) == "fail"


def without(*path: str) -> dict[str, Any]:
    """Return figures in which one entry is None."""
    figures = copy.deepcopy(FIGURES)
    place: Any = figures
    for step in path[:-1]:
        place = place[int(step) if step.isdigit() else step]
    place[path[-1]] = None
    return figures


@pytest.mark.parametrize(
    ("gate", "limit", "path"),
    [
        ("macro_auc", "min_macro_auc", ("pooled",)),
        ("macro_auc", "min_macro_auc", ("pooled", "macro_auc", "low")),
        ("class_auc", "min_class_auc", ("pooled",)),
        ("class_auc", "min_class_auc", ("pooled", "per_class", "1", "auc")),
        ("ssim", "min_ssim", ("pooled", "ssim")),
        ("subgroup_gap", "max_subgroup_gap", ("audit",)),
        ("subgroup_gap", "max_subgroup_gap",
         ("audit", "subgroups", "chosen", "0", "raw", "auc", "high")),
        ("epsilon", "max_epsilon", ("leak_audit",)),
    ],
)  # fmt: skip
def test_without_its_figure_a_limit_holds_back_and_never_passes(
    gate: str, limit: str, path: tuple[str, ...]
) -> None:
    agreed = {limit: 0.5} if limit != "min_ssim" else {limit: -1}
    found = verdict(gate, agreed, **without(*path))
    assert found.state == "not done" and found.blocks
    lenient = verdict(gate, {**agreed, "optional": [gate]}, **without(*path))
    assert lenient.state == "not done" and not lenient.blocks


def test_a_number_that_is_none_never_passes() -> None:
    pooled = {**FIGURES["pooled"], "ssim": estimate(float("nan"))}
    assert verdict("ssim", {"min_ssim": -1}, pooled=pooled).state == "not done"


def test_no_attribute_no_gap() -> None:
    run = RunConfig.model_validate(
        {**AGREED, "ontology": {"classes": ["a", "b"]}, "gates": {"max_subgroup_gap": 0.5}}
    )
    found = next(v for v in judge(run, FIGURES) if v.gate == "subgroup_gap")
    assert found.state == "not done" and found.blocks


def test_one_bad_class_fails_though_another_is_unknown() -> None:
    changed = without("pooled", "per_class", "1", "auc")
    found = verdict("class_auc", {"min_class_auc": 0.85}, **changed)
    assert found.state == "fail" and "b" in found.found


@pytest.mark.parametrize(
    ("status", "allowed", "state"),
    [
        ("complete", False, "pass"),
        ("degraded", False, "fail"),
        ("degraded", True, "pass"),
        ("failed", True, "fail"),
        (None, True, "fail"),
    ],
)
def test_a_degraded_run_needs_to_be_allowed(status: str, allowed: bool, state: str) -> None:
    found = verdict("run_status", {"allow_degraded": allowed}, status=status, missed={"site 1": 2})
    assert found.state == state


def test_epsilon_is_judged_where_it_is_known() -> None:
    private = {"training": "dp_sgd", "largest_epsilon": 4.0, "delta": 1e-6}
    assert verdict("epsilon", {"max_epsilon": 4}, privacy=private).state == "pass"
    assert verdict("epsilon", {"max_epsilon": 3.9}, privacy=private).state == "fail"
    central = {"training": "central", "largest_epsilon": 4.0, "spent": {"words": "for a site"}}
    found = verdict("epsilon", {"max_epsilon": 4}, privacy=central)
    assert (found.state, found.found) == ("pass", "for a site")
    boundless = {**central, "largest_epsilon": None}
    assert verdict("epsilon", {"max_epsilon": 100}, privacy=boundless).state == "fail"
    unknown = {**private, "largest_epsilon": None}
    assert verdict("epsilon", {"max_epsilon": 100}, privacy=unknown).state == "not done"


def leak(**changed: Any) -> dict[str, Any]:
    return {"attacks": [{**ATTACK, "name": "weak"}, {**ATTACK, **changed}]}


def test_the_strongest_attack_decides_by_its_upper_end() -> None:
    assert verdict("leak_auc", {}, leak_audit=leak()).state == "pass"
    assert verdict("leak_tpr", {}, leak_audit=leak()).state == "pass"
    few = leak(auc_interval=[0.4, 0.6])
    assert verdict("leak_auc", {}, leak_audit=few).state == "fail"
    assert verdict("leak_auc", {"leak_end": "value"}, leak_audit=few).state == "pass"
    turned = leak(auc=0.42, auc_interval=[0.4, 0.44])
    assert verdict("leak_auc", {"leak_end": "value"}, leak_audit=turned).state == "fail"
    assert verdict("leak_tpr", {}, leak_audit=leak(tpr_interval=[0.01, 0.03])).state == "fail"


def test_the_leak_audit_can_be_required() -> None:
    for missing in (None, {"attacks": []}):
        assert not verdict("leak_tpr", {}, leak_audit=missing).blocks
        assert verdict("leak_tpr", {"optional": []}, leak_audit=missing).blocks
    no_interval = verdict("leak_auc", {"optional": []}, leak_audit=leak(auc_interval=None))
    assert no_interval.state == "not done" and no_interval.blocks


def test_an_accepted_gate_keeps_its_state_and_its_reason() -> None:
    run = RunConfig.model_validate({**AGREED, "gates": {"min_macro_auc": 0.99}})
    judged = judge(run, FIGURES)
    assert [v.gate for v in holding(judged)] == ["macro_auc"]
    done = accept(judged, {"macro_auc": " only for a pilot "})
    found = next(v for v in done if v.gate == "macro_auc")
    assert holding(done) == [] and found.state == "fail" and found.accepted == "only for a pilot"
    assert found.to_dict()["blocks"] is True


@pytest.mark.parametrize(
    "reasons",
    [{"speed": "x"}, {"ssim": "x"}, {"macro_auc": " "}, {"macro_auc": "a\nb"},
     {"macro_auc": "x" * 501}],
)  # fmt: skip
def test_nothing_else_can_be_accepted(reasons: dict[str, str]) -> None:
    run = RunConfig.model_validate({**AGREED, "gates": {"min_macro_auc": 0.99}})
    with pytest.raises(ConfigError):
        accept(judge(run, FIGURES), reasons)
