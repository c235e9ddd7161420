"""What a real consortium survives: `python -m tests.federation.survival [--only PATTERN] [--json]`.

Every case runs real processes on loopback (`simulation.consortium`), does harm to them and holds
what comes of it against what must hold. A case prints one row per harm. Exit code 1 if any fails.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MODULES = ("tests.federation.survival_kill", "tests.federation.survival_hostile")
"""Each has a sequence CASES of Case."""


@dataclass(frozen=True)
class Outcome:
    """What came of one harm.

    Attributes:
        done: the harm, in words.
        ended: how the run ended, in words: complete, degraded, failed, refused, ...
        lost_rounds: finished exchanges that had to be repeated.
        same_hash: whether the final hash is that of the unbroken run; None where it cannot be.
        seconds: from the harm to the next finished exchange, or of the whole case.
        problems: what should hold and does not; the row passes when there is none.
    """

    done: str
    ended: str
    lost_rounds: int
    same_hash: bool | None
    seconds: float
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        name: unique; --only searches in it.
        expected: what must hold, in words.
        run: does it below an empty folder and returns a row per harm.
    """

    name: str
    expected: str
    run: Callable[[Path], Iterable[Outcome]]


Row = tuple[str, Outcome]


def find_cases() -> tuple[Case, ...]:
    """Return the cases of every module that is there."""
    found = [name for name in MODULES if importlib.util.find_spec(name) is not None]
    return tuple(case for name in found for case in importlib.import_module(name).CASES)


def run_cases(cases: Sequence[Case], tell: Callable[[str], None]) -> list[Row]:
    """Return the rows of all cases; one that raises is a row that fails."""
    rows: list[Row] = []
    for case in cases:
        tell(f"{time.strftime('%H:%M:%S')} {case.name}: {case.expected}")
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="mfm-survival-") as folder:
            try:
                found = list(case.run(Path(folder)))
            except Exception as error:
                took, text = time.monotonic() - begun, f"{type(error).__name__}: {error}"
                found = [Outcome("the case itself", "raised", 0, None, took, (text,))]
        for outcome in found:
            tell(f"  {'FAIL' if outcome.problems else 'pass'} {outcome.done}: {outcome.ended}")
            for problem in outcome.problems:
                tell(f"       {problem}")
        rows += [(case.name, outcome) for outcome in found]
    return rows


def table_of(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    heads = ("case", "what was done", "outcome", "lost rounds", "same final hash", "s", "")
    words = {True: "yes", False: "NO", None: "-"}
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for name, found in rows:
        cells = (name, found.done, found.ended, str(found.lost_rounds), words[found.same_hash])
        verdict = "FAIL" if found.problems else "pass"
        lines.append(f"| {' | '.join(cells)} | {found.seconds:.0f} | {verdict} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases and print their table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.federation.survival")
    parser.add_argument("--only", default="", help="run cases whose name holds this text")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args(arguments)
    cases = [case for case in find_cases() if options.only in case.name]
    if not cases:
        parser.error(f"no case holds {options.only!r}")
    rows = run_cases(cases, lambda text: print(text, file=sys.stderr, flush=True))
    if options.json:
        print(json.dumps([{"case": name, **asdict(found)} for name, found in rows], indent=1))
    else:
        print(table_of(rows))
    return int(any(found.problems for _, found in rows))


if __name__ == "__main__":
    sys.exit(main())
