"""What `mfm-client check` prints: the doctor's lines, and the table of a dry run.

What crosses the hospital's boundary: nothing; tables and problems are for the site itself.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from client.dry_run import Exchange, Tensor
from client.finding import Finding, worst

DETAILS_SHOWN = 20
MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL", "skip": "skip"}
_TABLE = "{:<46}  {:>20}  {:>9}  {:>10}  {}"


def lines_of(finding: Finding) -> str:
    """Return a finding as text: its line, what to do, and its first details."""
    head = f"{MARKS[finding.level]}  {finding.part:<13}  {finding.text}"
    rows = [head]
    if finding.advice and finding.level != "ok":
        rows += textwrap.wrap(f"-> {finding.advice}", 92, initial_indent=" " * 21,
                              subsequent_indent=" " * 24)  # fmt: skip
    if finding.level in ("warn", "fail"):
        rows += [f"{'':21}- {detail}" for detail in finding.details[:DETAILS_SHOWN]]
        more = len(finding.details) - DETAILS_SHOWN
        rows += [f"{'':21}... and {more} more; --json lists all"] if more > 0 else []
    return "\n".join(rows)


def summary_of(findings: Sequence[Finding]) -> str:
    """Return the last line: how many of each level."""
    counts = {level: sum(f.level == level for f in findings) for level in MARKS}
    told = ", ".join(f"{count} {level}" for level, count in counts.items() if count)
    verdict = {
        "ok": "ready",
        "warn": "works, but look at the warnings",
        "fail": "NOT ready",
    }[worst(findings)]
    return f"{told}: {verdict}"


def table_of(exchanges: Iterable[Exchange]) -> str:
    """Return what would leave, tensor by tensor, with a head line per exchange."""
    rows = [
        "What would leave this hospital if the run is accepted, one round of each exchange.",
        "Nothing was sent.",
        "",
        _TABLE.format("tensor", "shape", "bytes", "norm", "values").rstrip(),
    ]
    total = 0
    for exchange in exchanges:
        rows += ["", _head_of(exchange)]
        if exchange.reason:
            rows += textwrap.wrap(exchange.reason, 96, initial_indent="  ", subsequent_indent="  ")
        if exchange.forecast:
            rows += textwrap.wrap(
                exchange.forecast, 96, initial_indent="  ", subsequent_indent="  "
            )
        rows += [_row_of(tensor) for tensor in exchange.tensors]
        rows += [f"  in {', '.join(exchange.files)}"] if exchange.files else []
        total += exchange.bytes * exchange.times
    rows += ["", f"In the whole run about {total / 2**20:.1f} MiB of arrays would leave."]
    return "\n".join(rows)


def _head_of(exchange: Exchange) -> str:
    round_ = f" round {exchange.round}" if exchange.round else ""
    times = f" (of {exchange.times})" if exchange.times > 1 else ""
    facts = [f"{exchange.kind}{round_}{times}: {exchange.outcome}"]
    if exchange.outcome == "leaves":
        hidden = "" if exchange.suppressed is None else f", {exchange.suppressed} cells suppressed"
        facts.append(f"{exchange.images} images{hidden}, {exchange.bytes} bytes")
        facts.append(f"mechanism {exchange.mechanism}, epsilon {exchange.epsilon}")
    return "; ".join(facts)


def _row_of(tensor: Tensor) -> str:
    shape = " x ".join(str(side) for side in tensor.shape) or "1"
    values = ", ".join(f"{value:g}" for value in tensor.values)
    name = f"  {tensor.name}"
    return _TABLE.format(name, shape, tensor.bytes, f"{tensor.norm:.4g}", values).rstrip()
