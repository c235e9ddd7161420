"""How far a command is: a bar on a terminal, plain lines in a log.

What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_EVERY_S = 15.0
"""A log gets a line no more often than this, and one at the end."""

Show = Callable[[int, int], None]


@contextmanager
def progress(words: str, stream: TextIO) -> Iterator[Show]:
    """Yield a function that is told how many units are done and how many there are.

    A single unit shows nothing. On a terminal there is a bar with the time left, elsewhere lines.
    """
    console = Console(file=stream)
    if not console.is_terminal:
        yield _plain(words, stream)
        return
    columns = (BarColumn(bar_width=30), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn(words), *columns, *times, console=console, transient=True) as bar:
        task = bar.add_task(words, total=None, visible=False)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=total > 1)

        yield show


def _plain(words: str, stream: TextIO) -> Show:
    started = said = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if total < 2 or done == 0 or (done < total and now - said < PLAIN_EVERY_S):
            return
        said, left = now, (now - started) / done * (total - done)
        ending = f", {left:.0f} s left" if done < total else f" in {now - started:.0f} s"
        print(f"{words}: {done} of {total}{ending}", file=stream, flush=True)

    return show
