"""A hospital's own page: the run's figures, its own audit and its own images.

Needs the model and the atlas that a run left in the state folder, and no network. The coordinator's
results.json (or server.json) adds the figures of all hospitals.
What crosses the hospital's boundary: nothing. The page shows patients and says on its first lines
and on every printed page that it must not leave.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.audit import Opened, Request, audit_opened, open_audit, own_cells
from client.config import load_site_config, load_site_run
from mfm_core.atlas import Atlas
from mfm_core.config import canonical_hash
from mfm_core.contrasts import here_or_elsewhere
from mfm_core.errors import ConfigError, DataError
from mfm_core.evaluation import metric_sum, metrics_from
from mfm_core.gallery import take_pictures
from mfm_core.report import finite, render_report
from mfm_core.report_page import Local
from mfm_core.whole_file import write_whole

PAGE = "report-stays-here.html"
REPLICATES = 1000
STEPS = 3


@dataclass(frozen=True)
class Wanted:
    """What a page is made of.

    Attributes:
        config: the site's settings, site.yaml.
        results: the coordinator's results.json or server.json; None leaves all others out.
        model: a model file; None takes the one a run left in the state folder.
        atlas: an atlas file of the same run; None likewise.
        out: folder of the page and its audit.json; None is "report" in the state folder.
    """

    config: Path
    results: Path | None = None
    model: Path | None = None
    atlas: Path | None = None
    out: Path | None = None


def write_page(wanted: Wanted, show: Callable[[int, int], None] | None = None) -> Path:
    """Write the page and audit.json beside it; return the path of the page.

    Args:
        wanted: what the page is made of.
        show: is told how many steps are done, and of how many.

    Raises:
        ConfigError: the settings or the coordinator's results cannot be used.
        CheckpointError: there is no model or atlas yet, or they do not belong together.
        DataError: there is no labelled test image.
    """
    tell = show or (lambda done, steps: None)
    tell(0, STEPS)
    results = read_results(wanted.results)
    folder = wanted.out or load_site_config(wanted.config).state_folder / "report"
    request = Request(wanted.config, (), wanted.model, wanted.atlas, folder)
    opened = open_audit(request)
    refuse_other_run(opened.atlas, results, wanted.results)
    audited = audit_opened(opened, request)
    tell(1, STEPS)
    pictures = take_pictures(opened.model, _atlas_with_site(opened), opened.images, opened.test)
    tell(2, STEPS)
    local = Local(opened.config.name, own_metrics(opened), audited.content)
    settings = results.get("settings") or _settings(opened)
    page = render_report(results, pictures, settings, local)
    path = write_whole(folder / PAGE, page.encode())
    tell(STEPS, STEPS)
    return path


def read_results(path: Path | None) -> dict[str, Any]:
    """Return the coordinator's results, or nothing without a file.

    Raises:
        ConfigError: the file cannot be read or holds no results.
    """
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); check the path"
        raise ConfigError(str(path), [reason]) from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or "pooled" not in content:
        expected = "expected the results.json or server.json of a finished run"
        raise ConfigError(str(path), [f"holds no figures of a run; {expected}"])
    return content


def refuse_other_run(atlas: Atlas, results: dict[str, Any], path: Path | None) -> None:
    """Refuse results of another run than the site's model.

    Raises:
        ConfigError: the agreed settings differ.
    """
    found = str(results.get("config_hash") or "")
    if found and found != atlas.config_hash:
        reason = f"is of a run {found[:12]}, the model here is of {atlas.config_hash[:12]}"
        raise ConfigError(str(path), [f"{reason}; ask the coordinator for the file of this run"])


def own_metrics(opened: Opened) -> dict[str, Any]:
    """Return the site's test figures, as RESULTS.md describes metrics."""
    labels, _, patients = opened.columns
    seen = opened.seen
    total = metric_sum(seen.logits, labels, seen.ssim, patients, REPLICATES, seed=0)
    return dict(finite(metrics_from(total, opened.ontology.classes).to_dict()))


def _atlas_with_site(opened: Opened) -> Atlas:
    """Return the atlas with "here" against "elsewhere" where the site's sums are part of it."""
    try:
        return here_or_elsewhere(opened.atlas, own_cells(opened))
    except (ConfigError, DataError):
        return opened.atlas


def _settings(opened: Opened) -> dict[str, Any]:
    """Return the agreed run where it lies at the site and is the one of the model."""
    if opened.config.run is None or not opened.config.run.is_file():
        return {}
    run = load_site_run(opened.config)
    same = canonical_hash(run) == opened.atlas.config_hash
    return run.model_dump(mode="json") if same else {}
