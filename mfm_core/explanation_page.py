"""The pages of a site's explanations: one with the pictures, one that leads back to the files.

Each is one file: styles and pictures are inside, there is no script and nothing is fetched, so it
opens without a network, prints and reads on a phone. All text is escaped.
What crosses the hospital's boundary: nothing. These pages show patients, and say so.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from mfm_core.page_template import draw_page

PAGE_STAYS = "This page shows patients: it must not leave the hospital."
INDEX_STAYS = "This list leads back to patients: it must not leave the hospital."

Rows = Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Picture:
    """A picture inside the page.

    Attributes:
        content: a PNG or GIF.
        alt: what it shows, for who cannot see it.
        caption: a few words under it, or the heading of a moving one.
    """

    content: bytes
    alt: str
    caption: str = ""

    @property
    def moving(self) -> bool:
        """Whether it is an animation."""
        return self.content.startswith(b"GIF8")

    @property
    def data(self) -> str:
        """The picture as a data URL."""
        kind = "gif" if self.moving else "png"
        return f"data:image/{kind};base64,{base64.b64encode(self.content).decode('ascii')}"


@dataclass(frozen=True)
class Section:
    """One image on the page: anchor, heading, what is said of it, pictures, rows of scores."""

    name: str
    title: str
    answer: str
    pictures: Sequence[Picture]
    rows: Rows


@dataclass(frozen=True)
class About:
    """What the page says once.

    Attributes:
        title: the question of the run.
        lead: how many images, by which method.
        index: file name of the index.
        rows: hashes and settings.
        part: number of this page.
        parts: number of pages.
    """

    title: str
    lead: str
    index: str
    rows: Rows
    part: int = 1
    parts: int = 1


def explanation_page(about: About, sections: Sequence[Section]) -> str:
    """Return the page of one run, or of a part of it."""
    return draw_page(
        "explanation.html.j2",
        title=about.title,
        lead=about.lead,
        index=about.index,
        about=about.rows,
        part=about.part,
        parts=about.parts,
        sections=sections,
        stay=PAGE_STAYS,
    )


def index_page(rows: Rows, refused: Rows, json: str) -> str:
    """Return the list that leads back to the files.

    Args:
        rows: explanation, source file and its folder.
        refused: source file, its folder and why there is no explanation of it.
        json: name of the same list for programs.
    """
    return draw_page(
        "explanation_index.html.j2", rows=rows, refused=refused, json=json, stay=INDEX_STAYS
    )
