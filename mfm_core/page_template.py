"""Pages of this package from their templates: every value escaped, every missing one an error.

What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def draw_page(template: str, *, autoescape: bool = True, **content: Any) -> str:
    """Return the text that a template of this package makes of its content.

    Args:
        template: name of a file beside this module, e.g. "report.html.j2".
        autoescape: False for text that is no HTML.
        content: what the template names.

    Raises:
        jinja2.TemplateError: the template names what is not there.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content)
