"""The curve of few labels as table, goals and picture. Reads results, trains nothing.

Intervals are Student's t over seeds: the same encoder, other labels shown. What crosses a
hospital's boundary: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t as student

from simulation.few_labels import Result
from simulation.few_labels_config import AT_THE_HOSPITAL, CURVE

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

NAMES = {
    "head": "head only",
    "lora": "LoRA",
    "all": "all weights",
    "semi": "semi-supervised",
    "federated": "untouched global head",
    "local": "own head",
    "federated_semi": "semi-supervised, federated",
    "both": "semi-supervised, federated, own head",
}
COLOURS = dict(zip(CURVE, ("#7f7f7f", "#2166ac", "#b2182b", "#1b7837"), strict=True))
KEPT, GAIN = 0.95, 0.02
"""Goals: of the AUC with every label at 10 % of them; of AUC at the hospital without labels."""


@dataclass(frozen=True)
class Figure:
    """A mean over seeds, half of its 95 % t interval (None of one seed) and the seeds."""

    value: float
    half: float | None
    seeds: int

    def __str__(self) -> str:
        return self.text("")

    def text(self, sign: str) -> str:
        """Return it with three digits; a sign of "+" is shown where it is positive too."""
        mean = f"{self.value:{sign}.3f}"
        return mean if self.half is None else f"{mean} ± {self.half:.3f}"


def figure_of(values: Sequence[float]) -> Figure | None:
    """Return the figure of some seeds' values, nan left out; None without any."""
    values = [value for value in values if not np.isnan(value)]
    if not values:
        return None
    half = None
    if len(values) > 1:
        quantile = float(student.ppf(0.975, len(values) - 1))
        half = quantile * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Figure(float(np.mean(values)), half, len(values))


def aucs(results: Sequence[Result], cell: str, method: str, share: float) -> dict[int, float]:
    """Return the AUC on all hospitals' test images by seed."""
    return {r.seed: r.auc for r in results if (r.cell, r.method, r.share) == (cell, method, share)}


def kept(results: Sequence[Result], cell: str, method: str, share: float) -> Figure | None:
    """Return which part of its AUC with every label a method has at a share, seed by seed."""
    few, whole = aucs(results, cell, method, share), aucs(results, cell, method, 1.0)
    return figure_of([few[seed] / whole[seed] for seed in sorted(few.keys() & whole.keys())])


def gains(results: Sequence[Result], cell: str, method: str, share: float) -> Figure | None:
    """Return what a method gains at the unlabelled hospital over the untouched head, by seed."""

    def at(name: str) -> dict[int, float]:
        wanted = (cell, name, share)
        return {r.seed: r.hospital_auc for r in results if (r.cell, r.method, r.share) == wanted}

    before, after = at("federated"), at(method)
    return figure_of([after[seed] - before[seed] for seed in sorted(before.keys() & after.keys())])


def make_tables(results: Sequence[Result]) -> str:
    """Return the curve, the hospital's gain and the goals as Markdown."""
    shares = sorted({r.share for r in results if r.method in CURVE})
    lines = []
    for cell in dict.fromkeys(r.cell for r in results):
        lines += _curve(results, cell, shares) + _hospital(results, cell)
    return "\n".join([*lines, _legend(results), ""])


def _legend(results: Sequence[Result]) -> str:
    """Return what the figures are, in words."""
    seeds = len({result.seed for result in results})
    over = "one draw of labels (seed), so no interval"
    if seeds > 1:
        over = f"mean of up to {seeds} draws of labels (seeds), ± half of the 95 % t interval"
    return (
        f"Macro AUC on test images; {over}. Labelled: patients that show a label. Goals: at least "
        f"{KEPT} of the AUC with every label kept at 10 %; a gain of at least +{GAIN}. "
        "Right: part of the pseudo-labels. Research software, not a medical device."
    )


def _curve(results: Sequence[Result], cell: str, shares: Sequence[float]) -> list[str]:
    tested = max(r.tested for r in results if r.cell == cell)
    lines = [
        f"| {cell}, macro AUC, {tested:,} test images | "
        + " | ".join(f"{s:.0%}, {_patients(results, cell, s)} labelled" for s in shares)
        + " | kept at 10 % | numbers that leave |",
        "| --- |" + " --- |" * (len(shares) + 2),
    ]
    for method in CURVE:
        mine = [r for r in results if (r.cell, r.method) == (cell, method)]
        if not mine:
            continue
        cells = [figure_of(list(aucs(results, cell, method, s).values())) for s in shares]
        part = kept(results, cell, method, 0.1)
        judged = [_judged(part, KEPT), f"{mine[0].numbers:,}"]
        row = [NAMES[method], *(_text(found) for found in cells), *judged]
        lines.append(f"| {' | '.join(row)} |")
    return [*lines, ""]


def _hospital(results: Sequence[Result], cell: str) -> list[str]:
    lines: list[str] = []
    tested = max(r.hospital_tested for r in results if r.cell == cell)
    shares = {r.share for r in results if (r.cell, r.method) == (cell, "federated")}
    for share in sorted(shares):
        lines += [
            f"| {cell}, hospital without labels, {share:.0%} elsewhere, {tested:,} test images "
            "| macro AUC there | gain | "
            "pseudo-labels | right |",
            "| --- | --- | --- | --- | --- |",
        ]
        for method in AT_THE_HOSPITAL:
            wanted = (cell, method, share)
            mine = [r for r in results if (r.cell, r.method, r.share) == wanted]
            if not mine:
                continue
            found = figure_of([r.hospital_auc for r in mine])
            gain = None if method == "federated" else gains(results, cell, method, share)
            made = [r.pseudo for r in mine if r.pseudo >= 0]
            right = [r.right for r in mine if r.right is not None]
            row = [NAMES[method], _text(found), "-" if gain is None else _judged(gain, GAIN, "+")]
            row.append(f"{np.mean(made):.0f}" if made else "-")
            row.append(f"{np.mean(right):.2f}" if right else "-")
            lines.append(f"| {' | '.join(row)} |")
        lines.append("")
    return lines


def _patients(results: Sequence[Result], cell: str, share: float) -> str:
    """Return how many patients showed a label, on average over seeds."""
    found = {r.seed: r.patients for r in results if (r.cell, r.share) == (cell, share)}
    return f"{np.mean(list(found.values())):,.0f}"


def _text(figure: Figure | None) -> str:
    return "-" if figure is None else str(figure)


def _judged(figure: Figure | None, goal: float, sign: str = "") -> str:
    if figure is None:
        return "-"
    return f"{figure.text(sign)} ({'met' if figure.value >= goal else 'missed'})"


def draw_curve(results: Sequence[Result], path: Path) -> Path:
    """Write a PNG: macro AUC against the share of labels, one panel a data set."""
    from matplotlib.figure import Figure as Picture

    cells = list(dict.fromkeys(r.cell for r in results))
    picture = Picture(figsize=(5.2 * max(1, len(cells)), 4.4), layout="constrained")
    panels = picture.subplots(1, max(1, len(cells)), squeeze=False)[0]
    for axes, cell in zip(panels, cells, strict=False):
        _panel(axes, [result for result in results if result.cell == cell], cell)
    panels[0].set_ylabel("macro AUC, test images of all hospitals")
    named: dict[str, Artist] = {}
    for axes in panels:
        handles, names = axes.get_legend_handles_labels()
        named |= dict(zip(names, handles, strict=True))
    picture.legend(
        list(named.values()), list(named), fontsize=8, ncols=4, loc="outside upper center"
    )
    seeds = len({result.seed for result in results})
    over = "one draw of labels, no intervals"
    if seeds > 1:
        over = f"bars: 95 % t interval over {seeds} draws of labels, where a method has several"
    picture.supxlabel(f"share of patients with a label; {over}", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=150, metadata={"Software": None})
    return path


def _panel(axes: Axes, mine: Sequence[Result], cell: str) -> None:
    """Draw the methods of one data set; what an interval has beyond 0 or 1 is cut off."""
    every: set[float] = set()
    for place, method in enumerate(CURVE):
        shares = sorted({r.share for r in mine if r.method == method})
        found = [figure_of(list(aucs(mine, cell, method, s).values())) for s in shares]
        drawn = [(s, f) for s, f in zip(shares, found, strict=True) if f is not None]
        if not drawn:
            continue
        every |= {share for share, _ in drawn}
        axes.errorbar(
            [share * 1.04 ** (place - 1.5) for share, _ in drawn],
            [figure.value for _, figure in drawn],
            yerr=[figure.half or 0.0 for _, figure in drawn],
            color=COLOURS[method],
            marker="o",
            capsize=3,
            label=NAMES[method],
        )
    tested = max(result.tested for result in mine)
    axes.set(xscale="log", title=f"{cell}, {tested:,} test images")
    axes.set_xticks(sorted(every), [f"{100 * share:g} %" for share in sorted(every)])
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0), min(high, 1.005))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
