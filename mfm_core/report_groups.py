"""Subgroups and mitigation on the report's page.

Rows come from `subgroup_rows` and `flips`, one table per head: "chosen" before any mitigation and
the mitigated ones beside it. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mfm_core.intervals import share_interval
from mfm_core.report_words import MET, MISSED, Cell, Table, listed, number, percent, span

Row = Mapping[str, Any]
Rows = Sequence[Row]
Heads = Mapping[str, Rows]

CHOSEN = "chosen"
"""The head before any mitigation."""

AUC_GAP_GOAL = 0.02
"""Largest wished gap of the mean AUC between two values of an attribute."""

HEADS = {
    CHOSEN: "before mitigation",
    "erm": "trained again, nothing removed",
    "random_alpha_marginal": "random steps along the plain axis (the paper's)",
    "random_alpha": "random steps along the axis within classes",
    "random_alpha_shrunk": "random steps along the axis within classes, made for few patients",
    "leace": "axis erased (LEACE)",
    "leace_shrunk": "axis erased, made for few patients",
    "lda": "from balanced sums (LDA)",
    "ccvr": "from virtual examples (CCVR)",
    "reweighting": "trained with balanced weights",
}
"""What the reader calls each head."""


def grouped(rows: Rows, per_site: Mapping[str, Rows]) -> dict[str, Any]:
    """Return the subgroup tables of one head.

    Returns:
        "attributes": per attribute "name", "values" and "gaps" tables and "notes" (why figures
        are missing); "sites": gaps per hospital or None; "lead": the largest gap in words.
    """
    names = list(dict.fromkeys(str(row["attribute"]) for row in rows))
    return {
        "lead": gap_lead(rows),
        "attributes": [_attribute(name, _of(rows, name)) for name in names],
        "sites": _sites(per_site),
    }


def gap_lead(rows: Rows) -> str:
    """Return which attribute's mean AUC differs most, and whether the goal is met."""
    gaps = [row for row in rows if row["kind"] == "gap" and row["class"] is None]
    known = [row for row in gaps if row["raw"]["auc"]["value"] is not None]
    if not known:
        return "No gap could be measured: no attribute has two values with enough patients."
    worst = max(known, key=lambda row: row["raw"]["auc"]["value"])
    missed = [str(row["attribute"]) for row in known if row["raw"]["auc"]["value"] > AUC_GAP_GOAL]
    gap, sure = span(worst["raw"]["auc"]), "not certain" not in _verdict(worst["raw"]["auc"])
    text = f"The mean AUC differs most between values of {worst['attribute']}: by {gap}."
    goal = f"The goal of at most {AUC_GAP_GOAL:g}"
    end = "." if sure else ", though the interval leaves the other open."
    return f"{text} {goal} is {'missed for ' + listed(missed) if missed else 'met'}{end}"


def _gap(gap: Row, note: str = "") -> Cell:
    """Return a gap with its verdict: the interval may not be as sure as the value."""
    cell = span(gap, note)
    return cell._replace(verdict=_verdict(gap)) if gap["value"] is not None else cell


def _verdict(gap: Row) -> str:
    met = gap["value"] <= AUC_GAP_GOAL
    end = gap["high"] if met else gap["low"]
    certain = end is not None and (end <= AUC_GAP_GOAL) == met
    return (MET if met else MISSED) + ("" if certain else ", not certain")


def _of(rows: Rows, attribute: str, kind: str = "") -> list[Row]:
    return [row for row in rows if row["attribute"] == attribute and kind in ("", row.get("kind"))]


def _attribute(name: str, rows: Rows) -> dict[str, Any]:
    return {
        "name": name,
        "values": _values([row for row in rows if row["kind"] == "value"]),
        "gaps": _gaps([row for row in rows if row["kind"] == "gap"]),
        "notes": _notes(rows),
    }


def _values(rows: Rows) -> Table:
    """Return figures per value, all classes first, then class by class."""
    classes = list(dict.fromkeys(row["class"] for row in rows))
    order = [None, *(name for name in classes if name is not None)]
    table: list[list[Cell]] = []
    strong: list[int] = []
    for name in order:
        for row in (row for row in rows if row["class"] == name):
            strong += [len(table)] if name is None else []
            figures = [span(row.get(key)) for key in ("auc", "sensitivity", "specificity",
                                                      "accuracy", "calibration_error")]  # fmt: skip
            counted = [Cell(str(row["n"])), Cell(str(row["patients"]))]
            label = "all classes" if name is None else str(name)
            table.append([Cell(f"{row['value']}, {label}"), *counted, *figures])
    head = ("value, class", "images", "patients", "AUC", "sensitivity", "specificity", "accuracy",
            "calibration error")  # fmt: skip
    return Table(head, table, "Figures per value", frozenset(strong))


def _gaps(rows: Rows) -> Table:
    """Return gaps between the values, raw and with the same mix of classes."""
    ordered = sorted(rows, key=lambda row: row["class"] is not None)
    table = []
    for row in ordered:
        whole = row["class"] is None
        raw, matched = row["raw"], row["matched"]
        table.append(
            [
                Cell("all classes (mean)" if whole else str(row["class"])),
                _gap(raw["auc"]) if whole else span(raw["auc"]),
                _gap(matched["auc"]) if whole else span(matched["auc"]),
                span(raw.get("sensitivity")),
                span(raw.get("specificity")),
                span(matched.get("specificity")),
                span(raw.get("equalised_odds")),
            ]
        )
    head = ("class", "AUC gap", "AUC gap, same mix", "sensitivity gap", "specificity gap",
            "specificity gap, same mix", "equalised odds")  # fmt: skip
    return Table(head, table, "Largest difference between two values", frozenset({0}))


def _notes(rows: Rows) -> list[str]:
    """Return why figures are missing, and of which rows; and which hospitals hid cells."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["reason"]:
            words = ("the gap" if row["kind"] == "gap" else row.get("value"), row["class"])
            place = " of ".join(str(word) for word in words if word)
            found.setdefault(str(row["reason"]), []).append(place)
    notes = [f"{'; '.join(dict.fromkeys(places))}: {why}." for why, places in found.items()]
    hidden = max((int(row.get("hidden_sites") or 0) for row in rows), default=0)
    if hidden:
        who = "One hospital" if hidden == 1 else f"Up to {hidden} hospitals"
        notes.append(f"{who} left a cell of too few patients out; the figures are of the others.")
    return notes


def _sites(per_site: Mapping[str, Rows]) -> dict[str, Any]:
    """Return gaps over all classes per hospital and attribute, and which could not be measured."""
    table, without = [], []
    for site, rows in per_site.items():
        for row in rows:
            if row["kind"] != "gap" or row["class"] is not None:
                continue
            if row["raw"]["auc"]["value"] is None:
                without.append(f"{site} {row['attribute']}")
                continue
            odds = _worst_odds(_of(rows, str(row["attribute"])))
            cells = [_gap(row[part]["auc"]) for part in ("raw", "matched")]
            table.append([Cell(site), Cell(str(row["attribute"])), *cells, odds])
    head = ("hospital", "attribute", "AUC gap", "AUC gap, same mix", "equalised odds, worst class")
    made = Table(head, table, "Gaps at each hospital", words=frozenset({1})) if table else None
    return {"table": made, "without": "; ".join(without)}


def _worst_odds(rows: Rows) -> Cell:
    """Return the largest equalised odds over the classes, with the class."""
    known = [
        row
        for row in rows
        if row["kind"] == "gap"
        and row["class"] is not None
        and row["raw"]["equalised_odds"]["value"] is not None
    ]
    if not known:
        return span(None)
    worst = max(known, key=lambda row: row["raw"]["equalised_odds"]["value"])
    return span(worst["raw"]["equalised_odds"], str(worst["class"]))


def mitigated(audit: Mapping[str, Any], attribute: str, in_use: str) -> dict[str, Any]:
    """Return before and after: a row per head about the attribute that is left out.

    Args:
        audit: "subgroups" and "flips" per head.
        attribute: what the mitigated heads leave out.
        in_use: name of the head in the model.

    Returns:
        "table" (None without other heads or rows of the attribute) and "lead".
    """
    subgroups, flips = audit.get("subgroups") or {}, audit.get("flips") or {}
    names = [name for name in HEADS if name in subgroups and _of(subgroups[name], attribute)]
    names += [n for n in subgroups if n not in HEADS and _of(subgroups[n], attribute)]
    if len(names) < 2:
        return {"table": None, "lead": ""}
    before = within_auc(_of(subgroups.get(CHOSEN, ()), attribute, "value"))
    rows = []
    for name in names:
        own = _of(subgroups[name], attribute)
        rows.append(_head_row(name, own, _of(flips.get(name, ()), attribute), before))
    values = [str(row["value"]) for row in rows_of_values(_of(subgroups[names[0]], attribute))]
    head = ("head", "mean AUC within groups", "price in AUC", *(f"AUC, {v}" for v in values),
            "AUC gap", "AUC gap, same mix", "equalised odds, worst class",
            "answers that flip")  # fmt: skip
    strong = frozenset(n for n, name in enumerate(names) if name == in_use)
    table = [
        [row[0]._replace(note="in use") if number_ in strong else row[0], *row[1:]]
        for number_, row in enumerate(rows)
    ]
    use = "from before" if in_use == CHOSEN else f"{in_use}, {HEADS.get(in_use, '')}"
    lead = f"{len(names) - 1} other heads are compared about {attribute}; in use is the head {use}."
    lead += _smallest_gap(subgroups, names, attribute)
    return {"table": Table(head, table, strong=strong), "lead": lead}


def _smallest_gap(subgroups: Heads, names: Sequence[str], attribute: str) -> str:
    """Return which head has the smallest AUC gap, beside the gap before."""
    gaps = {}
    for name in names:
        rows = _of(subgroups[name], attribute, "gap")
        gaps[name] = next((r["raw"]["auc"]["value"] for r in rows if r["class"] is None), None)
    known = {name: gap for name, gap in gaps.items() if gap is not None}
    if CHOSEN not in known or len(known) < 2:
        return ""
    best = min((name for name in known if name != CHOSEN), key=lambda name: known[name])
    return f" AUC gap before {known[CHOSEN]:.3f}, smallest {known[best]:.3f} ({best})."


def rows_of_values(rows: Rows) -> list[Row]:
    """Return the rows of the values over all classes."""
    return [row for row in rows if row["kind"] == "value" and row["class"] is None]


def _head_row(name: str, rows: Rows, flips: Rows, before: Row) -> list[Cell]:
    whole = next((row for row in rows if row["kind"] == "gap" and row["class"] is None), None)
    empty: Row = {"value": None}
    gaps = [whole[part]["auc"] if whole else empty for part in ("raw", "matched")]
    own = within_auc(rows)
    price = NO_PRICE if name == CHOSEN else _price(before["value"], own["value"])
    return [
        Cell(name if name != CHOSEN else "before", HEADS.get(name, "") if name != CHOSEN else ""),
        span(own, f"n {own['n']}"),
        price,
        *(span(row["auc"], f"n {row['n']}") for row in rows_of_values(rows)),
        *(_gap(gap) for gap in gaps),
        _worst_odds(rows),
        _flip_share(flips),
    ]


NO_PRICE = Cell("0")


def _price(before: float | None, after: float | None) -> Cell:
    if before is None or after is None:
        return span(None)
    lost = before - after
    return Cell(number(lost, 3), note="gained" if round(lost, 3) < 0 else "")


def within_auc(rows: Rows) -> dict[str, Any]:
    """Return the mean AUC of an attribute's values, weighted by their images.

    The interval combines those of the values as independent ones: value -+ the root of the sum of
    squared weighted distances to their ends (Zou and Donner 2008).

    Returns:
        An estimate; None where no value has an AUC.
    """
    known = [row for row in rows_of_values(rows) if row["auc"]["value"] is not None]
    n = sum(row["n"] for row in known)
    if not n:
        return {"value": None, "low": None, "high": None, "n": 0}
    parts = [(row["n"] / n, row["auc"]) for row in known]
    value = sum(weight * auc["value"] for weight, auc in parts)
    if any(auc["low"] is None or auc["high"] is None for _, auc in parts):
        return {"value": value, "low": None, "high": None, "n": n}
    below = math.hypot(*(weight * (auc["value"] - auc["low"]) for weight, auc in parts))
    above = math.hypot(*(weight * (auc["high"] - auc["value"]) for weight, auc in parts))
    return {"value": value, "low": max(0.0, value - below), "high": min(1.0, value + above), "n": n}


def _flip_share(rows: Rows) -> Cell:
    """Return the share over all classes of the contrast that flips most."""
    totals: dict[str, list[float]] = {}
    for row in rows:
        if row["share"] is not None:
            counted = totals.setdefault(str(row["value"]), [0.0, 0.0])
            counted[0] += row["flipped"]
            counted[1] += row["n"]
    if not totals:
        return span(None)
    value, (hits, n) = max(totals.items(), key=lambda item: item[1][0] / item[1][1])
    low, high = share_interval(hits, n)
    note = f"n {n:.0f}" + (f", {value}" if len(totals) > 1 else "")
    return Cell(percent(hits / n), f"{percent(low)} to {percent(high)}", note)
