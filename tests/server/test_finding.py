"""The worst finding decides; nothing found is well."""

from __future__ import annotations

import pytest

from server.finding import SEVERITY, Finding, worst


@pytest.mark.parametrize(
    ("levels", "expected"),
    [((), "ok"), (("ok", "warn"), "warn"), (("fail", "ok", "warn"), "fail"), (("ok",), "ok")],
)
def test_the_worst_decides(levels: tuple[str, ...], expected: str) -> None:
    findings = [Finding("disk", level, "x") for level in SEVERITY if level in levels]
    assert worst(findings) == worst(findings[::-1]) == expected


def test_a_finding_has_four_words() -> None:
    content = {"part": "disk", "level": "fail", "text": "full", "advice": "free some space"}
    assert Finding("disk", "fail", "full", "free some space").to_dict() == content
