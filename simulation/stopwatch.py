"""Side-by-side timing: variants take turns in one process, and ratios are taken round by round.

Absolute times of a shared machine are worth little; the ratio of two variants that ran one after
the other within a second is. What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Goal:
    """What a measured value should reach."""

    value: float
    direction: Literal["at least", "at most"]

    def met_by(self, measured: float) -> bool:
        """Return whether `measured` is on the right side, the value itself included."""
        if self.direction == "at least":
            return measured >= self.value
        return measured <= self.value


@dataclass(frozen=True)
class Row:
    """One line of the benchmark.

    Attributes:
        what: what was measured, in words.
        measured: median over the rounds.
        unit: "x" a ratio, "%" a share in percent, "" an absolute error.
        goal: what it should reach; None where the value stands for information.
        rounds: number of interleaved rounds.
        low: lower quartile over the rounds.
        high: upper quartile over the rounds.
        note: the absolute figures behind the ratio.
    """

    what: str
    measured: float
    unit: str
    goal: Goal | None
    rounds: int
    low: float
    high: float
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the row, JSON ready."""
        goal = self.goal
        return {
            "what": self.what,
            "measured": self.measured,
            "unit": self.unit,
            "goal": None if goal is None else goal.value,
            "direction": None if goal is None else goal.direction,
            "met": None if goal is None else goal.met_by(self.measured),
            "rounds": self.rounds,
            "quartiles": [self.low, self.high],
            "note": self.note,
        }


def make_row(
    what: str, values: NDArray[np.float64], unit: str, goal: Goal | None, note: str = ""
) -> Row:
    """Return the row of `[R]` values, one a round: their median and quartiles."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return Row(what, middle, unit, goal, len(values), low, high, note)


def interleave(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, NDArray[np.float64]]:
    """Return the seconds of every variant, `[rounds]` each, after one round that is not counted.

    In every round each variant runs once; every second round runs backwards, so that none
    always has the same predecessor.

    Args:
        variants: name to what is timed.
        rounds: number of counted rounds.
        clock: CPU time of this process unless said otherwise.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        order = list(variants) if number % 2 else list(variants)[::-1]
        for name in order:
            start = clock()
            variants[name]()
            if number:
                seconds[name].append(clock() - start)
    return {name: np.array(values) for name, values in seconds.items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold torch to one thread inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_ms(seconds: NDArray[np.float64]) -> str:
    """Return the median in milliseconds, as text."""
    return f"{np.median(seconds) * 1e3:.3g} ms"
