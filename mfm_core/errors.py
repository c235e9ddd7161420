"""Every error this project raises on purpose, in one tree.

    MfmError
      ConfigError        a file of settings is wrong: all its problems, by dotted path
      DataError          images, labels or splits cannot be used: all problems, by row
      CheckpointError    a file of weights or sums does not belong here
      BoundaryError      something must not cross the hospital's boundary
        LimitRefusal     the run asks for more than the site's own limits allow
          OutsideHours   the site works at other hours
          BudgetSpent    the step would pass the site's largest epsilon
          NoiseTooLow    less noise, or another unit, than the site asks for
        PrivacyLedgerBroken  what private training has cost so far is not certain
        OutboxRefusal    a value is not on the list, not finite or too large
      UpdateRejected     what a site sent fails the server's checks
      TooFewSites        a round cannot be formed from the sites that answered
      RunFailed          a run ended without a model
      WorkerStopped      the process that computes for a site was ended without an answer
      WorkerFailed       that process answered with the word of an error

Each error says what was found, what was expected and what to do. `code` is the short word that
may leave a hospital in place of the text; `exit_code` is what a command returns
(1 refused by a check, 3 failed while running).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Any

PROBLEMS_SHOWN = 50
"""Problems in the text of an error; `problems` holds all of them."""


def is_full(error: OSError) -> bool:
    """Tell whether a disk is full, or a quota used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def unforeseen_word(error: Exception) -> str:
    """Return the word that leaves a hospital for an error that was not foreseen."""
    return "disk" if isinstance(error, OSError) and is_full(error) else "internal"


def system_refusal(error: OSError) -> str:
    """Return what the operating system refused, in one line for people."""
    reason = error.strerror or str(error)
    advice = "free some space" if is_full(error) else "check the path and its permissions"
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{reason}; {advice}"


class MfmError(Exception):
    """The root of the tree; never raised itself."""

    code = "error"
    exit_code = 3


class _Problems(MfmError):
    """An error that lists every problem of one subject at once."""

    exit_code = 1

    def __init__(self, subject: str, problems: Iterable[str]) -> None:
        self.subject = subject
        self.problems = tuple(problems)
        noun = "problem" if len(self.problems) == 1 else "problems"
        lines = "".join(f"\n  - {problem}" for problem in self.problems[:PROBLEMS_SHOWN])
        if len(self.problems) > PROBLEMS_SHOWN:
            lines += f"\n  ... and {len(self.problems) - PROBLEMS_SHOWN} more"
        super().__init__(f"{subject}: {len(self.problems)} {noun}{lines}")


class ConfigError(_Problems):
    """A configuration file is wrong. `problems` names each field by its dotted path."""

    code = "config"


class DataError(_Problems):
    """Data cannot be used. `problems` names each row; it never leaves the site."""

    code = "data"


class CheckpointError(MfmError):
    """A file of weights or sums is damaged or belongs to another model, config or encoder."""

    code = "checkpoint"
    exit_code = 1


class BoundaryError(MfmError):
    """Something must not cross the hospital's boundary."""

    code = "boundary"
    exit_code = 1


class LimitRefusal(BoundaryError):
    """The run asks for more than this site's own limits allow."""

    code = "limit"


class OutsideHours(LimitRefusal):
    """The site's limits name other hours of the day."""

    code = "hours"


class BudgetSpent(LimitRefusal):
    """The private steps that are asked for would pass the site's largest epsilon."""

    code = "budget"


class NoiseTooLow(LimitRefusal):
    """The agreed run protects patients less than the site's limits ask for."""

    code = "noise"


class PrivacyLedgerBroken(BoundaryError):
    """The site's privacy ledger is not whole or cannot be written, so no private step is taken."""

    code = "ledger"


class OutboxRefusal(BoundaryError):
    """A value that was about to leave is not on the list, not finite or too large."""

    code = "outbox"


class UpdateRejected(MfmError):
    """What a site sent fails the server's checks; it is named and never added."""

    code = "rejected"

    def __init__(self, reason: str, text: str) -> None:
        self.reason = reason
        super().__init__(text)


class TooFewSites(MfmError):
    """A round cannot be formed: fewer sites answered in time than the quorum.

    `went` tells how the exchange went, for the ledger; None when nobody was asked.
    """

    code = "quorum"

    def __init__(self, text: str, went: Any = None) -> None:
        self.went = went
        super().__init__(text)


class RunFailed(MfmError):
    """A run ended without a model."""

    code = "failed"


class WorkerStopped(MfmError):
    """The process that computes for a site took too long, ran out of memory or died."""

    code = "stopped"


class WorkerFailed(MfmError):
    """The work of the process that computes for a site failed; `code` is its word."""

    code = "work"

    def __init__(self, word: str, text: str) -> None:
        self.code = word
        super().__init__(text)
