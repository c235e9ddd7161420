from __future__ import annotations

import json
from pathlib import Path

import pytest

from mfm_core.errors import ConfigError
from server.leak_audit import LEAK_AUDIT, Attack, LeakAudit, read_leak_audit

ATTACK = {
    "name": "LiRA", "auc": 0.51, "auc_interval": [0.49, 0.53], "tpr_at_1_fpr": 0.011,
    "tpr_interval": [0.006, 0.018], "n": 4000, "date": "2026-11-20",
}  # fmt: skip


def test_the_documented_form_is_read(tmp_path: Path) -> None:
    (tmp_path / LEAK_AUDIT).write_text(json.dumps({"attacks": [ATTACK]}), encoding="utf-8")
    found = read_leak_audit(tmp_path)
    assert found is not None and found.attacks[0].strength == (0.51, 0.53)
    assert LeakAudit.model_validate(found.model_dump(mode="json")) == found


def test_there_need_be_none(tmp_path: Path) -> None:
    assert read_leak_audit(tmp_path) is None


def test_an_attack_that_is_mostly_wrong_is_as_strong_as_one_that_is_right() -> None:
    turned = Attack.model_validate({**ATTACK, "auc": 0.3, "auc_interval": [0.25, 0.35]})
    assert turned.strength == (0.7, 0.75)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"auc": 0.6}, "outside its interval"),
        ({"tpr_at_1_fpr": 2}, "must be less than or equal to 1"),
        ({"n": 0}, "must be greater than or equal to 1"),
        ({"date": "yesterday"}, "date"),
        ({"auc_interval": [0.49]}, "auc_interval"),
        ({"patients": ["p1"]}, "unknown key"),
    ],
)
def test_a_wrong_row_is_refused(tmp_path: Path, wrong: dict[str, object], said: str) -> None:
    content = {"attacks": [{**ATTACK, **wrong}]}
    (tmp_path / LEAK_AUDIT).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        read_leak_audit(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]"])
def test_what_is_no_audit_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / LEAK_AUDIT).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        read_leak_audit(tmp_path)
