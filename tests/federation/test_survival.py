"""The survival table says what failed, and its exit code too."""

from __future__ import annotations

import functools
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from strategies import chain
from tests.federation import strike_hook, survival, survival_kill
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


def test_cases_run_one_by_one_make_one_table_in_a_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = (Case("a-good", "", good), Case("b-bad", "", bad))
    monkeypatch.setattr(survival, "find_cases", lambda: cases)
    rows, document = tmp_path / "rows.jsonl", tmp_path / "document.md"
    document.write_text(f"before\n{survival.MARKS[0]}\nold\n{survival.MARKS[1]}\nafter\n")
    for name in ("b-bad", "a-good", "b-bad"):
        survival.main(["--only", name, "--rows", str(rows), "--markdown", str(document)])
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in table] == ["| case", "| ---", "| a-good", "| b-bad"]
    assert "2 rows, 1 failed" in text and "- b-bad, a lie: lost 3 rounds" in text
    document.write_text("no block")
    with pytest.raises(ValueError, match="has no block"):
        survival.main(["--rows", str(rows), "--markdown", str(document)])


def test_rows_from_before_a_case_raised_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(folder: Path) -> Iterable[Outcome]:
        yield from good(folder)
        raise RuntimeError("no port")

    rows = survival.run_cases((Case("a", "", breaks),), lambda text: None)
    assert [bool(found.problems) for _, found in rows] == [False, True]


def test_the_cases_have_names_of_their_own() -> None:
    names = [case.name for case in survival.find_cases()]
    assert len(set(names)) == len(names)


def test_every_point_of_a_strike_is_a_function_of_the_product() -> None:
    for name, function, _, _ in strike_hook.POINTS.values():
        owner = importlib.import_module(name)
        assert callable(functools.reduce(getattr, function.split("."), owner))


def test_an_armed_point_suspends_the_process_there_and_only_once(tmp_path: Path) -> None:
    """The hook in a process of its own: it stops before the call goes on, and can be killed."""
    (tmp_path / "armed-head").write_text(json.dumps({"when": "lines 1", "where": ""}))
    script = (
        "from tests.federation import strike_hook; strike_hook.install()\n"
        "from pathlib import Path; from strategies import chain\n"
        f"chain.append(Path({str(tmp_path)!r}) / 'outbox.jsonl', {{'kind': 'hello'}})\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, "MFM_STRIKES": str(tmp_path)},
    )
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert json.loads((tmp_path / "hit-head").read_text())["pid"] == child.pid
    child.kill()
    child.wait()
    ledger = tmp_path / "outbox.jsonl"
    assert len(chain.read(ledger)) == 1 and chain.verify(ledger) == ()
    chain.append(ledger, {"kind": "train"})
    assert len(chain.read(ledger)) == 2 and chain.verify(ledger) == ()


@pytest.mark.slow
@pytest.mark.parametrize("number", [3, 8])
def test_a_killed_server_app_costs_at_most_one_exchange(tmp_path: Path, number: int) -> None:
    rows = list(survival_kill.strike_run(tmp_path, [survival_kill.SERVER_APP[number]]))
    assert rows and not [problem for row in rows for problem in row.problems]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hostile: doors", "hostile: two replies"])
def test_a_hostile_case_ends_as_it_must(tmp_path: Path, name: str) -> None:
    case = next(case for case in survival.find_cases() if case.name == name)
    rows = list(case.run(tmp_path))
    assert rows and not [problem for row in rows for problem in row.problems]
