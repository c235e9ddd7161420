"""What stands on the report's page, as plain words and numbers for the template.

Every function takes results.json (see RESULTS.md) and returns rows of text; a part without data
is empty and the template says why. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mfm_core.charts import Curve, Interval, draw_intervals, draw_rounds
from mfm_core.gallery import Pictures
from mfm_core.metric_table import OWN_METHOD
from mfm_core.pictures import draw_class_means, draw_reconstructions, draw_sweep
from mfm_core.sweep import describe, title_of

Results = Mapping[str, Any]
NONE = "–"
"""Stands where a figure is undefined."""

STATUS = {
    "complete": "Every hospital answered usably in every exchange.",
    "degraded": "The run ended with a model, but not every hospital took part in every exchange.",
    "failed": "The run ended without a model; figures below, if any, are not final.",
}

BASELINES = {
    "local": "one hospital alone",
    "pooled": "all images in one place",
    "nearest_neighbour": "copies the label of the most similar training image",
    "pca_logistic": "logistic regression on principal components of the pixels",
}

OUTCOMES = {
    "rejected": "the answer failed the coordinator's checks and was not used",
    "refused": "the hospital's own limits said no",
    "error": "the hospital's computer could not do the work",
    "no-reply": "no answer came in time",
    "not-sent": "the message could not be delivered",
}


def page_of(results: Results, pictures: Pictures, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything the template needs.

    Args:
        results: content of results.json.
        pictures: what to draw; parts may be empty.
        settings: the agreed run, nested.
    """
    return {
        "study": str(results.get("study", "run")),
        "headline": headline(results),
        "status": str(results.get("status", "unknown")),
        "status_sentence": STATUS.get(str(results.get("status")), "How the run ended is unknown."),
        "figures": figures(results),
        "hospitals": hospital_rows(results),
        "sites": site_rows(results),
        "classes": class_rows(results),
        "baselines": baseline_rows(results),
        "intervals": _chart_intervals(results),
        "explanations": explanation_rows(results),
        "masked": any(row.get("n_masks") for row in results.get("explanations") or ()),
        **_drawn(pictures),
        "rounds": round_rows(results),
        "round_sites": list(results.get("site_names") or ()),
        "missing_sites": missing_lines(results),
        "curves": _chart_rounds(results),
        "timing": timing_rows(results),
        "settings": flatten(settings),
        "hashes": [
            (label, str(results[key]))
            for key, label in (
                ("config_hash", "agreed settings"),
                ("code_hash", "code"),
                ("final_hash", "result"),
            )
            if results.get(key)
        ],
    }


def headline(results: Results) -> str:
    """Return the run in one or two sentences."""
    sites, rounds = results.get("sites"), results.get("rounds")
    who = f"{sites} hospitals" if sites else "The hospitals"
    how = f" in {rounds} rounds" if rounds else ""
    text = f"{who} trained one model together{how}; no image left a hospital."
    if results.get("status") == "failed" or results.get("macro_auc") is None:
        return text + " There is no final figure for it."
    classes = len((results.get("pooled") or {}).get("per_class") or ())
    task = f" the {classes} classes" if classes else " the classes"
    test = f"On {results['n_test']} test images" if results.get("n_test") else "On test images"
    auc = span({"value": results["macro_auc"], **_ends(results.get("macro_auc_interval"))})
    text += f" {test} it tells{task} apart with a macro AUC of {auc}."
    alone = [_value(row, "macro_auc") for row in _baselines(results, "local")]
    known = [value for value in alone if value is not None]
    if known:
        text += f" Hospitals that train alone reach {sum(known) / len(known):.3f} on average."
    return text


def figures(results: Results) -> list[tuple[str, str, str]]:
    """Return the large figures at the top: label, value, remark."""
    rows = []
    for key, label in (("macro_auc", "Macro AUC"), ("reconstruction_ssim", "Redrawn, SSIM")):
        if results.get(key) is not None:
            ends = _ends(results.get(f"{key}_interval"))
            known = ends.get("low") is not None
            remark = f"{ends['low']:.3f} to {ends['high']:.3f}" if known else ""
            rows.append((label, f"{results[key]:.3f}", remark))
    if results.get("sites"):
        rows.append(("Hospitals", str(results["sites"]), f"{results.get('rounds', '?')} rounds"))
    if results.get("bytes_per_site_and_round"):
        sent = size(results["bytes_per_site_and_round"])
        rows.append(("Sent per round", sent, "by each hospital, at most"))
    if results.get("seconds"):
        rows.append(("Time", duration(results["seconds"]), "of federated work"))
    if results.get("parameters"):
        rows.append(("Model", f"{results['parameters'] / 1e6:.2f} M", "parameters"))
    return rows


def site_rows(results: Results) -> list[list[Cell]]:
    """Return name, n, AUC, AP, F1, accuracy and SSIM of all hospitals and of each."""
    named = [("All together", results.get("pooled"))]
    named += list((results.get("per_site") or {}).items())
    keys = ("macro_auc", "macro_ap", "macro_f1", "accuracy", "ssim")
    rows = []
    for name, metrics in named:
        if metrics:
            n = (metrics.get("ssim") or metrics.get("macro_auc") or {}).get("n", NONE)
            rows.append([Cell(str(name)), Cell(str(n)), *(span(metrics.get(key)) for key in keys)])
    return rows


def hospital_rows(results: Results) -> list[list[str]]:
    """Return name, patients, images per split, and classes and attributes in words."""
    rows = []
    for row in results.get("hospitals") or ():
        splits = " / ".join(str(row.get(split, NONE)) for split in ("train", "val", "test"))
        attributes = (row.get("attributes") or {}).items()
        words = [f"{name}: {_counts(values)}" for name, values in attributes]
        name, patients = str(row["name"]), str(row.get("patients", NONE))
        rows.append([name, patients, splits, _counts(row.get("classes") or {}), "; ".join(words)])
    return rows


def class_rows(results: Results) -> list[list[Cell]]:
    """Return the paper's Table 1: class, AUC, AP, F1, rate, and n."""
    rows = []
    for row in (results.get("pooled") or {}).get("per_class") or ():
        rate = NONE if row.get("rate") is None else f"{row['rate']:.3f}"
        spans = [span(row.get(key)) for key in ("auc", "ap", "f1")]
        n = Cell(str(row.get("n", NONE)))
        rows.append([Cell(str(row["class"])), *spans, Cell(rate), n])
    return rows


def baseline_rows(results: Results) -> list[list[Cell]]:
    """Return name, what it is, AUC, AP, F1 and SSIM, the federated model first."""
    keys = ("macro_auc", "macro_ap", "macro_f1", "ssim")
    rows = list(results.get("baselines") or ())
    if not rows:
        return []
    pooled = results.get("pooled") or {}
    first = [Cell("This run"), Cell("hospitals together")]
    table = [[*first, *(span(pooled.get(key)) for key in keys)]]
    for row in rows:
        words = BASELINES.get(str(row.get("kind")), str(row.get("kind", "")))
        table.append([Cell(str(row["name"])), Cell(words), *(span(row.get(key)) for key in keys)])
    return table


def explanation_rows(results: Results) -> list[list[str]]:
    """Return one row a class: how far its explanations can be believed.

    Places (IoU, pointing) are those of the class shift, the method whose pictures are shown.
    """
    keys = ("spearman", "strictly_monotone", "flip_rate", "flip_alpha", "cycle", "ssim")
    rows = []
    for row in results.get("explanations") or ():
        places = [(row.get(key) or {}).get(OWN_METHOD) for key in ("iou", "pointing")]
        figures = [*(row.get(key) for key in keys), *places]
        shown = [number((figure or {}).get("value")) for figure in figures]
        rows.append([str(row["class"]), str(row.get("n", NONE)), *shown])
    return rows


def round_rows(results: Results) -> list[dict[str, Any]]:
    """Return per round: number, loss, validation AUC, and per site what it sent or why not."""
    names = list(results.get("site_names") or ())
    rows = []
    for line in results.get("rounds_table") or ():
        sites, sent = line.get("sites") or {}, line.get("bytes") or {}
        cells = []
        for name in names:
            outcome = str(sites.get(name, "not asked"))
            good = outcome == "ok"
            cells.append((size(sent.get(name, 0)) if good else outcome, good))
        rows.append(
            {
                "round": line.get("round", NONE),
                "loss": number(_loss(line), 3),
                "auc": number((line.get("val") or {}).get("macro_auc"), 3),
                "seconds": f"{line['seconds']:.1f}" if line.get("seconds") is not None else NONE,
                "cells": cells,
            }
        )
    return rows


def missing_lines(results: Results) -> list[str]:
    """Return one sentence per hospital and round that is missing, and why."""
    names = list(results.get("site_names") or ())
    lines = []
    for line in results.get("rounds_table") or ():
        for name in names:
            outcome = str((line.get("sites") or {}).get(name, "not asked"))
            if outcome != "ok":
                word = outcome.partition(":")[0]
                why = OUTCOMES.get(word, "it could not be reached when the round began")
                lines.append(f"Round {line.get('round')}: {name} is missing ({outcome}): {why}.")
    return lines


def timing_rows(results: Results) -> list[tuple[str, str]]:
    """Return phase and time."""
    return [(str(k), duration(v)) for k, v in (results.get("timing") or {}).items()]


def flatten(settings: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    """Return nested settings as rows of dotted path and value."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows.extend(flatten(value, f"{path}{key}."))
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            rows.append((f"{path}{key}", shown))
    return rows


class Cell(NamedTuple):
    """One table cell: the value, and the interval that stands small below it (or nothing)."""

    value: str
    interval: str = ""

    def __str__(self) -> str:
        """Return `0.953 (0.931–0.970)`."""
        return f"{self.value} ({self.interval})" if self.interval else self.value


def span(estimate: Mapping[str, Any] | None) -> Cell:
    """Return the cell of an estimate; a dash where it is undefined."""
    if not estimate or estimate.get("value") is None:
        return Cell(NONE)
    if estimate.get("low") is None or estimate.get("high") is None:
        return Cell(f"{estimate['value']:.3f}")
    return Cell(f"{estimate['value']:.3f}", f"{estimate['low']:.3f}–{estimate['high']:.3f}")


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with fixed digits, or a dash."""
    return NONE if value is None else f"{value:.{digits}f}"


def size(count: float) -> str:
    """Return bytes in MB or kB (powers of ten)."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    """Return seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _counts(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)


def _ends(interval: Sequence[float | None] | None) -> dict[str, float | None]:
    low, high = interval if interval else (None, None)
    return {"low": low, "high": high}


def _value(row: Results, key: str) -> float | None:
    value = (row.get(key) or {}).get("value")
    return None if value is None else float(value)


def _loss(line: Results) -> float | None:
    loss = line.get("loss")
    if isinstance(loss, Mapping):
        loss = loss.get("loss")
    return None if loss is None else float(loss)


def _baselines(results: Results, kind: str) -> list[Results]:
    return [row for row in results.get("baselines") or () if row.get("kind") == kind]


def _chart_intervals(results: Results) -> str | None:
    named = [("All together", "federated", results.get("pooled"))]
    named += [(name, "site", row) for name, row in (results.get("per_site") or {}).items()]
    named += [(row["name"], "baseline", row) for row in results.get("baselines") or ()]
    rows = []
    for name, group, metrics in named:
        auc = (metrics or {}).get("macro_auc") or {}
        if auc.get("value") is not None:
            low, high = auc.get("low"), auc.get("high")
            rows.append(Interval(str(name), group, auc["value"], low, high))
    return _embed(draw_intervals(rows, "Macro AUC on test images")) if rows else None


def _chart_rounds(results: Results) -> str | None:
    lines = [line for line in results.get("rounds_table") or () if line.get("round")]
    curves = []
    for name, values in (
        ("training loss", [_loss(line) for line in lines]),
        ("validation macro AUC", [(line.get("val") or {}).get("macro_auc") for line in lines]),
        ("validation SSIM", [(line.get("val") or {}).get("ssim") for line in lines]),
    ):
        pairs = zip(lines, values, strict=True)
        known = [(line["round"], value) for line, value in pairs if value is not None]
        if len(known) > 1:
            curves.append(Curve(name, [pair[0] for pair in known], [pair[1] for pair in known]))
    return _embed(draw_rounds(curves, "Over the rounds")) if curves else None


def _drawn(pictures: Pictures) -> dict[str, Any]:
    rows, means = pictures.reconstructions, pictures.class_means
    shown = means if means is not None and np.isfinite(means).any() else None
    return {
        "no_pictures": pictures.missing,
        "reconstructions": _embed(draw_reconstructions(rows)) if rows else None,
        "class_means": (
            None if shown is None else _embed(draw_class_means(shown, pictures.classes))
        ),
        "sweeps": [
            {
                "name": sweep.target,
                "picture": _embed(draw_sweep(sweep)),
                "alt": f"{title_of(sweep)}. {' '.join(describe(sweep))}",
            }
            for sweep in pictures.sweeps
        ],
    }


def _embed(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
