"""A small table for tests: two kinds of split of a folder of images, and finished cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mfm_core.autoencoder import build_autoencoder
from mfm_core.checkpoint import save_model
from mfm_core.config import canonical_hash
from simulation.hospitals import prepare
from simulation.table import TableCell, TablePlan, load_table
from tests.simulation.samples import folder_study, write_images


def table_content(**more: Any) -> dict[str, Any]:
    """Two folds by patient and one random split by image, over two hospitals drawn by label."""
    shared = folder_study(hospitals={"kind": "dirichlet", "sites": 2, "alpha": 50.0})
    shared["run"] = {key: value for key, value in shared["run"].items() if key != "name"}
    shared["baselines"] = {"pooled_steps": "all_sites"}
    del shared["split"]
    folds = {"kind": "folds", "folds": 2, "test_fold": "$fold", "val": 0.2}
    by_image = {
        "source": {"data": {"columns": {"patient": "file"}}},
        "split": {"kind": "fractions", "val": 0.1, "test": 0.2},
    }
    table = {
        "name": "small",
        "replicates": 20,
        "shared": shared,
        "splits": {
            "grouped": {"folds": 2, "study": {"split": folds}},
            "random": {"leaky": "images are divided", "study": by_image},
        },
    }
    return {**table, **more}


def write_table_file(folder: Path, **more: Any) -> Path:
    """Write `table_content` and return its path."""
    path = folder / "table.yaml"
    path.write_text(yaml.safe_dump({"table": table_content(**more)}), encoding="utf-8")
    return path


def small_table(folder: Path, **more: Any) -> TablePlan:
    """Write images below folder/data and return the plan of `table_content`."""
    write_images(folder / "data", patients=60)
    return load_table(write_table_file(folder, **more))


def prepare_cell(cell: TableCell, folder: Path, *, federated: bool = False) -> Path:
    """Prepare a cell below folder/runs/small; if asked, with what a finished federation leaves."""
    place = folder / "runs" / "small" / cell.name
    prepare(cell.study, folder / "data", place)
    if federated:
        run = cell.study.run
        model = build_autoencoder(run.model, run.image, len(run.ontology.classes), run.seed)
        save_model(place / "final.safetensors", model, canonical_hash(run), run.ontology)
        (place / "server.json").write_text("{}", encoding="utf-8")
    return place
