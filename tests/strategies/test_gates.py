"""The limits of a release: agreed with the run, within their ranges, part of its hash."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from mfm_core.config import canonical_hash
from strategies.config import RunConfig
from strategies.gates import GateName, GatesConfig

RUN = {"name": "r", "ontology": {"classes": ["a", "b"]}}


def test_the_limits_are_agreed_they_change_the_run_hash() -> None:
    plain = RunConfig.model_validate(RUN)
    strict = RunConfig.model_validate({**RUN, "gates": {"min_macro_auc": 0.8}})
    assert plain.gates == GatesConfig()
    assert canonical_hash(plain) != canonical_hash(strict)


def test_by_default_only_the_leak_audit_may_be_missing() -> None:
    assert set(GatesConfig().optional) == {"leak_tpr", "leak_auc"} < set(get_args(GateName))
    assert GatesConfig().max_leak_tpr == 0.02 and GatesConfig().max_leak_auc == 0.55


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_macro_auc": 1.1},
        {"min_class_auc": -0.1},
        {"min_ssim": 2},
        {"max_subgroup_gap": float("nan")},
        {"max_epsilon": 0},
        {"max_leak_auc": 0.4},
        {"subgroup_gap_end": "middle"},
        {"optional": ["speed"]},
        {"min_auc": 0.5},
    ],
)
def test_a_limit_out_of_its_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GatesConfig.model_validate(wrong)
