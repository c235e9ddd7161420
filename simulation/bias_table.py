"""The summary of a grid: every method in every setting, over seeds, beside the goals.

Two intervals stand beside each mean. The one over seeds is Student's t from the seeds' values: it
holds what another training and, where seeds draw patients, other patients would change. The
bootstrap one redraws the test patients and averages over seeds, a patient who is tested under
several seeds with the same weight: it holds the choice of test patients alone. A goal
is met when the distance from its centre, averaged over seeds, lies within its limit; signed
means stand beside it, and the intervals are of those. A distance is never 0 with few test patients:
"chance" is what it would be on average if nothing were there, the mean distance of the bootstrap
replicates from their own figure. "beyond phi 0" is a gap less that of the same seed and method
without a coupling, where findings may be harder to see in one value than in the other.
Files: table.md, table.json and as_trained_reversed.png.
What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import t as student

from mfm_core.charts import WIDTH
from mfm_core.drawing import DPI, FADED, GRID, INK, STYLE, encode_png
from mfm_core.report import finite
from mfm_core.whole_file import write_whole
from simulation.bias_evidence import RELEASED, Figures, Floats
from simulation.grid import GridConfig

COMPARISON = "erm"
"""The method that costs and gains are counted against."""

LOOKS = {
    RELEASED: ("#8A8F98", "*"),
    "erm": ("#000000", "o"),
    "random_alpha_marginal": ("#D55E00", "v"),
    "random_alpha": ("#0072B2", "^"),
    "random_alpha_shrunk": ("#0072B2", "<"),
    "leace": ("#009E73", "s"),
    "leace_shrunk": ("#009E73", "X"),
    "reweighting": ("#CC79A7", "D"),
    "lda": ("#E69F00", "P"),
    "ccvr": ("#56B4E9", "p"),
}
"""Colour and marker of each head (Okabe and Ito, and grey)."""

LABELS = {
    RELEASED: "head of the run as it is",
    "erm": "ERM",
    "random_alpha_marginal": "paper (random alpha, marginal axis)",
    "random_alpha": "random alpha, class-conditional axis",
    "random_alpha_shrunk": "random alpha, shrunk class-conditional axis",
    "leace": "class-conditional LEACE",
    "leace_shrunk": "class-conditional LEACE, shrunk axis",
    "reweighting": "reweighting",
    "lda": "LDA from sums",
    "ccvr": "virtual features (CCVR)",
}


@dataclass(frozen=True)
class Goal:
    """A limit on how far a figure lies from its centre in each seed, on average over seeds.

    Distances are averaged, not figures: two seeds at +0.1 and -0.1 are 0.1 away, not 0.
    """

    name: str
    figure: str
    limit: float
    centre: float = 0.0

    def distance(self, values: Sequence[float]) -> float:
        """Return the mean distance of the seeds' values from the centre."""
        return float(np.mean([abs(value - self.centre) for value in values]))

    def met(self, values: Sequence[float]) -> bool:
        """Tell whether that lies within the limit."""
        return self.distance(values) <= self.limit + 1e-12


GOALS = (
    Goal("AUC as trained - reversed", "difference", 0.03),
    Goal("the same at one hospital", "matched_difference", 0.03),
    Goal("linear probe", "seen.linear.across", 0.05, 0.5),
    Goal("gap between values", "gap", 0.02),
)
"""The goals of the design (section 10); the second is the first without a change of hospital."""


@dataclass(frozen=True)
class Evidence:
    """All figures of one cell: `figures[method][name]` is `[1 + R]`, the value and replicates."""

    group: str
    phi: float | None
    seed: int
    values: tuple[str, str]
    figures: Mapping[str, Figures]


@dataclass(frozen=True)
class Spread:
    """A mean over seeds with both 95 % intervals; None where they cannot be drawn.

    Attributes:
        values: each seed's own, in the order of the cells.
        chance: mean distance of the replicates from their seed's own value.
    """

    mean: float
    seeds: int
    t_low: float | None
    t_high: float | None
    low: float | None
    high: float | None
    values: tuple[float, ...] = ()
    chance: float | None = None


@dataclass(frozen=True)
class Row:
    """One method in one setting."""

    group: str
    phi: float | None
    method: str
    values: tuple[str, str]
    figures: Mapping[str, Spread]

    @property
    def goals(self) -> dict[str, bool]:
        """Which goals are met on average over seeds; a figure that is not defined meets none."""
        found = {goal.name: self.figures.get(goal.figure) for goal in GOALS}
        return {
            goal.name: spread is not None and goal.met(spread.values)
            for goal, spread in zip(GOALS, found.values(), strict=True)
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of table.json."""
        figures = {name: asdict(spread) for name, spread in self.figures.items()}
        setting = {"group": self.group, "phi": self.phi, "method": self.method}
        return {**setting, "values": list(self.values), "figures": figures, "goals": self.goals}


def spread_of(rows: Sequence[Floats]) -> Spread | None:
    """Return the mean over seeds of `[1 + R]` figures; seeds without a value are left out."""
    known = [row for row in rows if np.isfinite(row[0])]
    if not known:
        return None
    values = np.array([row[0] for row in known])
    mean, count = float(values.mean()), len(values)
    t_low = t_high = low = high = None
    if count > 1:
        half = float(student.ppf(0.975, count - 1) * values.std(ddof=1) / np.sqrt(count))
        t_low, t_high = mean - half, mean + half
    drawn = np.mean([row[1:] for row in known], axis=0)
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) > (len(known[0]) - 1) / 2:
        low, high = (float(level) for level in np.percentile(drawn, (2.5, 97.5)))
    apart = np.concatenate([np.abs(row[1:] - row[0]) for row in known])
    apart = apart[np.isfinite(apart)]
    chance = float(apart.mean()) if len(apart) else None
    return Spread(mean, count, t_low, t_high, low, high, tuple(map(float, values)), chance)


def with_costs(evidence: Evidence) -> dict[str, Figures]:
    """Return figures with "cost", AUC lost as trained, and "gain", AUC won reversed.

    Both are paired with ERM of the same cell: the same images, the same replicates.
    """
    start = evidence.figures.get(COMPARISON, {})
    complete: dict[str, Figures] = {}
    for method, figures in evidence.figures.items():
        complete[method] = dict(figures)
        for name, sign, figure in (("cost", -1, "as_trained"), ("gain", 1, "reversed")):
            if figure in start and figure in figures:
                complete[method][name] = sign * (figures[figure] - start[figure])
    return complete


def beyond_uncoupled(
    figures: dict[str, Figures], own: Evidence, evidence: Sequence[Evidence]
) -> dict[str, Figures]:
    """Return figures with "gap_beyond": the gap less that of the same seed and method at phi 0.

    Cells without a coupling, and those whose phi 0 was not run, stay as they are.
    """
    setting = (own.group, 0.0, own.seed)
    starts = [one for one in evidence if (one.group, one.phi, one.seed) == setting]
    if not own.phi or not starts:
        return figures
    plain = starts[0].figures
    return {
        method: {**found, "gap_beyond": found["gap"] - plain[method]["gap"]}
        if "gap" in found and "gap" in plain.get(method, {})
        else found
        for method, found in figures.items()
    }


def summarise(evidence: Sequence[Evidence], methods: Sequence[str]) -> tuple[Row, ...]:
    """Return one row per setting and method, in the order of the cells."""
    rows: list[Row] = []
    for group, phi in dict.fromkeys((one.group, one.phi) for one in evidence):
        mine = [one for one in evidence if (one.group, one.phi) == (group, phi)]
        figures = [beyond_uncoupled(with_costs(one), one, evidence) for one in mine]
        for method in methods:
            names = dict.fromkeys(name for each in figures for name in each[method])
            spreads = {n: spread_of([each[method][n] for each in figures]) for n in names}
            known = {name: spread for name, spread in spreads.items() if spread is not None}
            rows.append(Row(group, phi, method, mine[0].values, known))
    return tuple(rows)


def setting_of(row: Row) -> str:
    """Return what a row's block is called."""
    return row.group if row.phi is None else f"{row.group}, phi {row.phi:.2f}"


_COLUMNS = (
    ("AUC as trained", "as_trained", True),
    ("AUC reversed", "reversed", True),
    ("difference", "difference", True),
    ("at one hospital", "matched_difference", True),
    ("gap", "gap", True),
    ("gap beyond phi 0", "gap_beyond", True),
    ("linear probe", "seen.linear.across", True),
    ("refitted", "seen.linear.inside", False),
    ("MLP probe", "seen.mlp.across", False),
    ("refitted", "seen.mlp.inside", False),
    ("linear, logits", "said.linear.across", False),
    ("cost", "cost", True),
    ("gain", "gain", True),
)
"""Heading, figure, and whether its intervals are shown."""


def _text(spread: Spread | None, figure: str, with_intervals: bool) -> str:
    if spread is None:
        return "-"
    text = f"{spread.mean:.3f}"
    for goal in (goal for goal in GOALS if goal.figure == figure):
        text += f" \\|{goal.distance(spread.values):.3f}\\|"
        text += "" if spread.chance is None else f" [{spread.chance:.3f}]"
    if not with_intervals:
        return text
    if spread.t_low is not None and spread.t_high is not None:
        text += f" ± {(spread.t_high - spread.t_low) / 2:.3f}"
    return text if spread.low is None else f"{text} ({spread.low:.3f} to {spread.high:.3f})"


def as_markdown(rows: Sequence[Row], config: GridConfig) -> str:
    """Return the tables, one per setting, and how to read them."""
    lines = [f"# {config.name}: {config.attribute}, {len(config.seeds)} seeds", ""]
    lines += [_reading(config), ""]
    for setting in dict.fromkeys(setting_of(row) for row in rows):
        mine = [row for row in rows if setting_of(row) == setting]
        headings = ["method", *(heading for heading, _, _ in _COLUMNS), "goals met"]
        lines += [f"## {setting}", "", f"| {' | '.join(headings)} |"]
        lines.append("| --- " * len(headings) + "|")
        for row in mine:
            cells = [_text(row.figures.get(name), name, shown) for _, name, shown in _COLUMNS]
            marks = "".join("yes " if met else "no " for met in row.goals.values()).strip()
            lines.append(f"| {' | '.join([row.method, *cells, marks])} |")
        lines.append("")
    return "\n".join(lines)


def _reading(config: GridConfig) -> str:
    goals = "; ".join(f"{goal.name} within {goal.limit} of {goal.centre:g}" for goal in GOALS)
    return (
        "Means over seeds; \\|d\\| beside a figure is its mean distance from the goal's centre, "
        "which the goal judges, because signed differences of several seeds cancel; in square "
        "brackets what that distance would be by chance alone, with these test patients and "
        "nothing there; ± is half of "
        "the 95 % t interval over seeds, brackets are the 95 % "
        f"bootstrap interval by patient ({config.replicates} replicates). Probes read the "
        f"{config.attribute} at the held-out hospital within classes, fitted at the training "
        "hospitals or (refitted) there by patient folds; 0.5 is nothing. Cost: AUC lost against "
        f"{COMPARISON} as trained; gain: AUC won on the held-out hospital. Goals met, in order: "
        f"{goals}. Research software, not a medical device."
    )


def draw_trade(rows: Sequence[Row]) -> bytes:
    """Return PNG: AUC as trained against reversed, one panel a setting, one mark a method."""
    settings = list(dict.fromkeys(setting_of(row) for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    lines = -(-len(settings) // 2)
    legend = 0.26 * len(methods) + 0.45
    with rc_context(STYLE):
        figure = Figure(
            figsize=(WIDTH, 2.55 * lines + legend), dpi=DPI, facecolor="white", layout="constrained"
        )
        panels: NDArray[Any] = figure.subplots(lines, 2, squeeze=False)
        for panel, setting in zip(panels.ravel(), settings, strict=False):
            _draw_panel(panel, [row for row in rows if setting_of(row) == setting], setting)
        for panel in panels.ravel()[len(settings) :]:
            panel.set_visible(False)
        handles = [
            figure.axes[0].plot([], [], LOOKS[m][1], color=LOOKS[m][0], label=LABELS[m])[0]
            for m in methods
        ]
        figure.legend(handles=handles, loc="outside lower center", frameon=False, fontsize=9)
        return encode_png(figure)


def _draw_panel(axes: Axes, rows: Sequence[Row], title: str) -> None:
    low = 0.5
    for row in rows:
        x, y = row.figures.get("as_trained"), row.figures.get("reversed")
        if x is None or y is None:
            continue
        colour, marker = LOOKS[row.method]
        if x.low is not None and x.high is not None:
            axes.plot([x.low, x.high], [y.mean, y.mean], color=colour, lw=1.2)
        if y.low is not None and y.high is not None:
            axes.plot([x.mean, x.mean], [y.low, y.high], color=colour, lw=1.2)
        axes.plot([x.mean], [y.mean], marker, color=colour, ms=6)
        low = min(low, x.low or x.mean, y.low or y.mean)
    low = np.floor(20 * low) / 20
    axes.plot([low, 1], [low, 1], color=FADED, lw=0.8, ls="--")
    axes.set_xlim(low, 1.01)
    axes.set_ylim(low, 1.01)
    axes.set_aspect("equal")
    axes.set_title(title, size=10, color=INK)
    axes.set_xlabel("AUC as trained", size=9)
    axes.set_ylabel("AUC reversed", size=9)
    axes.tick_params(length=2, labelsize=8)
    axes.grid(color=GRID, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def write_tables(folder: Path, config: GridConfig, evidence: Sequence[Evidence]) -> dict[str, Any]:
    """Write table.md, table.json and the figure; return the content of table.json."""
    rows = summarise(evidence, (RELEASED, *config.methods))
    content = {
        "grid": config.name,
        "attribute": config.attribute,
        "seeds": list(config.seeds),
        "goals": [asdict(goal) for goal in GOALS],
        "rows": [row.to_dict() for row in rows],
    }
    told: dict[str, Any] = finite(content)
    write_whole(folder / "table.md", as_markdown(rows, config).encode())
    write_whole(folder / "as_trained_reversed.png", draw_trade(rows))
    write_whole(folder / "table.json", json.dumps(told, indent=1).encode())
    return told
