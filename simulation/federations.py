"""Compares ways to federate: the same hospitals and seeds, one study for each method.

A comparison file has the one key `comparison`. Each of its `cells` is a study laid over `shared`,
with `$seed` where the seed belongs; each of its `methods` is laid over every cell, e.g.
`{aggregation: {kind: fedprox, proximal_mu: 0.01}}` for `run`. Every combination is an ordinary run
folder; what is finished is not run again. Baselines do not depend on the method, so they are
computed with the first one only.

The table asks what a hospital asks: how well is *my* test set served, on average over hospitals
and at the worst one, beside training alone and all images in one place. A second one has the
differences from the first method under the same seed, the same hospitals that is: seeds differ more
than methods do.
What crosses a hospital's boundary: in the federations what a study sends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from mfm_core.config import Part
from mfm_core.errors import ConfigError
from mfm_core.whole_file import write_whole
from simulation.bias_study import CellDisplay, is_damaged
from simulation.bias_table import Spread, spread_of
from simulation.config import NAME, StudyConfig, read_study
from simulation.grid import CELL_NAME, filled, merged
from simulation.one_key import read_one_key
from simulation.progress import Display
from simulation.study import Order, Place, finished_results, run_study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOCAL, POOLED = "each hospital alone", "all images in one place"
COLUMNS = {
    "pooled": "pooled test images",
    "mean": "mean over hospitals",
    "worst": "worst hospital",
    "ssim": "SSIM",
}
"""Figures of a row: macro AUC on all test images and on each hospital's own; SSIM on all."""

Figures = dict[str, float]
"""A number for each of `COLUMNS`, of one run."""

Label = Annotated[str, Field(pattern=CELL_NAME)]


class ComparisonConfig(Part):
    """Which methods are compared, on which hospitals, with which seeds."""

    name: str = Field(pattern=NAME, description="Name of the comparison and of its folder.")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        min_length=1, description="Every cell and method is run once for each; `$seed` in a cell."
    )
    methods: dict[Label, dict[str, Any]] = Field(
        min_length=1, description="Part of a run by name of the method, laid over every cell."
    )
    shared: dict[str, Any] = Field(
        default_factory=dict, description="Part of a study that every cell starts from."
    )
    cells: dict[Label, dict[str, Any]] = Field(
        min_length=1, description="Studies by name, as in a study file, without run.name."
    )


@dataclass(frozen=True)
class Member:
    """One run of a comparison: its cell, method, seed and study."""

    cell: str
    method: str
    seed: int
    study: StudyConfig


@dataclass(frozen=True)
class Row:
    """One method in one cell: Spreads over seeds of each of `COLUMNS`.

    Attributes:
        cell, method: what was run.
        figures: what it reached.
        gains: the same less what the first method reached with that seed.
    """

    cell: str
    method: str
    figures: Mapping[str, Spread]
    gains: Mapping[str, Spread]


def load_comparison(
    path: Path, settings: Mapping[str, str] | None = None
) -> tuple[ComparisonConfig, tuple[Member, ...]]:
    """Read a comparison file, with `--set` values in place, and check every study that it makes.

    Raises:
        ConfigError: every problem of the file, by dotted path.
    """
    config, problems = read_one_key(path, "comparison", ComparisonConfig, settings)
    members: list[Member] = []
    for method in config.methods:
        for cell in config.cells:
            found, wrong = _members_of(config, cell, method)
            members += found
            problems += [f"{cell}, {method}: {line}" for line in dict.fromkeys(wrong)]
    if problems:
        raise ConfigError(str(path), problems)
    return config, tuple(members)


def _members_of(config: ComparisonConfig, cell: str, method: str) -> tuple[list[Member], list[str]]:
    first = method == next(iter(config.methods))
    members, problems = [], []
    for seed in config.seeds:
        content = merged(merged(config.shared, config.cells[cell]), {"run": config.methods[method]})
        name = f"{cell}-{method}-seed{seed}"
        named = merged(filled(content, {"$seed": seed}), {"run": {"name": name}})
        if not first:
            named = merged(named, {"baselines": {"kinds": []}})
        study, wrong = read_study(named)
        problems += wrong
        if study is not None:
            members.append(Member(cell, method, seed, study))
    return members, problems


def run_comparison(
    config: ComparisonConfig, members: Sequence[Member], place: Place, display: Display
) -> dict[str, Any]:
    """Run what is not finished and return the content of table.json; write table.md and a plot.

    Raises:
        ConfigError: a run folder belongs to another study. DataError: images cannot be used.
        RunFailed: a federation ended without a result.
    """
    results: dict[tuple[str, str, int], dict[str, Any]] = {}
    for index, member in enumerate(members):
        name = member.study.run.name
        fresh = place.fresh or is_damaged(place.folder / name)
        study = Order(
            member.study, place.data, place.folder, fresh, place.one_process, explained=False
        )
        found = finished_results(study)
        if found is None:
            found = run_study(study, CellDisplay(display, index, len(members), name))
        results[member.cell, member.method, member.seed] = found
    return write_tables(config, place.folder, rows_of(config, results), sizes_of(config, results))


def rows_of(
    config: ComparisonConfig, results: Mapping[tuple[str, str, int], Mapping[str, Any]]
) -> tuple[Row, ...]:
    """Return a row per cell and method, the two baselines after the methods of their cell."""
    rows: list[Row] = []
    first = next(iter(config.methods))
    for cell in config.cells:
        found = {
            method: [federated_figures(results[cell, method, seed]) for seed in config.seeds]
            for method in config.methods
        }
        bases = [results[cell, first, seed]["baselines"] for seed in config.seeds]
        for name, kind in ((LOCAL, "local"), (POOLED, "pooled")):
            if any(one["kind"] == kind for base in bases for one in base):
                found[name] = [baseline_figures(base, kind) for base in bases]
        rows += [
            Row(cell, name, _spreads(figures), _spreads(_less(figures, found[first])))
            for name, figures in found.items()
        ]
    return tuple(rows)


def sizes_of(
    config: ComparisonConfig, results: Mapping[tuple[str, str, int], Mapping[str, Any]]
) -> dict[str, str]:
    """Return of every cell how many hospitals and test images its figures are of, in words."""
    first, found = next(iter(config.methods)), {}
    for cell in config.cells:
        runs = [results[cell, first, seed] for seed in config.seeds]
        hospitals = _span([len(one["per_site"]) for one in runs])
        found[cell] = f"{hospitals} hospitals, {_span([_tested(one) for one in runs])} test images"
    return found


def _tested(result: Mapping[str, Any]) -> int:
    return int(result["pooled"]["macro_auc"]["n"])


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _less(figures: Sequence[Figures], others: Sequence[Figures]) -> list[Figures]:
    """Return the differences, seed by seed."""
    pairs = zip(figures, others, strict=True)
    return [{name: mine[name] - other[name] for name in COLUMNS} for mine, other in pairs]


def federated_figures(results: Mapping[str, Any]) -> Figures:
    """Return the `COLUMNS` of a federated model: the own version of each site where it has one."""
    own = [site["macro_auc"]["value"] for site in results["per_site"].values()]
    whole = results["pooled"]
    return _figures(whole["macro_auc"]["value"], own, whole["ssim"]["value"])


def baseline_figures(baselines: Sequence[Mapping[str, Any]], kind: str) -> Figures:
    """Return the `COLUMNS` of training alone or in one place; NaN where nothing was measured."""
    found = [one for one in baselines if one["kind"] == kind]
    if not found:
        return dict.fromkeys(COLUMNS, float("nan"))
    alone = [one["own"]["macro_auc"]["value"] for one in found if one["own"] is not None]
    apart = [site["macro_auc"]["value"] for one in found for site in one["by_site"].values()]
    pooled = float(np.mean([one["macro_auc"]["value"] for one in found]))
    return _figures(pooled, alone or apart, float(np.mean([one["ssim"]["value"] for one in found])))


def _figures(pooled: float | None, own: Sequence[float | None], ssim: float | None) -> Figures:
    known = [value for value in own if value is not None] or [float("nan")]
    whole = float("nan") if pooled is None else pooled
    return {
        "pooled": whole,
        "mean": float(np.mean(known)),
        "worst": float(min(known)),
        "ssim": float("nan") if ssim is None else ssim,
    }


def _spreads(found: Sequence[Figures]) -> dict[str, Spread]:
    spreads = {name: spread_of([np.array([one[name]]) for one in found]) for name in COLUMNS}
    return {name: spread for name, spread in spreads.items() if spread is not None}


def write_tables(
    config: ComparisonConfig, folder: Path, rows: Sequence[Row], sizes: Mapping[str, str]
) -> dict[str, Any]:
    """Write table.md, table.json and comparison.png; return the content of table.json."""
    content = {
        "comparison": config.name,
        "seeds": list(config.seeds),
        "sizes": dict(sizes),
        "rows": [
            {
                "cell": row.cell,
                "method": row.method,
                "figures": {name: asdict(spread) for name, spread in row.figures.items()},
                "gains": {name: asdict(spread) for name, spread in row.gains.items()},
            }
            for row in rows
        ],
    }
    write_whole(folder / "table.md", markdown(config, rows, sizes).encode())
    write_whole(folder / "table.json", json.dumps(content, indent=1).encode())
    draw(rows, folder / "comparison.png", sizes)
    return content


def markdown(config: ComparisonConfig, rows: Sequence[Row], sizes: Mapping[str, str]) -> str:
    """Return the tables, two per cell."""
    lines = []
    seeds = f"{len(config.seeds)} seed" + ("s" if len(config.seeds) > 1 else "")
    first = next(iter(config.methods))
    for cell in config.cells:
        mine = [row for row in rows if row.cell == cell]
        lines += [f"## {cell}, macro AUC and SSIM, {seeds}, {sizes[cell]}", ""]
        lines += _table([(row.method, row.figures) for row in mine], "")
        lines += ["", f"Difference from {first} under the same seed:", ""]
        lines += _table([(row.method, row.gains) for row in mine if row.method != first], "+")
        lines.append("")
    interval = "± is half of the 95 % t interval over seeds. " if len(config.seeds) > 1 else ""
    lines.append(
        f"{interval}Mean and worst: each hospital's own test images, where these show two classes; "
        f"pooled of {LOCAL}: mean over their models. Research software, not a medical device."
    )
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[tuple[str, Mapping[str, Spread]]], sign: str) -> list[str]:
    lines = [f"| method | {' | '.join(COLUMNS.values())} |", "| --- " * (1 + len(COLUMNS)) + "|"]
    for method, figures in rows:
        texts = [_text(figures.get(name), sign) for name in COLUMNS]
        lines.append(f"| {method} | {' | '.join(texts)} |")
    return lines


def _text(spread: Spread | None, sign: str) -> str:
    if spread is None:
        return "-"
    if spread.t_high is None:
        return f"{spread.mean:{sign}.3f}"
    return f"{spread.mean:{sign}.3f} ± {spread.t_high - spread.mean:.3f}"


def draw(rows: Sequence[Row], path: Path, sizes: Mapping[str, str]) -> None:
    """Write a PNG: a panel per cell; a bar from the worst hospital to the mean for each method."""
    from matplotlib.figure import Figure

    cells = list(dict.fromkeys(row.cell for row in rows))
    tall = max(sum(row.cell == cell for row in rows) for cell in cells)
    figure = Figure(figsize=(max(7.0, 5.2 * len(cells)), 1.6 + 0.36 * tall), layout="constrained")
    panels = figure.subplots(1, len(cells), squeeze=False)[0]
    for axes, cell in zip(panels, cells, strict=True):
        mine = [row for row in rows if row.cell == cell and "mean" in row.figures][::-1]
        _panel(axes, mine)
        axes.set_title(f"{cell}: {sizes[cell]}", loc="left", fontsize=10)
    seeds = max((row.figures["mean"].seeds for row in rows if "mean" in row.figures), default=0)
    figure.supxlabel(
        "macro AUC: mean over hospitals (blue) and worst hospital (red); "
        f"dots: mean of {seeds} seed{'s' * (seeds != 1)}, ticks: each seed",
        fontsize=10,
    )
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _panel(axes: Axes, mine: Sequence[Row]) -> None:
    """Draw the rows from below; what is no federation stands under a line."""
    for place, row in enumerate(mine):
        worst, mean = row.figures["worst"], row.figures["mean"]
        axes.hlines(place, worst.mean, mean.mean, color="#b8c2cc", linewidth=3, zorder=1)
        for spread, colour in ((worst, "#b2182b"), (mean, "#2166ac")):
            axes.plot(spread.values, [place] * spread.seeds, "|", color=colour, markersize=9)
            axes.plot(spread.mean, place, "o", color=colour)
    bases = sum(row.method in (LOCAL, POOLED) for row in mine)
    if 0 < bases < len(mine):
        axes.axhline(bases - 0.5, color="#888888", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(mine)), [row.method for row in mine])
    axes.set_ylim(-0.6, len(mine) - 0.4)
    axes.grid(axis="x", alpha=0.3)
