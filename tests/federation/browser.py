"""Headless Chromium for tests of pages: what it shows, prints and complains about."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import zlib
from html import escape
from html.parser import HTMLParser
from pathlib import Path

BROWSER = next(
    (name for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)), None
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--no-pdf-header-footer",
    "--enable-logging=stderr",
    "--v=0",
)


def browse(page: Path, *options: str, size: tuple[int, int] = (1200, 1600)) -> tuple[str, str]:
    """Open a page and return what is printed and what stands in the log."""
    assert BROWSER is not None
    with tempfile.TemporaryDirectory() as profile:
        window = f"--window-size={size[0]},{size[1]}"
        command = [BROWSER, *FLAGS, window, f"--user-data-dir={profile}", *options]
        done = subprocess.run(
            [*command, page.resolve().as_uri()],
            capture_output=True, text=True, timeout=180, check=True,
        )  # fmt: skip
    return done.stdout, done.stderr


def complaints(log: str) -> list[str]:
    """Return what the page's console says."""
    return [line for line in log.splitlines() if "CONSOLE" in line]


def width_of(page: Path, folder: Path, width: int) -> tuple[int, int]:
    """Return (width of the content, width of the window) of a page at a window's width.

    The page is shown inside a frame of that width: a browser's own window has a least width.
    """
    inside = escape(page.read_text(encoding="utf-8"), quote=True)
    wrapper = folder / f"probe-{width}.html"
    wrapper.write_text(
        f"""<!doctype html><body><iframe style="width:{width}px;height:800px;border:0"
        srcdoc="{inside}"></iframe><script>
        window.addEventListener("load", () => {{
          const frame = document.querySelector("iframe");
          document.body.dataset.probe = frame.contentDocument.documentElement.scrollWidth
            + " " + frame.contentWindow.innerWidth;
        }});</script></body>""",
        encoding="utf-8",
    )
    dom, _ = browse(wrapper, "--dump-dom")
    found = re.search(r'data-probe="(\d+) (\d+)"', dom)
    assert found, "the probe did not run"
    return int(found[1]), int(found[2])


def fills_of_pages(pdf: bytes) -> list[set[bytes]]:
    """Return the fill colours that each printed page uses."""
    objects = dict(re.findall(rb"(?:^|\n)(\d+) 0 obj\n(.*?)\nendobj", pdf, re.S))
    pages = [body for body in objects.values() if re.search(rb"/Type /Page\b", body)]
    drawn = []
    for body in pages:
        number = re.search(rb"/Contents (\d+) 0 R", body)
        assert number
        stream = re.search(rb"stream\r?\n(.*?)endstream", objects[number[1]], re.S)
        assert stream
        found = re.findall(rb"[\d.]+ [\d.]+ [\d.]+ rg", zlib.decompress(stream[1]))
        drawn.append(set(found))
    return drawn


class Reader(HTMLParser):
    """Collects what a reader meets: words, headings, pictures, links and anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.levels: list[int] = []
        self.alts: list[str | None] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self._silent = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self._silent += tag in ("style", "script")
        if re.fullmatch(r"h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag == "img":
            self.alts.append(found.get("alt"))
        self.links += [value or "" for key, value in attrs if key in ("src", "href")]
        self.anchors |= {found["id"] or ""} if "id" in found else set()

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._silent and data.strip():
            self.words.append(data.strip())

    @property
    def text(self) -> str:
        """All visible words, one space between."""
        return " ".join(" ".join(self.words).split())
