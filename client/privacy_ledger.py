"""What training has cost this site's patients: one ledger over all runs, rounds and restarts.

A line is written, synced, *before* the private steps it pays for are computed. A crash at any
moment can therefore count steps that never ran and never miss steps that did; a round that is
asked again is paid again, since a second answer has fresh noise. A release of cells for the
atlas is one step of everybody; asked again it leaves with the same noise, which a line notes.
A round under central DP is one step of everybody, too, with half the noise agreed for a site.
Epsilon is that of all lines together (`mfm_core.accounting`), and the line that would pass the
site's limit is not written.

One ledger is one cohort for good. Images that are added or changed draw on the same budget,
because the people are the same; people who came later are counted as if they had been there from
the start. Time plays no part: no budget comes back by waiting or by setting a clock. Whatever
makes the sum doubtful refuses every further step: an edited, shortened or missing ledger, a full
disk, a line that this code does not know, a copy of the folder (the first line holds the number of
the file on its disk, and a copy has another), fewer lines than the outbox knows private answers.
Only a coordinator's receipts show that both ledgers were put back to an earlier day together.

The figures hold if which patients are drawn into a step stays secret and each is drawn on its own
(Poisson sampling), and for the sample rate as a fixed number. What crosses the hospital's
boundary: nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from client.config import LimitsConfig
from mfm_core.accounting import Spending, epsilon_of, steps_within
from mfm_core.errors import BudgetSpent, LimitRefusal, PrivacyLedgerBroken
from strategies.chain import Lines, append, link_problems, read, verify

OPENED, ADOPTED, SPENT, REPEATED = "opened", "adopted", "spent", "repeated"


@dataclass(frozen=True)
class Spend:
    """What one private training round, or one release of cells, costs, whatever the images are.

    Attributes:
        run: hash of the agreed run.
        round: training round, counted from 1.
        unit: whose presence is hidden, image or patient.
        units: how many of them the training split holds.
        noise_multiplier: standard deviation of the noise over the clip.
        max_grad_norm: the clip.
        sample_rate: probability in (0, 1] of each unit to be in a step.
        steps: optimiser steps.
        noise: secret, or server: the server draws it and is trusted to, or simulated: then it
            follows from the run's seed and protects nobody.
        release: of cells in place of a round (then 0, one step of everybody): hash of the question.
        cohort: hash of the images that it was asked about.
    """

    run: str
    round: int
    unit: str
    units: int
    noise_multiplier: float
    max_grad_norm: float
    sample_rate: float
    steps: int
    noise: Literal["secret", "server", "simulated"] = "secret"
    release: str = ""
    cohort: str = ""

    @property
    def spending(self) -> Spending:
        """Return it as the accountant takes it."""
        return self.noise_multiplier, self.sample_rate, self.steps


@dataclass(frozen=True)
class PrivacyReading:
    """A ledger that was read and checked.

    Attributes:
        spends: every paid round, oldest first; of a damaged ledger those that can be read.
        problems: why no further step may be taken; empty when the ledger is whole.
    """

    spends: tuple[Spend, ...]
    problems: tuple[str, ...]

    def epsilon(self, delta: float, run: str | None = None) -> float:
        """Return epsilon of all paid rounds together, or of one run's."""
        chosen = [spend.spending for spend in self.spends if run in (None, spend.run)]
        return epsilon_of(chosen, delta)


class PrivacyLedger:
    """The one place where a site pays for private steps.

    Args:
        path: the ledger, in the site's state folder.
        outbox: the site's outbox ledger, which knows how many private answers have left.
        limits: largest epsilon, and the delta at which it holds.
    """

    def __init__(self, path: Path, outbox: Path, limits: LimitsConfig) -> None:
        self.path, self.outbox, self.limits = path, outbox, limits

    def spend(self, planned: Spend, most: int | None = None) -> str:
        """Write down what is about to be computed; return the line's hash.

        Two processes cannot spend at once: the sum is made and the line written under one lock.

        Args:
            planned: the round or the release.
            most: releases that the run may have in all; None for a round.

        Raises:
            LimitRefusal: a release too many, or of another cohort in the same run.
            BudgetSpent: epsilon of everything with these steps would pass `limits.max_epsilon`.
            PrivacyLedgerBroken: the ledger is not whole or cannot be written; nothing may run.
        """

        def admit(lines: Lines) -> None:
            self._refuse_doubtful(lines)
            if most is not None:
                _refuse_differencing(_spends(lines), planned, most)
            self._refuse_over_budget(_spends(lines), planned)

        with self._fail_closed():
            self._open()
            return append(self.path, {"event": SPENT, **asdict(planned)}, admit)

    def repeat(self, release: str) -> None:
        """Write down that the same bytes of a paid release leave again, which costs nothing.

        Raises:
            PrivacyLedgerBroken: it was never paid for, or the ledger is not whole.
        """

        def admit(lines: Lines) -> None:
            self._refuse_doubtful(lines)
            if release not in {spend.release for spend in _spends(lines)}:
                raise ValueError("the release was never paid for")

        with self._fail_closed():
            append(self.path, {"event": REPEATED, "release": release}, admit)

    def adopt(self) -> None:
        """Accept a ledger that was copied or restored, as the only one from now on; a line says so.

        Raises:
            PrivacyLedgerBroken: there is none, or more is wrong with it than its place.
        """

        def admit(lines: Lines) -> None:
            if problems := [*link_problems(lines), *self._problems(lines, placed=False)]:
                raise ValueError(problems[0])

        with self._fail_closed():
            if not read(self.path):
                raise ValueError("there is no ledger to take over")
            append(self.path, {"event": ADOPTED, "inode": self.path.stat().st_ino}, admit)

    def read(self) -> PrivacyReading:
        """Return what was paid so far and what is wrong with the ledger; changes nothing."""
        try:
            lines = read(self.path)
            problems = [*verify(self.path), *self._problems(lines)]
        except (OSError, ValueError) as error:
            return PrivacyReading((), (f"cannot be read ({error})",))
        try:
            return PrivacyReading(_spends(lines), tuple(problems))
        except ValueError as error:
            return PrivacyReading((), (*problems, str(error)))

    def _open(self) -> None:
        """Begin the ledger where there is none, with the file's own number in the first line."""
        if read(self.path):
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch(mode=0o600)
        first = {"event": OPENED, "inode": self.path.stat().st_ino}

        def admit(lines: Lines) -> None:
            if lines:
                raise _OpenedMeanwhile
            if problems := self._problems(lines):
                raise ValueError(problems[0])

        with contextlib.suppress(_OpenedMeanwhile):
            append(self.path, first, admit)

    def _problems(self, lines: Lines, placed: bool = True) -> list[str]:
        """Return what makes the sum of these lines doubtful, the chain itself left out."""
        problems = []
        if lines and lines[0].get("event") != OPENED:
            problems.append("the first line does not open a ledger: lines were removed")
        places = [line.get("inode") for line in lines if line.get("event") in (OPENED, ADOPTED)]
        if placed and places and places[-1] != self.path.stat().st_ino:
            problems.append(
                "this is a copy: the budget is spent where the original lies. If that one is gone "
                "for good, take this one over with `mfm-client privacy SITE --adopt`"
            )
        left = sum(_is_private(line) for line in read(self.outbox))
        paid = sum(line.get("event") in (SPENT, REPEATED) for line in lines)
        if left > paid:
            problems.append(
                f"the outbox lists {left} private answers, this ledger paid for {paid}: it was "
                "deleted or put back to an earlier day"
            )
        return problems

    def _refuse_doubtful(self, lines: Lines) -> None:
        if problems := [*link_problems(lines), *self._problems(lines)]:
            raise ValueError("; ".join(problems))

    def _refuse_over_budget(self, before: tuple[Spend, ...], planned: Spend) -> None:
        if others := {spend.unit for spend in before} - {planned.unit}:
            raise ValueError(
                f"holds steps per {others.pop()}; {planned.unit} cannot be added to it"
            )
        limit, delta = self.limits.max_epsilon, self.limits.delta
        history = [spend.spending for spend in before]
        found = epsilon_of([*history, planned.spending], delta)
        if not found <= limit:
            noise, rate, steps = planned.spending
            fit = steps_within(limit, history, (noise, rate), delta, steps)
            what = "the release" if planned.release else f"round {planned.round}"
            raise BudgetSpent(
                f"{what} would bring epsilon to {found:.3f} at delta {delta:g}, "
                f"limits.max_epsilon is {limit:g}; {fit} of its {steps} steps would fit. Nothing "
                "was computed. Raise the limit only if the hospital has decided so"
            )

    @contextlib.contextmanager
    def _fail_closed(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PrivacyLedgerBroken(
                f"{self.path}: {error}; no private step is taken without its line"
            ) from None


def _refuse_differencing(before: tuple[Spend, ...], planned: Spend, most: int) -> None:
    """Refuse a release whose difference from an earlier one could show a patient, or one too many.

    Raises:
        LimitRefusal: both are told in words.
    """
    earlier = [spend for spend in before if spend.release and spend.run == planned.run]
    if any(spend.cohort != planned.cohort for spend in earlier):
        raise LimitRefusal(
            "this run released the cells of other images already: the difference would show who "
            "came or went. Put the images back as they were, or agree on a new run"
        )
    if len({spend.release for spend in earlier} | {planned.release}) > most:
        raise LimitRefusal(
            f"this run released cells {len(earlier)} times, allowed are {most} "
            "(privacy.atlas.releases, limits.max_atlas_releases)"
        )


class _OpenedMeanwhile(Exception):
    """Another process wrote the first line."""


def _is_private(line: dict[str, Any]) -> bool:
    """Return whether a line of the outbox lists an answer that was paid for here."""
    protection = line.get("protection")
    return isinstance(protection, dict) and protection.get("level") == "formal"


def _spends(lines: Lines) -> tuple[Spend, ...]:
    """Return the paid rounds of a ledger.

    Raises:
        ValueError: a line this code does not know, or one without its numbers.
    """
    found = []
    for number, line in enumerate(lines, start=1):
        if line.get("event") in (OPENED, ADOPTED, REPEATED):
            continue
        facts = {k: v for k, v in line.items() if k not in ("time", "event", "previous", "hash")}
        try:
            spend = Spend(**facts)
            epsilon_of([spend.spending], 0.5)
        except (TypeError, ValueError):
            raise ValueError(f"line {number} is none that this version can add up") from None
        if line.get("event") != SPENT:
            raise ValueError(f"line {number} is none that this version can add up")
        found.append(spend)
    return tuple(found)
