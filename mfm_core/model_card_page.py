"""Draws a model card as Markdown and as one HTML page, from its JSON alone.

The page holds its styles, has no script and fetches nothing; every text is escaped, so that a card
of a stranger can be drawn too. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateError

from mfm_core.errors import ConfigError
from mfm_core.page_template import draw_page

_MARKED = str.maketrans(
    {mark: f"\\{mark}" for mark in "\\`*_{}[]#|~$!"}
    | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": " "}
)
"""What Markdown would take for its own."""


def _plain(value: Any) -> Any:
    """Return a value whose texts Markdown shows as they are, each on one line."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return value.translate(_MARKED)
    return value


def draw_html(card: Mapping[str, Any]) -> str:
    """Return the card as one page.

    Raises:
        ConfigError: the JSON is not that of a card.
    """
    return _draw("model_card.html.j2", card, autoescape=True)


def draw_markdown(card: Mapping[str, Any]) -> str:
    """Return the card as Markdown.

    Raises:
        ConfigError: the JSON is not that of a card.
    """
    return _draw("model_card.md.j2", _plain(card), autoescape=False)


def _draw(template: str, card: Mapping[str, Any], *, autoescape: bool) -> str:
    try:
        return draw_page(template, autoescape=autoescape, card=card) + "\n"
    except (TemplateError, TypeError, AttributeError) as error:
        reason = f"is no model card that can be drawn ({error})"
        raise ConfigError("model_card.json", [reason]) from None
