"""The survival table says what failed, and its exit code too."""

from __future__ import annotations

import datetime
import functools
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from client.config import load_site_config
from client.outbox import Outbox
from client.site import LEDGER
from mfm_core.config import dump_yaml
from mfm_core.sums import Sum
from server.journal import RunFolder
from simulation.consortium import Consortium, Hospital
from strategies import chain, wire
from strategies.answers import Answer
from strategies.plan import Kind
from tests.federation import strike_hook, survival, survival_kill
from tests.federation.striking import ledger_problems
from tests.federation.survival import Case, Outcome
from tests.server.hospitals import RUN, site_config


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


class Clock(datetime.datetime):
    """A clock that stands."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Self:
        return cls(2026, 1, 2, tzinfo=tz)


def say(consortium: Consortium, name: str, kind: Kind, number: int) -> str:
    """Let a hospital's outbox release an answer; return the line of its ledger."""
    site = load_site_config(consortium.hospital(name).site_file)
    header = wire.Header(kind, number, "a" * 64, "b" * 64, site=name, num_images=9)
    payload = wire.Payload(total=Sum({"images": np.array([6.0, 2.0, 1.0])}))
    outbox = Outbox(site.state_folder / LEDGER, site.limits)
    record = outbox.release(header, payload, (), Answer(total=payload.total.schema))
    return str(record.config_records[wire.HEADER]["ledger_hash"])


Counted = tuple[Kind, int, dict[str, str]]


def resumed_run(folder: Path) -> tuple[Consortium, list[Counted]]:
    """Return a consortium's ledgers after a run that said hello twice, all in one millisecond."""
    places = {name: Hospital(site_config(name).data) for name in ("north", "south")}
    consortium = Consortium(folder, RUN, places)
    for name in places:
        consortium.hospital(name).root.mkdir(parents=True)
        kept = site_config(name).model_copy(update={"state_folder": Path("state"), "run": None})
        dump_yaml(kept, consortium.hospital(name).site_file)
    steps: tuple[tuple[Kind, int], ...] = (("hello", 0), ("train", 1), ("hello", 0), ("train", 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("strategies.chain.datetime.datetime", Clock)
        return consortium, [
            (kind, number, {name: say(consortium, name, kind, number) for name in places})
            for kind, number in steps
        ]


def write_rounds(consortium: Consortium, counted: Sequence[Counted]) -> None:
    place = consortium.run_folder()
    shutil.rmtree(place, ignore_errors=True)
    folder = RunFolder(place, "a" * 64, "b" * 64, 2)
    images = dict.fromkeys(consortium.names, 9)
    for phase, number, ledgers in counted:
        line = {"phase": phase, "round": number, "images": 18, "site_images": images}
        folder.write({**line, "ledgers": ledgers})


def test_an_answer_counts_once_and_equal_first_lines_are_two_answers(tmp_path: Path) -> None:
    consortium, counted = resumed_run(tmp_path)
    images = dict.fromkeys(consortium.names, 9)
    first = counted[0][2]
    assert first["north"] == first["south"]
    write_rounds(consortium, counted)
    assert ledger_problems(consortium, RUN.name, images) == []
    again = [*counted[:3], ("train", 2, {**counted[3][2], "north": counted[1][2]["north"]})]
    write_rounds(consortium, again)
    found = ledger_problems(consortium, RUN.name, images)
    assert any("counted twice: line 1 (train), line 3 (train)" in problem for problem in found)


def test_an_answer_in_another_hospitals_name_is_a_problem(tmp_path: Path) -> None:
    consortium, counted = resumed_run(tmp_path)
    images = dict.fromkeys(consortium.names, 9)
    own = say(consortium, "north", "train", 2)
    write_rounds(consortium, [*counted[:3], ("train", 2, {"north": own, "south": own})])
    found = ledger_problems(consortium, RUN.name, images)
    assert [problem for problem in found if problem.startswith("south: ") and own[:12] in problem]


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
