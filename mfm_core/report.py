"""Writes a run's two files for readers: results.json for programs, report.html for people.

The page is one file: styles and pictures are inside, there is no script and nothing is fetched,
so it opens on a hospital's machine without a network, prints and reads on a phone. Every name
that came from a configuration is escaped. The keys of results.json are explained in RESULTS.md.
What crosses the hospital's boundary: nothing here; a report with pictures of real patients must
stay where the images are, one made by the coordinator holds released figures only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mfm_core.gallery import Pictures
from mfm_core.page_template import draw_page
from mfm_core.report_page import Local, page_of
from mfm_core.whole_file import write_whole

RESULTS, REPORT = "results.json", "report.html"


def write_report(folder: Path, results: Mapping[str, Any], pictures: Pictures) -> Path:
    """Write report.html and results.json into a run's folder; return the path of the page.

    results.json comes last and whole: where it lies, the run is finished.

    Args:
        folder: the run folder; settings are shown from its run.yaml when `results` has none.
        results: as RESULTS.md describes; a missing key leaves its section out with a sentence.
        pictures: what to draw; `Pictures()` where there are no images.
    """
    clean = finite(results)
    settings = clean.get("settings") or _read_settings(folder / "run.yaml")
    path = write_whole(folder / REPORT, render_report(clean, pictures, settings).encode())
    write_results(folder, clean)
    return path


def render_report(
    results: Mapping[str, Any],
    pictures: Pictures,
    settings: Mapping[str, Any],
    local: Local | None = None,
) -> str:
    """Return the page.

    Args:
        results: as RESULTS.md describes; empty on a hospital's page that knows no others.
        pictures: what to draw.
        settings: the agreed run, nested; may be empty.
        local: what a hospital adds to its own page, which then says that it must stay there.
    """
    page = page_of(finite(results), pictures, settings, local)
    return draw_page("report.html.j2", **page)


def write_results(folder: Path, results: Mapping[str, Any]) -> Path:
    """Write results.json: keys sorted, floats of six digits, null where a number is undefined."""
    text = json.dumps(finite(results), indent=2, sort_keys=True, ensure_ascii=False)
    return write_whole(folder / RESULTS, f"{text}\n".encode())


def finite(value: Any) -> Any:
    """Return plain JSON values: floats rounded to six digits, None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def _read_settings(path: Path) -> dict[str, Any]:
    """Return the agreed run as it lies in the folder, or nothing."""
    if not path.is_file():
        return {}
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
