"""The coordinator's page: everything a run folder tells, made of released figures only.

Reads results.json or server.json, the model and the atlas of the folder; pictures are decoded class
means and axes of fields. What crosses a hospital's boundary: nothing more than the run released;
the page holds no image of a patient.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from mfm_core.atlas import Atlas, load_atlas
from mfm_core.checkpoint import encoder_hash, load_model
from mfm_core.contrasts import with_sites
from mfm_core.errors import CheckpointError, ConfigError, DataError
from mfm_core.gallery import Pictures, released_pictures
from mfm_core.report import REPORT, RESULTS, render_report
from mfm_core.sums import Sum
from mfm_core.whole_file import write_whole
from server.checkpoints import load_newest
from server.phases import SITE_CELLS

SERVER = "server.json"
NO_MODEL = "the run folder holds no final.safetensors and atlas.safetensors to draw with."


def write_page(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a run and return its path.

    Args:
        folder: the run folder.
        out: the file; None is report.html in the folder.

    Raises:
        ConfigError: the folder holds no results, or damaged ones.
        CheckpointError: model and atlas are damaged or do not belong together.
        OSError: the page cannot be written.
    """
    results = read_results(folder)
    page = render_report(results, draw_released(folder), _settings(folder, results))
    path = out or folder / REPORT
    return write_whole(path, page.encode())


def read_results(folder: Path) -> dict[str, Any]:
    """Return results.json where there is one, else server.json.

    Raises:
        ConfigError: neither is there, or it is damaged.
    """
    path = next((folder / name for name in (RESULTS, SERVER) if (folder / name).is_file()), None)
    if path is None:
        reason = f"neither {RESULTS} nor {SERVER}: not a run folder, or the run has not ended"
        raise ConfigError(str(folder), [f"{reason}; see mfm-server status"])
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"not JSON: {error}"]) from None
    if not isinstance(content, dict):
        raise ConfigError(str(path), ["holds no results; give the folder that the run wrote"])
    return content


def draw_released(folder: Path) -> Pictures:
    """Return the pictures that need no patient; none where model or atlas are missing."""
    model_file, atlas_file = folder / "final.safetensors", folder / "atlas.safetensors"
    if not (model_file.is_file() and atlas_file.is_file()):
        return Pictures(missing=NO_MODEL)
    torch.set_num_threads(1)
    model, _ = load_model(model_file)
    return released_pictures(model, atlas_with_sites(folder, encoder_hash(model)))


def atlas_with_sites(folder: Path, encoder: str) -> Atlas:
    """Return the atlas of a run folder, with the site as a field where its state still knows it.

    Args:
        folder: the run folder.
        encoder: hash of the model's encoder.

    Raises:
        CheckpointError: the atlas is damaged or of another encoder.
    """
    atlas = load_atlas(folder / "atlas.safetensors", encoder)
    try:
        found = load_newest(folder / "state", atlas.config_hash)
        total = found[0].sums.get(SITE_CELLS) if found else None
        return with_sites(atlas, _by_site(total)) if total else atlas
    except (CheckpointError, ConfigError, DataError):
        return atlas


def _by_site(total: Sum) -> dict[str, Sum]:
    """Return the class cells of each site from "<site>/<name>" arrays."""
    cells: dict[str, dict[str, Any]] = {}
    for key, array in total.arrays.items():
        site, _, name = key.rpartition("/")
        cells.setdefault(site, {})[name] = array
    return {site: Sum(arrays) for site, arrays in cells.items()}


def _settings(folder: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Return the agreed run from the results or from run.yaml in the folder, or nothing."""
    if results.get("settings"):
        return dict(results["settings"])
    path = folder / "run.yaml"
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"not YAML: {error}"]) from None
    return content if isinstance(content, dict) else {}
