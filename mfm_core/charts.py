"""Figures of a run as PNG bytes: values with their intervals, and what happened over the rounds.

Dots with whiskers, not bars: an AUC has no zero to stand on. Marker and colour both tell a
group, so the chart survives print and colour blindness. What crosses the hospital's boundary:
nothing; the numbers are pooled figures that the run has released already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mfm_core.drawing import DPI, GRID, INK, STYLE, encode_png

LOOKS = {
    "federated": ("#0072B2", "o"),
    "site": ("#009E73", "s"),
    "baseline": ("#D55E00", "D"),
}
"""Colour and marker of each group (Okabe and Ito)."""


WIDTH = 5.4
"""Inches: narrow enough to be read on a phone without scrolling."""

NAME_LENGTH = 25
"""Characters of a row's name before it is broken into lines."""


@dataclass(frozen=True)
class Interval:
    """One figure with its 95 % interval; `group` is federated, site or baseline."""

    name: str
    group: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Curve:
    """One figure over the rounds; the two sequences have equal length."""

    name: str
    rounds: Sequence[int]
    values: Sequence[float]


def draw_intervals(rows: Sequence[Interval], title: str) -> bytes:
    """Return dots with 95 % whiskers, one row a figure, as PNG; `rows` is not empty."""
    with rc_context(STYLE):
        return encode_png(plot_intervals(rows, title))


def plot_intervals(rows: Sequence[Interval], title: str) -> Figure:
    """Return the figure of `draw_intervals`; long names are broken into lines, never cut."""
    names = [fill(row.name, NAME_LENGTH) for row in rows]
    most = max(name.count("\n") for name in names)
    body = (0.34 + 0.13 * most) * len(rows)
    height = 0.95 + body
    longest = max(len(line) for name in names for line in name.split("\n"))
    left = 0.06 + 0.0155 * longest
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    axes = figure.add_axes((left, 0.52 / height, 0.87 - left, body / height))
    for place, row in enumerate(rows):
        colour, marker = LOOKS[row.group]
        low = row.value if row.low is None else row.low
        high = row.value if row.high is None else row.high
        axes.plot([low, high], [place, place], color=colour, lw=2.2, solid_capstyle="butt")
        axes.plot([row.value], [place], marker, color=colour, ms=7)
        axes.text(
            1.015, place, f"{row.value:.3f}", transform=axes.get_yaxis_transform(),
            va="center", size=10, color=INK,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), names, color=INK)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.tick_params(length=0)
    axes.grid(axis="x", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    legend = "line: 95 % interval;  ● together   ■ one hospital   ◆ for comparison"
    figure.text(0.02, 0.08 / height, legend, va="bottom", size=9, color=INK)
    figure.text(0.02, 1 - 0.1 / height, title, va="top", weight="bold", size=11)
    return figure


def draw_rounds(curves: Sequence[Curve], title: str) -> bytes:
    """Return one small chart per figure over the rounds, one below the other, as PNG."""
    with rc_context(STYLE):
        figure = Figure(
            figsize=(WIDTH, 2.1 * len(curves) + 0.4),
            dpi=DPI,
            facecolor="white",
            layout="constrained",
        )
        figure.suptitle(title, x=0.02, ha="left", weight="bold", size=11)
        for number, curve in enumerate(curves):
            axes = figure.add_subplot(len(curves), 1, number + 1)
            axes.plot(curve.rounds, curve.values, color="#0072B2", marker="o", ms=3.5, lw=1.6)
            axes.set_title(curve.name, size=10)
            if number == len(curves) - 1:
                axes.set_xlabel("round")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.tick_params(length=2, labelsize=9)
            axes.grid(color=GRID, lw=0.8)
            axes.spines[["top", "right"]].set_visible(False)
        return encode_png(figure)
