"""Both pages of a real run in headless Chromium: content, width, print, console."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client.report import Wanted
from client.report import write_page as write_own
from client.site import close_sites
from mfm_core.report_page import OWN, STAYS
from server.app import run_federation
from server.report import write_page
from tests.federation.browser import (
    BROWSER,
    Reader,
    browse,
    complaints,
    fills_of_pages,
    width_of,
)
from tests.server.hospitals import RUN, consortium, lay_out, make_grid

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the PATH")

MOST_BYTES = 6_000_000
BANNER_FILL = b".9922 .9333 .9451 rg"
WORDS_OF_PROGRAMS = (r"\bNone\b", r"\bnan\b", r"\bNaN\b", r"\{\{", r"\}\}", r"\{%", "Undefined")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    audit = RUN.audit.model_copy(update={"explained_per_class": 2})
    run = RUN.model_copy(update={"audit": audit})
    laid = lay_out(tmp_path_factory.mktemp("pages"), run=run)
    run_federation(make_grid(laid), consortium(laid, "out"), resume=False)
    close_sites()
    return laid


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "out" / "server.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[str, Path]:
    wanted = Wanted(folder / "sites" / "0.yaml", folder / "out" / "server.json")
    return {"coordinator": write_page(folder / "out"), "site": write_own(wanted)}


@pytest.fixture(scope="module")
def shown(pages: dict[str, Path]) -> dict[str, Reader]:
    """What the browser made of each page; its console was silent."""
    readers = {}
    for name, page in pages.items():
        dom, log = browse(page, "--dump-dom")
        assert not complaints(log), complaints(log)
        readers[name] = Reader(dom)
    return readers


WHO = pytest.mark.parametrize("who", ["coordinator", "site"])


@WHO
def test_the_figures_are_those_of_the_results(
    who: str, shown: dict[str, Reader], results: dict[str, Any]
) -> None:
    text, pooled = shown[who].text, results["pooled"]
    for name in ("north", "south"):
        ssim = results["per_site"][name]["ssim"]
        row = f"{ssim['value']:.3f} {ssim['low']:.3f}–{ssim['high']:.3f}"
        assert name in text and row in text, row
    for metrics in pooled["per_class"]:
        assert metrics["class"] in text and f"{metrics['ap']['value']:.3f}" in text
    low, high = results["macro_auc_interval"]
    assert f"{results['macro_auc']:.3f} ({low:.3f}–{high:.3f})" in text
    for share in (row["share"] for row in results["audit"]["pooled"]["flips"]["chosen"]):
        assert f"{100 * share:.1f} %" in text
    for method in results["mitigation"]["methods"]:
        assert method in text
    quality = results["audit"]["pooled"]["explanations"][-1]["cycle"]
    assert f"{quality['value']:.3f} {quality['low']:.3f}–{quality['high']:.3f} n" in text or (
        f"{quality['value']:.3f} {quality['low']:.3f}–{quality['high']:.3f} met" in text
    )
    assert "too few patients on one side" in text


@WHO
def test_no_word_of_the_program_is_left(who: str, shown: dict[str, Reader]) -> None:
    found = [pattern for pattern in WORDS_OF_PROGRAMS if re.search(pattern, shown[who].text)]
    assert not found


@WHO
def test_headings_pictures_and_links_are_in_order(
    who: str, shown: dict[str, Reader], pages: dict[str, Path]
) -> None:
    reader = shown[who]
    assert reader.levels[0] == 1 and reader.levels.count(1) == 1
    steps = zip(reader.levels, reader.levels[1:], strict=False)
    assert all(after - before <= 1 for before, after in steps)
    assert reader.alts and all(reader.alts)
    assert all(link.startswith(("data:", "#")) for link in reader.links)
    inside = {link[1:] for link in reader.links if link.startswith("#")}
    assert inside <= reader.anchors and len(inside) > 10
    content = pages[who].read_text(encoding="utf-8")
    assert "<script" not in content and "default-src 'none'" in content
    assert len(content.encode()) < MOST_BYTES


@WHO
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_sticks_out_at_the_side(
    who: str, width: int, pages: dict[str, Path], tmp_path: Path
) -> None:
    content, window = width_of(pages[who], tmp_path, width)
    assert window == width and content <= window


def test_a_page_that_sticks_out_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "wide.html"
    page.write_text("<!doctype html><body><p style='width:900px'>x</p></body>", encoding="utf-8")
    content, window = width_of(page, tmp_path, 390)
    assert content > window


def test_a_complaint_of_the_console_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<!doctype html><script>console.error('no')</script>", encoding="utf-8")
    assert complaints(browse(page, "--dump-dom")[1])


@WHO
@pytest.mark.parametrize("size", [(390, 844), (1200, 1600)])
def test_the_first_screen_is_drawn(
    who: str, size: tuple[int, int], pages: dict[str, Path], tmp_path: Path
) -> None:
    shot = tmp_path / "screen.png"
    browse(pages[who], f"--screenshot={shot}", size=size)
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert pixels.shape[:2] == size[::-1]
    ink = (pixels.sum(axis=2) < 384).mean()
    assert 0.01 < ink < 0.5
    reddish = (pixels[..., 0] - pixels[..., 1] > 80).mean()
    assert (reddish > 0.002) == (who == "site")


def test_every_printed_page_of_a_site_says_that_it_must_stay(
    pages: dict[str, Path], tmp_path: Path
) -> None:
    printed = {}
    for who, page in pages.items():
        browse(page, f"--print-to-pdf={tmp_path / who}")
        printed[who] = fills_of_pages((tmp_path / who).read_bytes())
    assert len(printed["site"]) > 5 and len(printed["coordinator"]) > 3
    assert all(BANNER_FILL in colours for colours in printed["site"])
    assert not any(BANNER_FILL in colours for colours in printed["coordinator"])


def test_only_the_sites_page_is_marked_and_shows_its_images(shown: dict[str, Reader]) -> None:
    assert shown["site"].text.startswith(STAYS) or STAYS in shown["site"].text[:300]
    assert STAYS not in shown["coordinator"].text
    assert f"north{OWN}" in shown["site"].text and OWN not in shown["coordinator"].text
    drawn = [sum("same image" in (alt or "") for alt in shown[who].alts) for who in shown]
    assert drawn == [0, 2]
