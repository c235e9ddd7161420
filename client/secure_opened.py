"""For which group of sites each exchange has been opened here: never for a second one.

The sum of four sites less the sum of three of them is the fourth one's answer. So whoever gave
shares for an exchange of a run gives none for another group, in any later session, resumed or
not, and does not mask it for a group without those sites. An honest resume asks the same group
again and gets the same sum. One line per opening, written and synced before the shares are given;
a damaged or shortened file, or one with fewer lines than openings in the outbox ledger, opens
nothing more. What crosses the hospital's boundary: nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from client.site import LEDGER
from mfm_core.errors import UpdateRejected
from strategies import chain
from strategies.plan import Step

FILE = "secure_opened.jsonl"
Exchange = tuple[str, Step]
"""Hash of the agreed run, and the exchange."""

T = TypeVar("T")


def check_open_for(state: Path, exchange: Exchange, names: tuple[str, ...]) -> None:
    """Return if an exchange may be masked among these sites.

    Raises:
        UpdateRejected: "opened"; it was opened for sites that are not all among them, or it cannot
            be told.
    """
    lines = _read(lambda: chain.read(state / FILE))
    if problem := _problem(state, lines) or _other_group(lines, exchange, names):
        raise UpdateRejected("opened", problem)


def note_open(state: Path, exchange: Exchange, survivors: tuple[str, ...]) -> None:
    """Write down that shares for the sum of `survivors` are about to be given.

    Raises:
        UpdateRejected: "opened"; shares for another group were given, or it cannot be written.
    """

    def admit(lines: chain.Lines) -> None:
        known = _groups(lines, exchange)
        if problem := _problem(state, lines):
            raise ValueError(problem)
        if known and known != {frozenset(survivors)}:
            raise ValueError(_told(exchange, known))

    facts = {
        "run": exchange[0],
        "kind": exchange[1].kind,
        "round": exchange[1].round,
        "survivors": sorted(survivors),
    }
    _read(lambda: chain.append(state / FILE, facts, admit))


def _read(act: Callable[[], T]) -> T:
    try:
        return act()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UpdateRejected("opened", f"{FILE}: {error}; no shares are given") from None


def _problem(state: Path, lines: chain.Lines) -> str:
    """Return why the lines cannot be relied on; empty when they can."""
    if problems := chain.verify(state / FILE):
        return f"{FILE}: {problems[0]}"
    given = sum(line.get("kind") == "secure_unmask" for line in chain.read(state / LEDGER))
    if given > len(lines):
        return f"{FILE} lists {len(lines)} openings, the outbox ledger {given}: it was put back"
    return ""


def _groups(lines: chain.Lines, exchange: Exchange) -> set[frozenset[str]]:
    run, step = exchange
    asked = (run, step.kind, step.round)
    found = (line for line in lines if (line["run"], line["kind"], line["round"]) == asked)
    return {frozenset(line["survivors"]) for line in found}


def _other_group(lines: chain.Lines, exchange: Exchange, names: tuple[str, ...]) -> str:
    known = _read(lambda: _groups(lines, exchange))
    return "" if all(group <= set(names) for group in known) else _told(exchange, known)


def _told(exchange: Exchange, known: set[frozenset[str]]) -> str:
    group, step = ", ".join(sorted(next(iter(known)))), exchange[1]
    return (
        f"{step.kind} {step.round} of this run was opened for {group}; another group would show "
        "the difference. The coordinator resumes with the same sites, or agrees on a new run"
    )
