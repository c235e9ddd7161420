"""The pieces of a model card: what is known of a release, one item of it, one table of it.

What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mfm_core.report_words import Cell, Table, span
from server.card_config import CARD_FILE, CardConfig
from server.judging import Verdict
from strategies.answers import CHOSEN
from strategies.config import RunConfig

FILLED, NOT_DONE = "filled", "not done"

Item = dict[str, str]
Section = dict[str, Any]


@dataclass(frozen=True)
class Known:
    """Everything a card is made of.

    Attributes:
        run: the agreed run.
        figures: metrics.json of the release.
        facts: hashes, status and date of the release.
        verdicts: of the gates.
        people: card.yaml.
    """

    run: RunConfig
    figures: Mapping[str, Any]
    facts: Mapping[str, Any]
    verdicts: Sequence[Verdict]
    people: CardConfig

    @property
    def pooled(self) -> Mapping[str, Any]:
        """Return the test figures of all sites together."""
        found: Mapping[str, Any] = self.figures.get("pooled") or {}
        return found

    @property
    def audit(self) -> Mapping[str, Any]:
        """Return what the sites counted about the model."""
        found: Mapping[str, Any] = self.figures.get("audit") or {}
        return found

    @property
    def subgroups(self) -> list[Mapping[str, Any]]:
        """Return the subgroup rows of the head in use."""
        head = str(self.run.mitigation.use or CHOSEN)
        return list((self.audit.get("subgroups") or {}).get(head) or ())

    @property
    def biases(self) -> list[Mapping[str, Any]]:
        """Return the ranking of biases; empty where no row could be judged."""
        rows = list(self.audit.get("biases") or ())
        return rows if any(row.get("score") is not None for row in rows) else []

    @property
    def gaps(self) -> list[Mapping[str, Any]]:
        """Return the subgroup rows; empty where no gap over all classes could be measured."""
        rows = self.subgroups
        whole = [row for row in rows if row["kind"] == "gap" and row["class"] is None]
        return rows if any(row["raw"]["auc"]["value"] is not None for row in whole) else []

    @property
    def explanations(self) -> list[Mapping[str, Any]]:
        """Return the rows of explanation quality; empty where none was scored."""
        rows = list(self.audit.get("explanations") or ())
        return rows if any(row.get("n") for row in rows) else []


def item(title: str, text: str | None, needs: str) -> Item:
    """Return an item: its text, or "not done" and what it would take.

    Args:
        title: what is asked.
        text: the answer; None or empty where there is none.
        needs: what it would take.
    """
    if text:
        return {"title": title, "state": FILLED, "text": text}
    return {"title": title, "state": NOT_DONE, "text": needs}


def told(title: str, text: str | None, field: str) -> Item:
    """Return an item that only people can fill, by a field of card.yaml."""
    return item(title, text, f"Say it in {CARD_FILE} of the consortium: {field}.")


def section(
    anchor: str, title: str, items: Sequence[Item], tables: Sequence[Table | None] = ()
) -> Section:
    """Return a section of the card, ready for JSON; tables without rows are left out."""
    return {
        "anchor": anchor,
        "title": title,
        "items": list(items),
        "tables": [_plain(table) for table in tables if table],
    }


def _plain(table: Table) -> dict[str, Any]:
    return {
        "caption": table.caption,
        "head": list(table.head),
        "rows": [[cell._asdict() for cell in row] for row in table.rows],
        "strong": sorted(table.strong),
        "words": sorted(table.words),
    }


def rows_of(named: Mapping[str, Mapping[str, Any] | None], head: str) -> Table:
    """Return a table of name, figure with interval, and n."""
    rows = [
        [Cell(name), span(found), Cell(str((found or {}).get("n", "–")))]
        for name, found in named.items()
    ]
    return Table((head, "value (95 % interval)", "n"), rows)


def text_of(found: Mapping[str, Any] | None) -> str:
    """Return an estimate in one phrase with its interval and n."""
    cell = span(found)
    interval = f" (95 % interval {cell.interval})" if cell.interval else ""
    n = (found or {}).get("n")
    return f"{cell.value}{interval}" + (f", n {n}" if n is not None else "")
