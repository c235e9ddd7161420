"""The rounds of a run on the report's page: what each hospital sent, or why it is missing.

What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mfm_core.charts import Curve, draw_rounds
from mfm_core.report_pictures import embed
from mfm_core.report_words import NONE, Cell, Table, duration, number, size

Results = Mapping[str, Any]

OUTCOMES = {
    "rejected": "the answer failed the coordinator's checks and was not used",
    "refused": "the hospital's own limits said no",
    "error": "the hospital's computer could not do the work",
    "no-reply": "no answer came in time",
    "not-sent": "the message could not be delivered",
    "left-out": "it could be reached but had no part in the secure sum",
}


def round_table(results: Results) -> Table | None:
    """Return per round: loss, validation AUC, time, and per site what it sent or why not."""
    names = list(results.get("site_names") or ())
    rows = []
    for line in results.get("rounds_table") or ():
        seconds = line.get("seconds")
        cells = [
            Cell(str(line.get("round", NONE))),
            Cell(number(_loss(line), 3)),
            Cell(number((line.get("val") or {}).get("macro_auc"), 3)),
            Cell(NONE if seconds is None else f"{seconds:.1f} s"),
        ]
        for name in names:
            outcome = str((line.get("sites") or {}).get(name, "not asked"))
            good = outcome == "ok"
            sent = size((line.get("bytes") or {}).get(name, 0))
            cells.append(Cell(sent) if good else Cell(outcome, verdict="missing"))
        rows.append(cells)
    head = ("round", "loss", "val. AUC", "time", *map(str, names))
    return Table(head, rows) if rows else None


def answered(results: Results, name: str) -> tuple[str, str]:
    """Return how many rounds a hospital answered usably, and how much it sent in them."""
    lines = results.get("rounds_table") or ()
    good = [line for line in lines if (line.get("sites") or {}).get(name) == "ok"]
    if not lines:
        return NONE, NONE
    sent = sum((line.get("bytes") or {}).get(name, 0) for line in good)
    return f"{len(good)} of {len(lines)}", size(sent)


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


def protection_table(results: Results) -> Table | None:
    """Return what protects patients in each exchange, and how that is labelled."""
    rows = [
        [Cell(str(kind)), Cell(str(label.get("level"))), Cell(str(label.get("words")))]
        for kind, label in (results.get("privacy") or {}).items()
    ]
    if words := (results.get("central") or {}).get("words"):
        rows.append([Cell("all train"), Cell("formal"), Cell(str(words))])
    return Table(("exchange", "label", "protection"), rows) if rows else None


def timing_table(results: Results) -> Table | None:
    """Return phase and time."""
    rows = [[Cell(str(k)), Cell(duration(v))] for k, v in (results.get("timing") or {}).items()]
    return Table(("part", "time"), rows) if rows else None


def chart_rounds(results: Results) -> str | None:
    """Return loss and validation figures over the rounds as a picture; None below two rounds."""
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
    return embed(draw_rounds(curves, "Over the rounds")) if curves else None


def _loss(line: Results) -> float | None:
    loss = line.get("loss")
    if isinstance(loss, Mapping):
        loss = loss.get("loss")
    return None if loss is None else float(loss)
