"""What `mfm-client audit` prints: tables with n, 95 % intervals and goals met or missed.

What crosses the hospital's boundary: nothing; the tables are read where they are printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from client.audit import FINAL_HEAD, Audited
from mfm_core.metric_table import OWN_METHOD

AUC_GAP_GOAL = 0.02
"""Largest gap of the mean AUC between two values of an attribute (design section 10)."""

MOST_ROWS = 12
"""Rows of a ranking that are printed; audit.json has all."""

MOST_BESIDE = 3
"""Flips that are printed of each head beside the final one."""

LOG_WIDTH = 120
"""Columns of a table in a file or a pipe."""

TITLES = {
    "explanations": "How far explanations can be believed",
    "bias": "Recorded fields that may bias an answer",
    "subgroups": "Figures per attribute value, and gaps",
    "slices": "Groups nobody recorded",
}

HEAD_NOTE = (
    "sanity head, class_shift: that map draws what separates groups of patients and reads the head "
    "only for its step, so by construction another head hardly changes it; sanity labels checks it."
)

Row = Mapping[str, Any]


def print_audit(done: Audited, as_json: bool) -> None:
    """Print the audit as JSON, or as tables for people."""
    content = done.content
    if as_json:
        print(json.dumps({**content, "record": str(done.record)}, indent=2, ensure_ascii=False))
        return
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, width=LOG_WIDTH)
    images, patients = content["test_images"], content["test_patients"]
    console.print(f"Audit of {content['site']}: {images} test images of {patients} patients.")
    if content["final_is"]:
        others = ", ".join(content["heads"][1:])
        console.print(
            f"The model's head (final) is {content['final_is']}; {others} beside it leave out "
            f"{content['mitigated_attribute']} in other ways, or not at all (chosen).",
            markup=False,
            soft_wrap=True,
        )
    for part, title in TITLES.items():
        found = content.get(part)
        if found is None:
            continue
        console.print(f"\n[bold]{title}[/bold]")
        if isinstance(found, dict) and "refused" in found:
            console.print(escape(found["refused"]), soft_wrap=True)
            continue
        for item in PRINTERS[part](found):
            console.print(item, soft_wrap=isinstance(item, str))
    console.print(f"\nNumbers: {done.record}", soft_wrap=True)
    console.print(content["note"], soft_wrap=True)


def _explanations(rows: Sequence[Row]) -> Iterator[Table | str]:
    """Yield a table of the figures with goals, and per class what was missed."""
    *classes, whole = rows
    table = _table("metric", "value", "95 % interval", "patients", "goal", "")
    goals = [(name, figure) for name, figure in _figures_of(whole) if figure["goal"] is not None]
    for name, figure in goals:
        if figure["n"] > 0:
            goal, verdict = f"{figure['goal']:g}", _verdict(figure["met"])
            table.add_row(name, _number(figure["value"]), _interval(figure), *_words(figure["n"]),
                          goal, verdict)  # fmt: skip
    yield table
    if whole["sanity_head"].get(OWN_METHOD, {"n": 0})["n"]:
        yield HEAD_NOTE
    if silent := sum(figure["n"] == 0 for _, figure in goals):
        yield f"{silent} metrics need outlines of the findings and were not scored."
    for row in classes:
        missed = [name for name, figure in _figures_of(row) if figure["met"] is False]
        known = sum(figure["met"] is not None for _, figure in _figures_of(row))
        text = f"{row['class']}: {known - len(missed)} of {known} goals met ({row['n']} patients)"
        yield escape(text + (f"; missed: {', '.join(missed)}" if missed else ""))


def _figures_of(row: Row) -> Iterator[tuple[str, Row]]:
    """Yield the names and figures of a row; a family with parts gives one each."""
    for family, found in row.items():
        if not isinstance(found, dict):
            continue
        if "value" in found:
            yield family.replace("_", " "), found
            continue
        for part, figure in found.items():
            yield f"{family.replace('_', ' ')}, {part}", figure


def _bias(found: Row) -> Iterator[Table | str]:
    """Yield the ranking of fields, then the flips of every head."""
    flagged = [row for row in found["ranking"] if row["flagged"]]
    for row in flagged[:MOST_ROWS]:
        yield escape(f"FOUND: {row['sentence']}")
    if not flagged:
        yield f"No field is found to bias an answer ({len(found['ranking'])} rows judged)."
    table = _table("field", "class", "encoded (AUC)", "effect", "q", "")
    for row in found["ranking"][:MOST_ROWS]:
        numbers = [_number(row[name]) for name in ("encoded_auc", "effect", "q")]
        field = escape(f"{row['attribute']}: {row['value']} / {row['against']}")
        state = "found" if row["flagged"] else escape(row["reason"])
        table.add_row(field, escape(row["class"]), *numbers, state)
    yield table
    if found["site"]:
        yield escape(found["site"])
    yield from _flips(found["flips"])


def _flips(flips: Mapping[str, Sequence[Row]]) -> Iterator[Table | str]:
    table = _table("answers that flip", "class", "head", "share", "95 % interval", "patients")
    for head, rows in flips.items():
        shown = [row for row in rows if row["share"] is not None]
        most = MOST_ROWS if head == FINAL_HEAD else MOST_BESIDE
        for row in sorted(shown, key=lambda row: -row["share"])[:most]:
            field = escape(f"{row['attribute']}: {row['value']} / {row['against']}")
            count = f"{row['n']:g}"
            table.add_row(field, escape(row["class"]), escape(head), _number(row["share"]),
                          _interval(row), count)  # fmt: skip
    if table.row_count:
        yield table
    else:
        yield "No cell has enough patients with a known value to count flips."


def _subgroups(found: Row) -> Iterator[Table | str]:
    """Yield figures per value, then gaps raw and matched; of other heads the mean only."""
    for name in found["unknown"]:
        advice = "check columns.attributes and attribute_mapping"
        yield escape(f"{name} is unknown for all test images; {advice}.")
    heads = list(found["rows"])
    values = _table("value", "head", "images", "AUC", "accuracy", "calibration error")
    gaps = _table("gap", "class", "head", "AUC", "AUC, matched", "equalised odds", "")
    for attribute in dict.fromkeys(row["attribute"] for row in found["rows"][FINAL_HEAD]):
        for head in heads:
            mine = [row for row in found["rows"][head] if row["attribute"] == attribute]
            _add_values(values, mine, head)
            _add_gaps(gaps, mine, head)
    yield values
    yield gaps
    for reason, places in _reasons(found["rows"][FINAL_HEAD]).items():
        yield escape(f"{', '.join(places)}: {reason}.")
    yield (
        f"Goal: gap of the mean AUC at most {AUC_GAP_GOAL:g}. Matched: every value is given the "
        "same mix of classes. Calibration error of small groups reads too high."
    )


def _add_values(table: Table, rows: Sequence[Row], head: str) -> None:
    for row in rows:
        if row["kind"] == "value" and row["class"] is None:
            figures = [_with_interval(row[n]) for n in ("auc", "accuracy", "calibration_error")]
            field = escape(f"{row['attribute']}: {row['value']}")
            table.add_row(field, escape(head), str(row["n"]), *figures)


def _reasons(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return why figures are missing, and of which rows."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["reason"]:
            words = (row["attribute"], row.get("value"), row["class"])
            place = " ".join(word for word in words if word)
            found.setdefault(row["reason"], []).append(place)
    return found


def _add_gaps(table: Table, rows: Sequence[Row], head: str) -> None:
    for row in rows:
        whole = row["class"] is None
        if row["kind"] != "gap" or not (whole or head == FINAL_HEAD):
            continue
        raw = row["raw"]
        odds = raw.get("equalised_odds")
        note = ""
        if whole and raw["auc"]["value"] is not None:
            note = _gap_verdict(raw["auc"])
        table.add_row(
            escape(row["attribute"]),
            "all (mean)" if whole else escape(row["class"]),
            escape(head),
            _with_interval(raw["auc"]),
            _with_interval(row["matched"]["auc"]),
            "" if odds is None else _with_interval(odds),
            note,
        )


def _slices(found: Row) -> Iterator[Table | str]:
    """Yield the most suspect groups."""
    certain = [row for row in found["rows"] if row["found"]]
    table = _table("class", "group", "patients", "wrong here", "wrong elsewhere", "p", "q")
    for row in found["rows"][:MOST_ROWS]:
        here, there = f"{row['errors']} of {row['n']}", f"{row['other_errors']} of {row['others']}"
        marks = (_number(row["p"]), _number(row["q"]))
        table.add_row(escape(row["class"]), str(row["cluster"]), str(row["n"]), here, there, *marks)
    yield table
    yield (
        f"{len(certain)} of {len(found['rows'])} groups tested on held-out patients have more "
        "errors than the rest of their class (false discovery rate 5 %). With few patients only "
        "large differences show: what is not found here may still be there."
    )
    if found["picture"]:
        yield escape(f"Drawn (stays here): {found['picture']}")


PRINTERS: dict[str, Callable[[Any], Iterator[Table | str]]] = {
    "explanations": _explanations,
    "bias": _bias,
    "subgroups": _subgroups,
    "slices": _slices,
}


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _verdict(met: bool | None) -> str:
    return "" if met is None else "met" if met else "MISSED"


def _gap_verdict(gap: Row) -> str:
    """Return whether the goal is met, and whether the interval agrees."""
    met = gap["value"] <= AUC_GAP_GOAL
    end = gap["high"] if met else gap["low"]
    certain = end is not None and (end <= AUC_GAP_GOAL) == met
    return _verdict(met) if certain else f"{_verdict(met)}, not certain"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"


def _interval(figure: Row) -> str:
    if figure["low"] is None:
        return "-"
    return f"{figure['low']:.3f} to {figure['high']:.3f}"


def _with_interval(figure: Row) -> str:
    if figure["value"] is None:
        return "-"
    return f"{figure['value']:.3f} ({_interval(figure)})"


def _words(*numbers: float) -> list[str]:
    return [f"{number:g}" for number in numbers]
