from __future__ import annotations

import re
from typing import Any

import pytest

from mfm_core.errors import ConfigError
from mfm_core.model_card_page import draw_html, draw_markdown

HOSTILE = "<script>alert(1)</script> | [x](http://a) & {{ 7*7 }}\n# big"


def card(text: str = "A text.", **parts: Any) -> dict[str, Any]:
    cell = {"value": text, "interval": "0.1–0.2", "note": "n 3", "verdict": "met"}
    table = {"caption": text, "head": ["a", text], "rows": [[cell, cell]], "strong": [0],
             "words": []}  # fmt: skip
    items = [
        {"title": text, "state": "filled", "text": text},
        {"title": "Other", "state": "not done", "text": "Do it."},
    ]
    section = {"anchor": "part", "title": "Part: one", "items": items, "tables": [table]}
    gate = {"title": "Macro AUC", "state": "fail", "asked": "at least 0.9", "judged": "the value",
            "found": text, "accepted": text}  # fmt: skip
    return {
        "notice": "Research software, not a medical device.", "name": "tiny", "lead": text,
        "items": 6, "not_done": 3, "release": {"status": "complete", "bundle_hash": None},
        "gates": [gate], "sections": [section], "principles": [section], "claim": section, **parts,
    }  # fmt: skip


def test_the_page_stands_alone_and_says_first_what_it_is_not() -> None:
    page = draw_html(card())
    assert page.index("not a medical device") < page.index("<h1>")
    assert "<script" not in page and not re.search(r'(src|href)="(?!#|data:)', page)
    assert "default-src 'none'" in page and 'name="viewport"' in page and "@media print" in page
    assert page.count("not done</span>") == 3 and "not recorded" in page


def test_a_foreign_text_changes_neither_page_nor_markdown() -> None:
    page, text = draw_html(card(HOSTILE)), draw_markdown(card(HOSTILE))
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "<script" not in text and "\n# big" not in text
    assert not re.search(r"(?<!\\)\]\(", text)
    assert "49" not in page and "49" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    plain = [line for line in draw_markdown(card()).splitlines() if line.startswith("|")]
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in rows]
    assert bars == [line.count("|") for line in plain]


def test_markdown_has_its_tables_without_gaps() -> None:
    lines = draw_markdown(card()).splitlines()
    start = lines.index("| a | A text. |")
    assert lines[start + 1] == "| --- | --- |"
    assert lines[start + 2].startswith("| A text. (0.1–0.2), n 3, met |")
    assert "- **Other**: *not done.* Do it." in lines


@pytest.mark.parametrize(
    "wrong", [{"gates": 3}, {"sections": [{"title": "x"}]}, {"release": None}, {"claim": "x"}]
)
def test_what_is_no_card_is_refused(wrong: dict[str, Any]) -> None:
    for draw in (draw_html, draw_markdown):
        with pytest.raises(ConfigError, match="no model card"):
            draw(card(**wrong))
