"""The page escapes every text and says what is not done."""

from __future__ import annotations

from typing import Any

from mfm_core.evidence_page import draw_evidence

HOSTILE = "<script>alert(1)</script>{{ 7*7 }}"


def draw(text: str) -> str:
    facts: dict[str, Any] = {
        "notice": text,
        "site": text,
        "made_at": "2026-01-01T10:00:00",
        "run": {"name": text, "hash": text, "rounds": 2},
        "code_hash": text,
    }
    item = {"title": text, "text": text, "done": False}
    table = {"caption": text, "head": ["a", text], "rows": [[text, text]]}
    section = {"anchor": "part", "title": text, "items": [item], "tables": [table]}
    return draw_evidence(facts, [("part", text, text)], [section])


def test_every_text_is_escaped() -> None:
    page = draw(HOSTILE)
    assert "<script" not in page and "&lt;script&gt;" in page and "49" not in page


def test_what_is_not_done_says_so_and_cells_name_their_column() -> None:
    page = draw("A text.")
    assert page.count("not done</span>") == 1 and 'data-name="A text."' in page
    assert "2026-01-01 10:00" in page
