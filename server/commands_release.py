"""The commands about a model that is handed on: release, verify.

What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mfm_core.errors import ConfigError

if TYPE_CHECKING:
    from server.judging import Verdict

app = typer.Typer()

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
COLOURS = {"pass": "green", "fail": "red", "not done": "yellow"}


@app.command()
def release(
    folder: Annotated[Path, typer.Argument(help="The consortium's folder, or that of one run.")],
    name: Annotated[
        str | None, typer.Option(help="Folder below runs/; the newest run when left out.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The release's folder; default is releases/<run>-<id> in FOLDER."),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(help="GATE=REASON: release although this gate holds it back; repeat."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a finished run by its gates and write its release: model, card, figures, hashes.

    The limits stand below `gates` in the agreed run.yaml. Exit code 1 and nothing written when a
    gate holds the release back; a reason given with --accept stands in card, release.json and
    table.
    """
    from server.card_config import read_card
    from server.finished_run import find_run, read_finished
    from server.release import release_run

    reasons = _reasons(accept or [])
    finished, people = read_finished(find_run(folder, name)), read_card(folder)
    place = out or folder / "releases"
    done = release_run(finished, people, place, reasons, exact=out is not None)
    if as_json:
        content = {
            "released": done.folder is not None,
            "folder": None if done.folder is None else str(done.folder),
            "release_id": done.release_id,
            "gates": [verdict.to_dict() for verdict in done.verdicts],
        }
        print(json.dumps(content, indent=1))
    else:
        _show(done.verdicts)
        print(_last_words(done.folder, done.release_id, done.verdicts))
    if done.folder is None:
        raise typer.Exit(1)


def _reasons(given: list[str]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    problems = []
    for text in given:
        gate, sign, reason = text.partition("=")
        if not sign:
            problems.append(f"{text!r:.80}: expected GATE=REASON")
        elif gate in reasons:
            problems.append(f"{gate!r:.80}: stands twice")
        reasons[gate] = reason
    if problems:
        raise ConfigError("--accept", problems)
    return reasons


def _show(verdicts: tuple[Verdict, ...]) -> None:
    table = Table("gate", "asked for", "found", "verdict")
    for verdict in verdicts:
        state = f"[{COLOURS[verdict.state]}]{verdict.state}[/]"
        if verdict.accepted is not None:
            state += f", accepted: {escape(verdict.accepted)}"
        elif verdict.state == "not done" and verdict.required:
            state += ", required"
        asked = verdict.asked
        if verdict.asked != "nothing" and verdict.gate != "run_status":
            asked += f" ({verdict.judged})"
        table.add_row(verdict.gate, asked, escape(verdict.found), state)
    Console(highlight=False).print(table)


def _last_words(folder: Path | None, identity: str | None, verdicts: tuple[Verdict, ...]) -> str:
    from server.judging import holding

    if folder is not None:
        return f"released: {folder}\nrelease id {identity}"
    names = ", ".join(verdict.gate for verdict in holding(verdicts))
    return f"nothing was released; held back by: {names}"


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of a release.")],
    as_json: JsonOption = False,
) -> None:
    """Check a release: every file, every hash, and that all parts belong together.

    Reads the folder and nothing outside it, and runs nothing from it. Exit code 1 with every
    problem in words. Hashes show that a release is of one piece; who made it is shown by
    comparing the release id with its maker.
    """
    from server.release_check import check_release

    found = check_release(folder)
    if as_json:
        content = {
            "ok": not found.problems,
            "release_id": found.release_id,
            "problems": list(found.problems),
            "facts": found.facts,
        }
        print(json.dumps(content, indent=1))
    elif found.problems:
        for problem in found.problems:
            print(f"- {problem}")
        print(f"{folder}: {len(found.problems)} problems; do not use this release")
    else:
        print(f"{folder} is whole and of one piece\nrelease id {found.release_id}")
    if found.problems:
        raise typer.Exit(1)
