"""Draws a hospital's evidence pack as one page, from facts and sections of text.

The page holds its styles, has no script and fetches nothing; every text is escaped.
What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mfm_core.page_template import draw_page


def draw_evidence(
    facts: Mapping[str, Any],
    glance: Sequence[tuple[str, str, str]],
    sections: Sequence[Mapping[str, Any]],
) -> str:
    """Return the page.

    Args:
        facts: notice, site, made_at, run (name, hash, rounds) and code_hash are shown.
        glance: anchor, title and one sentence each.
        sections: anchor, title, items (title, text, done) and tables (caption, head, rows) each.
    """
    page = draw_page("evidence.html.j2", facts=facts, glance=glance, sections=sections)
    return f"{page}\n"
