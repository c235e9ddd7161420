"""The audit on the report's page: explanation quality, biases, flips and unrecorded groups.

Rows come from `explanation_sums`, `bias`, `flips` and `slices`, as they stand in results.json (all
hospitals, see RESULTS.md) or in a site's audit.json. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mfm_core.metric_table import METHOD_NAMES, OWN_METHOD, PLACE_METHOD
from mfm_core.pictures import METHOD_NAMES as METHOD_WORDS
from mfm_core.report_words import (
    NONE,
    Cell,
    Table,
    capital,
    chance,
    judged,
    listed,
    number,
    percent,
    several,
)

Row = Mapping[str, Any]
Rows = Sequence[Row]

METRICS = {
    "spearman": "rank correlation of step and answer",
    "strictly_monotone": "answer rises at every step",
    "flip_rate": "answer turns within two steps",
    "flip_alpha": "smallest step that turns it",
    "cycle": "cycle error",
    "ssim": "redrawn like the original (SSIM)",
    "ssim_outside": "unchanged outside the finding (SSIM)",
    "ssim_whole": "unchanged over the whole frame (SSIM)",
    "collateral": "drags along",
    "sanity_labels": "map like that of shuffled labels",
}
"""What the reader calls each metric of the class shift."""

AT_MOST = ("cycle", "collateral", "sanity_head", "sanity_labels")
"""Metrics whose goal is an upper bound."""

SITE_METRICS = ("spearman", "strictly_monotone", "flip_rate", "cycle", "ssim")
"""Columns of the table per hospital."""

METHOD_COLUMNS = {
    "iou": "overlap with the known region (IoU)",
    "pointing": "points into the region",
    "deletion": "deletion gain",
    "insertion": "insertion gain",
    "sanity_head": "map like that of a random head",
}

MOST_BIASES = 15
"""Rows of the ranking that are shown beside all flagged ones."""


def explained(rows: Rows, per_site: Mapping[str, Rows]) -> dict[str, Any]:
    """Return the tables of explanation quality.

    Args:
        rows: a row per class and a last one for all classes.
        per_site: the same per hospital, may be empty.

    Returns:
        "table" metrics x classes, "methods" compared over all classes, "sites" x main metrics
        (each None without rows), "lead" how many goals are met, "unscored" what needs outlines.
    """
    if not rows or not any(row["n"] for row in rows):
        return {"table": None, "methods": None, "sites": None, "lead": "", "unscored": []}
    ordered = [rows[-1], *rows[:-1]]
    parts = [part for part in _parts(rows[-1]) if part[0] in METRICS]
    scored = [part for part in parts if any(_pick(row, part)["n"] for row in rows)]
    head = ("metric", "goal", *(f"{row['class']} ({row['n']})" for row in ordered))
    table = [[Cell(_name(part)), _goal(rows[-1], part),
              *(_judged(row, part) for row in ordered)] for part in scored]  # fmt: skip
    return {
        "table": Table(head, table, "Class (patients scored)"),
        "methods": _methods(rows[-1]),
        "sites": _sites(per_site),
        "lead": goals_sentence(rows),
        "unscored": [_name(part) for part in parts if part not in scored],
    }


def goals_of(rows: Rows) -> tuple[int, list[str]]:
    """Return how many goals there are over all classes, and the names of the missed ones."""
    known, missed = 0, []
    for part in _parts(rows[-1]):
        met = _pick(rows[-1], part)["met"]
        ours = part[1] in (OWN_METHOD, PLACE_METHOD) and not part[0].endswith("_gain")
        own = part[0] in METRICS or ours
        if own and met is not None:
            known += 1
            missed += [] if met else [_name(part)]
    return known, missed


def goals_sentence(rows: Rows) -> str:
    """Return how many goals of the explanations are met."""
    known, missed = goals_of(rows)
    if not known:
        return "No goal could be judged."
    text = f"{known - len(missed)} of {several(known, 'goal')} met over all classes"
    return f"{text}; missed: {listed(missed)}." if missed else f"{text}."


def _parts(row: Row) -> Iterator[tuple[str, str]]:
    """Yield (family, part) of every figure of a row; the part is empty where there is none."""
    order = [*METRICS, *METHOD_COLUMNS]
    for family in sorted((name for name in row if name in order), key=order.index):
        found = row[family]
        yield from [(family, "")] if "value" in found else [(family, part) for part in found]


def _pick(row: Row, part: tuple[str, str]) -> Row:
    empty = {"value": None, "n": 0, "met": None, "goal": None}
    found: Row = row[part[0]].get(part[1], empty) if part[1] else row[part[0]]
    return found


def _name(part: tuple[str, str]) -> str:
    family, which = part
    words = METRICS.get(family) or METHOD_COLUMNS[family]
    return f"{words} {which}" if family == "collateral" else words


def _goal(row: Row, part: tuple[str, str]) -> Cell:
    goal = _pick(row, part)["goal"]
    if goal is None:
        return Cell(NONE)
    return Cell(f"{'≤' if part[0] in AT_MOST else '≥'} {goal:g}")


def _judged(row: Row, part: tuple[str, str]) -> Cell:
    found = _pick(row, part)
    note = f"n {found['n']}" if found["n"] != row["n"] else ""
    return judged(found, found["met"], note)


def _methods(row: Row) -> Table | None:
    """Return what the methods reach over all classes; None where no map was scored."""
    families = [
        name for name in METHOD_COLUMNS if any(each["n"] for each in row.get(name, {}).values())
    ]
    if not families:
        return None
    rows = [
        [Cell(METHOD_WORDS[name]), *(_judged(row, (family, name)) for family in families)]
        for name in METHOD_NAMES
        if any(_pick(row, (family, name))["n"] for family in families)
    ]
    head = ("method", *(METHOD_COLUMNS[name] for name in families))
    return Table(head, rows, "The methods on the same images, all classes")


def _sites(per_site: Mapping[str, Rows]) -> Table | None:
    rows = []
    for name, found in per_site.items():
        if found:
            whole = found[-1]
            figures = [_judged(whole, (metric, "")) for metric in SITE_METRICS]
            rows.append([Cell(name), Cell(str(whole["n"])), *figures])
    head = ("hospital", "patients", *(METRICS[metric] for metric in SITE_METRICS))
    return Table(head, rows, "At each hospital, all classes together") if rows else None


def ranked(rows: Rows) -> dict[str, Any]:
    """Return the bias ranking.

    Returns:
        "found" sentences of flagged rows, "lead", "table" of the flagged and the next rows (None
        without), "more" rows that are not shown, "unjudged" (reason, which) pairs.
    """
    judged_rows = [row for row in rows if row["score"] is not None]
    flagged = [row for row in judged_rows if row["flagged"]]
    shown = [*flagged, *(row for row in judged_rows if not row["flagged"])]
    shown = shown[: max(MOST_BIASES, len(flagged))]
    shown.sort(key=lambda row: -row["score"])
    reasons: dict[str, dict[str, None]] = {}
    for row in rows:
        if row["score"] is None:
            field = f"{row['attribute']}: {row['value']} against {row['against']}"
            reasons.setdefault(row["reason"], {})[field] = None
    head = ("field", "class", "patients", "encoded (AUC)", "confounded (phi)", "aligned (cosine)",
            "used (logits)", "used (deviations)", "q", "found")  # fmt: skip
    return {
        "lead": bias_lead(rows),
        "found": [row["sentence"] for row in flagged],
        "table": Table(head, [_bias_row(row) for row in shown], words=frozenset({1}))
        if shown
        else None,
        "more": len(judged_rows) - len(shown),
        "unjudged": [(reason, "; ".join(fields)) for reason, fields in reasons.items()],
    }


def bias_lead(rows: Rows) -> str:
    """Return how many combinations of field and class are found to bias an answer."""
    known = [row for row in rows if row["score"] is not None]
    flagged = [row for row in known if row["flagged"]]
    if not known:
        return "Nothing could be judged: too few patients, or only one side of every field."
    pairs = several(len(known), "pair") + " of field and class"
    if not flagged:
        return f"None of {pairs} is found to bias an answer."
    fields = listed(list(dict.fromkeys(row["attribute"] for row in flagged)))
    verb = "is" if len(flagged) == 1 else "are"
    return f"{len(flagged)} of {pairs} {verb} found to bias an answer; fields: {fields}."


def _bias_row(row: Row) -> list[Cell]:
    figures = [number(row[name]) for name in ("encoded_auc", "phi", "aligned", "tau", "effect")]
    return [
        Cell(f"{row['attribute']}: {row['value']} against {row['against']}"),
        Cell(str(row["class"])),
        Cell(f"{row['n_value']:.0f} / {row['n_against']:.0f}"),
        *map(Cell, figures),
        Cell(chance(row["q"])),
        Cell("found" if row["flagged"] else "not found"),
    ]


def flipped(rows: Rows) -> dict[str, Any]:
    """Return "table", fields x classes with shares (None without), and "hidden" cells."""
    classes = list(dict.fromkeys(str(row["class"]) for row in rows))
    fields: dict[str, dict[str, Row]] = {}
    for row in rows:
        field = f"{row['attribute']}: {row['value']} against {row['against']}"
        fields.setdefault(field, {})[str(row["class"])] = row
    table = [
        [Cell(field), *(_flip_cell(found.get(name)) for name in classes)]
        for field, found in fields.items()
        if any(row["share"] is not None for row in found.values())
    ]
    hidden = sum(row["share"] is None for row in rows)
    head = ("exchanged field", *(f"true class {name}" for name in classes))
    return {"table": Table(head, table) if table else None, "hidden": hidden}


def _flip_cell(row: Row | None) -> Cell:
    if row is None or row["share"] is None:
        return Cell(NONE)
    low, high = percent(row["low"]), percent(row["high"])
    return Cell(percent(row["share"]), f"{low} to {high}", f"n {row['n']:.0f}")


def unrecorded(found: Row | Rows | None) -> dict[str, Any] | None:
    """Return the groups that nobody recorded, or None where they were not looked for."""
    if not isinstance(found, Mapping) or "rows" not in found:
        return None
    rows = found["rows"]
    certain = sum(bool(row["found"]) for row in rows)
    table = [
        [
            Cell(f"{row['class']}, group {row['cluster']}"),
            Cell(f"{row['errors']} of {row['n']}"),
            Cell(f"{row['other_errors']} of {row['others']}"),
            Cell(chance(row["p"])),
            Cell(chance(row["q"])),
            Cell("found" if row["found"] else "not found"),
        ]
        for row in rows[:MOST_BIASES]
    ]
    head = ("group", "wrong here", "wrong elsewhere in the class", "p", "q", "found")
    lead = f"{capital(several(certain, 'group'))} of {len(rows)} tested with more errors."
    return {"lead": lead, "table": Table(head, table)}
