import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from mfm_core.explanation_page import About, Picture, Section, explanation_page, index_page
from tests.federation.browser import BROWSER, browse, complaints


def picture_of(kind: str) -> bytes:
    packed = io.BytesIO()
    Image.new("L", (4, 4), 128).save(packed, kind)
    return packed.getvalue()


ABOUT = About("Explanations: <effusion>", "2 images.", "explanations-index.html", [("model", "ab")])
SECTIONS = [
    Section(
        "explanation-x-01",
        "Image 01",
        "The model reads this image as <none>.",
        [Picture(picture_of("PNG"), 'a "panel"'), Picture(picture_of("GIF"), "moves", "Moving")],
        [("SSIM", "0.91")],
    ),
    Section("explanation-x-02", "Image 02", "Answer.", [], []),
]


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing():
    for page in (explanation_page(ABOUT, SECTIONS), index_page([("a", "b", "c")], [], "x.json")):
        tags = Tags(page)
        assert tags.open == [] and "script" not in {tag for tag, _ in tags.found}
        for _, attributes in tags.found:
            for name in ("src", "href"):
                assert attributes.get(name, "#").startswith(("#", "data:"))
        assert not re.search(r"url\(|@import|https?:", page)
        assert "viewport" in page and "@media print" in page


def test_pictures_are_inside_and_described():
    images = [row for tag, row in Tags(explanation_page(ABOUT, SECTIONS)).found if tag == "img"]
    assert [row["alt"] for row in images] == ['a "panel"', "moves"]
    for row, kind in zip(images, ("PNG", "GIF"), strict=True):
        start, _, data = row["src"].partition(",")
        assert start == f"data:image/{kind.lower()};base64"
        assert base64.b64decode(data) == picture_of(kind)


def test_the_page_says_what_it_is_and_escapes_names():
    page = explanation_page(ABOUT, SECTIONS)
    assert "must not leave the hospital" in page and "not a medical device" in page
    assert "&lt;effusion&gt;" in page and "<effusion>" not in page
    assert "&lt;none&gt;" in page and 'id="explanation-x-02"' in page and "Part" not in page
    assert "Part 2 of 3" in explanation_page(replace(ABOUT, part=2, parts=3), SECTIONS)


def test_a_moving_picture_can_be_closed_and_is_not_printed():
    page = explanation_page(ABOUT, SECTIONS)
    assert "<details" in page and re.search(r"@media print \{[^@]*\.moving[^}]*display: none", page)


def test_the_index_leads_back_and_says_so():
    page = index_page([("explanation-x-01", "a&b.dcm", "/f")], [("c.dcm", "/f", "cut")], "i.json")
    assert "leads back to patients: it must not leave" in page
    assert "a&amp;b.dcm" in page and "Not explained" in page and "i.json" in page
    assert "Not explained" not in index_page([], [], "i.json")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the PATH")
def test_a_browser_shows_both_pages_without_errors(tmp_path):
    pages = {
        "page.html": (explanation_page(ABOUT, SECTIONS), "The model reads this image as"),
        "index.html": (index_page([("explanation-x-01", "a.dcm", "/f")], [], "i.json"), "a.dcm"),
    }
    for name, (page, words) in pages.items():
        path = tmp_path / name
        path.write_text(page, encoding="utf-8")
        shown, log = browse(path, "--dump-dom", "--virtual-time-budget=3000", size=(420, 900))
        assert complaints(log) == []
        assert words in shown and "must not leave the hospital" in shown
