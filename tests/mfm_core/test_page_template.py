"""Templates: nothing a page is given can become markup, and nothing it needs can be missing."""

from __future__ import annotations

import pytest
from jinja2 import TemplateNotFound, UndefinedError

from mfm_core.page_template import draw_page

WORDS = {"stay": "stays", "json": "i.json", "rows": [], "refused": []}


def test_a_value_is_escaped_in_a_page() -> None:
    page = draw_page("explanation_index.html.j2", **{**WORDS, "json": "<script>alert(1)</script>"})
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="refused"):
        draw_page("explanation_index.html.j2", stay="stays", json="i.json", rows=[])


def test_only_templates_of_this_package_are_read() -> None:
    with pytest.raises(TemplateNotFound):
        draw_page("../pyproject.toml")
