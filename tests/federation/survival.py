"""What a real consortium survives: `python -m tests.federation.survival [--only TEXT] [--json]`.

Every case runs real processes on loopback (`simulation.consortium`), does harm to them and holds
what comes of it against what must hold. A case prints one row per harm. Exit code 1 if any fails.
With `--rows FILE` the rows of every case are kept as soon as it ends, so that the cases may be run
one by one; `--markdown FILE` writes all kept rows into the marked block of a document.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

MARKS = (
    "<!-- survival: written by python -m tests.federation.survival -->",
    "<!-- /survival -->",
)
MODULES = tuple(f"tests.federation.survival_{name}" for name in ("kill", "hostile", "masks"))
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


def run_cases(
    cases: Sequence[Case], tell: Callable[[str], None], kept: Path | None = None
) -> list[Row]:
    """Return the rows of all cases; one that raises is a row that fails."""
    rows: list[Row] = []
    for case in cases:
        tell(f"{time.strftime('%H:%M:%S')} {case.name}: {case.expected}")
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="mfm-survival-") as folder:
            found: list[Outcome] = []
            try:
                found.extend(case.run(Path(folder)))
            except Exception as error:
                took, text = time.monotonic() - begun, f"{type(error).__name__}: {error}"
                found.append(Outcome("the case itself", "raised", 0, None, took, (text,)))
        for outcome in found:
            tell(f"  {'FAIL' if outcome.problems else 'pass'} {outcome.done}: {outcome.ended}")
            for problem in outcome.problems:
                tell(f"       {problem}")
        rows += [(case.name, outcome) for outcome in found]
        if kept is not None:
            keep_rows(kept, case.name, found)
    return rows


def read_rows(path: Path) -> list[Row]:
    """Return the rows that were kept in a file, none when it is not there."""
    texts = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows: list[Row] = []
    for content in map(json.loads, texts):
        name, problems = content.pop("case"), tuple(content.pop("problems"))
        rows.append((name, replace(Outcome(**content), problems=problems)))
    return rows


def keep_rows(path: Path, name: str, found: Sequence[Outcome]) -> None:
    """Keep the rows of a case in place of those it had, one JSON line each."""
    rows = [row for row in read_rows(path) if row[0] != name]
    lines = [as_json(row) for row in (*rows, *((name, outcome) for outcome in found))]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def as_json(row: Row) -> dict[str, object]:
    """Return a row as what `--json` prints."""
    return {"case": row[0], **asdict(row[1])}


def write_block(path: Path, rows: Sequence[Row]) -> None:
    """Write the table, its setting and what failed between the marks of a document."""
    failed = [(name, found) for name, found in rows if found.problems]
    setting = (
        f"Measured with `python -m tests.federation.survival`, n = 1 for every row, on "
        f"{os.cpu_count()} cores that others used too, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, Flower {version('flwr')}. {len(rows)} rows, "
        f"{len(failed)} failed."
    )
    parts = [MARKS[0], setting, table_of(rows)]
    if failed:
        reasons = [f"- {name}, {found.done}: {'; '.join(found.problems)}" for name, found in failed]
        parts.append("\n".join(("Failed:", "", *reasons)))
    before, found_first, rest = path.read_text(encoding="utf-8").partition(MARKS[0])
    _, found_last, after = rest.partition(MARKS[1])
    if not (found_first and found_last):
        raise ValueError(f"{path} has no block between {MARKS[0]} and {MARKS[1]}")
    text = "\n\n".join((*parts, MARKS[1]))
    path.write_text(f"{before}{text}{after}", encoding="utf-8")


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
    parser.add_argument("--rows", type=Path, help="keep the rows of every case in this file")
    parser.add_argument("--markdown", type=Path, help="write the rows into this document's block")
    options = parser.parse_args(arguments)
    known = find_cases()
    cases = [case for case in known if options.only in case.name]
    if not cases:
        parser.error(f"no case holds {options.only!r}")
    rows = run_cases(cases, lambda text: print(text, file=sys.stderr, flush=True), options.rows)
    if options.json:
        print(json.dumps([as_json(row) for row in rows], indent=1))
    else:
        print(table_of(rows))
    if options.markdown is not None:
        order = [case.name for case in known]
        kept = read_rows(options.rows) if options.rows is not None else rows
        write_block(options.markdown, sorted(kept, key=lambda row: order.index(row[0])))
    return int(any(found.problems for _, found in rows))


if __name__ == "__main__":
    sys.exit(main())
