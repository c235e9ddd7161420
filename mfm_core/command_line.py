"""Ends every command in the same way: with an exit code, and plain words on standard error.

What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import click

from mfm_core.errors import MfmError, system_refusal


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM. No KeyboardInterrupt, which typer turns into an exit code of its own."""


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise Interrupted


def end_at_signals() -> None:
    """Let Ctrl-C and SIGTERM end the command of this process with plain words and code 3."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def run_command(
    app: Callable[..., Any],
    program: str,
    arguments: Sequence[str] | None = None,
    interrupted: str = "Interrupted.",
) -> int:
    """Run a command and return its exit code; errors go to standard error as plain text.

    Args:
        app: the typer application.
        program: its name, for the report of a defect.
        arguments: of the command; None takes those of this process.
        interrupted: what to say after Ctrl-C or SIGTERM.

    Returns:
        0 done, 1 refused by a check, 2 wrong use, 3 failed while running.
    """
    try:
        code = app(arguments, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except MfmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(system_refusal(error), file=sys.stderr)
    except (Interrupted, KeyboardInterrupt, click.Abort):
        print(interrupted, file=sys.stderr)
    except Exception:
        traceback.print_exc()
        print(f"This is a defect of {program}; please report the lines above.", file=sys.stderr)
    return 3
