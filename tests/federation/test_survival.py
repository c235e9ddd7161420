"""The survival table says what failed, and its exit code too."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.federation import survival
from tests.federation.survival import Case, Outcome


def good(folder: Path) -> Iterable[Outcome]:
    assert not list(folder.iterdir())
    return (Outcome("kill -9 of nothing", "complete", 0, True, 1.5),)


def bad(folder: Path) -> Iterable[Outcome]:
    return (Outcome("a lie", "complete", 3, False, 2.0, ("lost 3 rounds",)),)


def broken(folder: Path) -> Iterable[Outcome]:
    raise RuntimeError("no port")


def test_a_row_that_fails_or_raises_is_named_and_ends_with_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = (Case("a-good", "", good), Case("b-bad", "", bad), Case("c-broken", "", broken))
    monkeypatch.setattr(survival, "find_cases", lambda: cases)
    assert survival.main([]) == 1
    table = capsys.readouterr().out.splitlines()
    assert table[2] == "| a-good | kill -9 of nothing | complete | 0 | yes | 2 | pass |"
    assert table[3] == "| b-bad | a lie | complete | 3 | NO | 2 | FAIL |" and "FAIL" in table[4]
    assert survival.main(["--only", "good", "--json"]) == 0
    assert [row["case"] for row in json.loads(capsys.readouterr().out)] == ["a-good"]
    with pytest.raises(SystemExit):
        survival.main(["--only", "nothing"])


def test_the_cases_have_names_of_their_own() -> None:
    names = [case.name for case in survival.find_cases()]
    assert len(set(names)) == len(names)
