"""Several runs side by side: one table, one picture. Reads results.json, trains nothing.

What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from mfm_core.errors import ConfigError


@dataclass(frozen=True)
class Line:
    """One model of one run.

    Attributes:
        run: name of the run folder.
        model: "federated" or the baseline's name.
        kind: federated, local, pooled, nearest_neighbour or pca_logistic.
        auc, low, high: macro AUC on the pooled test images and its 95 % interval.
        ap, f1: macro, on the same images.
        ssim: of the reconstruction; None without one.
        n: test images.
    """

    run: str
    model: str
    kind: str
    auc: float | None
    low: float | None
    high: float | None
    ap: float | None
    f1: float | None
    ssim: float | None
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Return the line for --json."""
        return asdict(self)


def load_results(folders: Sequence[Path]) -> list[tuple[str, dict[str, Any]]]:
    """Return name and results.json of every run folder (or results.json file) named.

    Raises:
        ConfigError: folders without readable results; all of them are listed.
    """
    found, problems = [], []
    for folder in folders:
        path = folder / "results.json" if folder.is_dir() else folder
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            lines_of(folder.name, content)
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error.strerror}); run the study first")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            problems.append(f"{path}: is not the results.json of a study")
        else:
            found.append((path.parent.name, content))
    if problems:
        raise ConfigError("runs to compare", problems)
    return found


def lines_of(run: str, results: dict[str, Any]) -> list[Line]:
    """Return the federated model and every baseline of a run."""
    entries = [("federated", "federated", results["pooled"])]
    entries += [(b["name"], b["kind"], b) for b in results.get("baselines", [])]
    return [_line(run, name, kind, figures) for name, kind, figures in entries]


def _line(run: str, name: str, kind: str, figures: dict[str, Any]) -> Line:
    auc, ssim = figures["macro_auc"], figures.get("ssim")
    return Line(
        run=run,
        model=name,
        kind=kind,
        auc=auc["value"],
        low=auc["low"],
        high=auc["high"],
        ap=figures["macro_ap"]["value"],
        f1=figures["macro_f1"]["value"],
        ssim=ssim["value"] if ssim else None,
        n=auc["n"],
    )


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def make_table(lines: Sequence[Line], title: str) -> Table:
    """Return a table of models, by run."""
    table = Table(title=title, title_justify="left")
    several = len({line.run for line in lines}) > 1
    if several:
        table.add_column("run")
    table.add_column("model")
    for heading in ("macro AUC", "95 % interval", "AP", "F1", "SSIM", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        interval = "-" if line.low is None else f"{_text(line.low)}-{_text(line.high)}"
        cells = [line.model, _text(line.auc), interval, _text(line.ap), _text(line.f1)]
        cells += [_text(line.ssim), str(line.n)]
        style = "bold" if line.kind == "federated" else None
        table.add_row(*([line.run, *cells] if several else cells), style=style)
    return table


def draw_comparison(lines: Sequence[Line], path: Path) -> Path:
    """Write a PNG: macro AUC with its interval, one row per model, runs one below the other."""
    from matplotlib.figure import Figure

    colours = {"federated": "#b2182b", "pooled": "#2166ac", "local": "#7f7f7f"}
    drawn = [(line, line.auc) for line in reversed(lines) if line.auc is not None]
    figure = Figure(figsize=(8.0, 1.2 + 0.32 * len(drawn)), layout="constrained")
    axes = figure.subplots()
    for place, (line, auc) in enumerate(drawn):
        colour = colours.get(line.kind, "#b8860b")
        if line.low is not None and line.high is not None:
            axes.hlines(place, line.low, line.high, color=colour, linewidth=2)
        axes.plot(auc, place, "o", color=colour)
    axes.set_yticks(range(len(drawn)), [f"{line.run}: {line.model}" for line, _ in drawn])
    axes.set_xlabel("macro AUC on the pooled test images, 95 % interval by patient")
    axes.grid(axis="x", alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    return path
