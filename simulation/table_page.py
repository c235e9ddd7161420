"""A table's files: table.json, table.md in the form of the paper's Table 1, and one picture.

What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mfm_core.evaluation import Estimate
from mfm_core.report import finite
from mfm_core.whole_file import write_whole
from simulation.table import TableConfig, TablePlan
from simulation.table_figures import PAPER, PERSONAL, Finished, Row, SiteRow, goals_of, missing

WORDS = {
    "nearest_neighbour": "1-nearest neighbour on 32 px pixels",
    "pca_logistic": "PCA + logistic regression on 32 px pixels",
    "supervised": "encoder without decoder",
    "shufflenet": "ShuffleNetV2 x0.5, from new weights",
    "pooled": "all images in one place",
    "federated": "federated",
    PERSONAL: "federated, each hospital its chosen head",
}
COLOURS = {
    "federated": "#b2182b",
    "pooled": "#2166ac",
    "nearest_neighbour": "#7f7f7f",
    "supervised": "#1b7837",
    "shufflenet": "#b8860b",
}


def write_table(folder: Path, plan: TablePlan) -> dict[str, Any]:
    """Write all files from what is finished; return the content of table.json."""
    config, finished = plan.config, Finished(folder, plan)
    rows = [
        row
        for variant in config.variants
        for split in config.splits
        for row in finished.rows(variant, split)
    ]
    sites = finished.sites()
    content = {
        "table": config.name,
        "leaky": {name: entry.leaky for name, entry in config.splits.items() if entry.leaky},
        "rows": [row.to_dict() for row in rows],
        "sites": [asdict(site) for site in sites],
        "goals": goals_of(config, rows, sites),
        "missing": missing(folder, plan),
    }
    whole = dict(finite(content))
    write_whole(folder / "table.json", json.dumps(whole, indent=1).encode())
    write_whole(folder / "table.md", _page(plan, rows, sites, whole).encode())
    if rows:
        draw_table(config, rows, folder / "table.png")
    return whole


def _page(
    plan: TablePlan, rows: Sequence[Row], sites: Sequence[SiteRow], content: dict[str, Any]
) -> str:
    config = plan.config
    parts = [f"# {config.name}"]
    for split in config.splits:
        here = [row for row in rows if row.split == split]
        parts += [f"## {_title(config, split)}", *_warning(config, split), _models(config, here)]
    if listed := _listed(config, rows):
        parts += ["## Classes", *_class_words(config, listed), _classes(config, listed)]
    if sites:
        parts += ["## Each hospital's own test images", _sites(sites)]
    if content["goals"]:
        parts += ["## Goals", "\n".join(f"- {line}" for line in content["goals"])]
    if content["missing"]:
        parts += ["## Not run yet", "\n".join(f"- {line}" for line in content["missing"])]
    return "\n\n".join(parts) + "\n"


def _title(config: TableConfig, split: str) -> str:
    return f"Split {split}" + (" (LEAKY)" if config.splits[split].leaky else "")


def _warning(config: TableConfig, split: str) -> list[str]:
    leaky = config.splits[split].leaky
    return [f"**Leaky: {leaky}.**"] if leaky else []


def _rule(headings: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(headings)} |", f"|{' --- |' * len(headings)}"]


def _text(found: Estimate) -> str:
    if found.value is None:
        return "-"
    if found.low is None:
        return f"{found.value:.4f}"
    return f"{found.value:.4f} ({found.low:.3f}-{found.high:.3f})"


def _models(config: TableConfig, rows: Sequence[Row]) -> str:
    several = len(config.variants) > 1
    names = ["model", "folds", "n", "steps", "macro AUC", "AP", "F1", "accuracy", "SSIM"]
    lines = _rule([*(["variant"] if several else []), *names])
    if config.paper:
        means = [sum(row[i] for row in PAPER.values()) / len(PAPER) for i in range(3)]
        cells = ["paper, Table 1 (its random split)", "1", "-", "-"]
        cells += [f"{mean:.4f}" for mean in means] + ["-", "-"]
        lines.append(f"| {' | '.join([*(['-'] if several else []), *cells])} |")
    for row in rows:
        found = row.metrics
        cells = [WORDS[row.model], f"{row.folds} of {row.of}", str(found.macro_auc.n)]
        cells += [str(row.steps) if row.steps else "-"]
        figures = (found.macro_auc, found.macro_ap, found.macro_f1, found.accuracy)
        cells += [_text(figure) for figure in figures]
        cells.append(_text(found.ssim) if row.draws else "-")
        lines.append(f"| {' | '.join([*([row.variant] if several else []), *cells])} |")
    return "\n".join(lines)


def _listed(config: TableConfig, rows: Sequence[Row]) -> list[Row]:
    """Return the rows whose classes are listed: the table's head, of the first variant."""
    first = next(iter(config.variants))
    return [row for row in rows if row.model == config.head and row.variant == first]


def _class_words(config: TableConfig, listed: Sequence[Row]) -> list[str]:
    said = [
        f"{_title(config, row.split)}: {WORDS[row.model]}, {row.folds} of {row.of} folds, "
        f"n = {row.metrics.macro_auc.n}."
        for row in listed
    ]
    return [*said, *(line for row in listed for line in _warning(config, row.split))]


def _classes(config: TableConfig, listed: Sequence[Row]) -> str:
    headings = ["class"]
    if config.paper:
        headings += [f"paper {name}" for name in ("AUC", "AP", "F1", "rate")]
    for row in listed:
        mark = f"{row.split} (leaky)" if config.splits[row.split].leaky else row.split
        headings += [f"{mark} {name}" for name in ("AUC", "AP", "F1", "rate")]
    lines = _rule(headings)
    for place, entry in enumerate(listed[0].metrics.per_class):
        cells = [entry.name]
        if config.paper:
            known = PAPER.get(entry.name)
            cells += [f"{value:.4f}" for value in known] if known else ["-"] * 4
        for row in listed:
            found = row.metrics.per_class[place]
            cells += [_text(found.auc), _text(found.ap), _text(found.f1)]
            cells.append("-" if found.rate is None else f"{found.rate:.4f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _sites(sites: Sequence[SiteRow]) -> str:
    names = ["cell", "hospital", "n", "alone", "federated", "with its chosen head", "chosen"]
    lines = _rule(names)
    for site in sites:
        figures = (site.alone, site.federated, site.kept)
        cells = [site.cell, site.site, str(site.n)]
        cells += ["-" if value is None else f"{value:.4f}" for value in figures]
        cells.append(f"{'its own' if site.own_head else 'the common one'}: {site.reason}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_table(config: TableConfig, rows: Sequence[Row], path: Path) -> Path:
    """Write a PNG: AUC of every class and their mean, one panel a split, one colour a model."""
    from matplotlib.figure import Figure

    first = next(iter(config.variants))
    splits = [split for split in config.splits if any(row.split == split for row in rows)]
    names = ["mean of classes", *(entry.name for entry in rows[0].metrics.per_class)]
    size = (1.0 + 5.2 * len(splits), 1.8 + 0.36 * len(names))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    for axes, split in zip(panels, splits, strict=True):
        here = [r for r in rows if r.split == split and r.variant == first and r.model in COLOURS]
        for shift, row in enumerate(here):
            found = [row.metrics.macro_auc, *(entry.auc for entry in row.metrics.per_class)]
            offset = 0.14 * (shift - (len(here) - 1) / 2)
            _draw_points(axes, found, offset, COLOURS[row.model], f"{WORDS[row.model]}")
        if config.paper:
            values = [PAPER[name][0] if name in PAPER else None for name in names]
            places = [place for place, value in enumerate(values) if value is not None]
            known = [value for value in values if value is not None]
            axes.plot(known, places, "|", color="black", markersize=9, label="paper (random split)")
        axes.set_title(_title(config, split))
        axes.set_xlabel("AUC, 95 % interval by group of images")
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return path


def _draw_points(
    axes: Any, found: Sequence[Estimate], offset: float, colour: str, label: str
) -> None:
    for place, figure in enumerate(found):
        if figure.value is None:
            continue
        named = label if place == 0 else None
        axes.plot(figure.value, place + offset, "o", color=colour, markersize=4, label=named)
        if figure.low is not None and figure.high is not None:
            axes.hlines(place + offset, figure.low, figure.high, color=colour, linewidth=1)
