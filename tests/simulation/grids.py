"""A small grid for the tests: phantoms at 32 px, a cell with a coupling and one without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.simulation.samples import TINY_MODEL


def tiny_hospital(name: str, phi: Any) -> dict[str, Any]:
    """A hospital of nodules and healthy chests whose view goes with the nodule by phi."""
    return {
        "name": name,
        "patients": 60,
        "ap_share": 0.5,
        "class_probabilities": {"none": 0.5, "nodule": 0.5},
        "couplings": [{"attribute": "view", "value": "AP", "finding": "nodule", "phi": phi}],
    }


def tiny_grid(**more: Any) -> dict[str, Any]:
    """Content of a grid file: two seeds, two couplings, one cell."""
    hospitals = [tiny_hospital("north", "$phi"), tiny_hospital("south", "$phi")]
    cell: dict[str, Any] = {
        "source": {
            "kind": "phantoms",
            "phantoms": {
                "seed": "$seed",
                "size_px": 32,
                "hospitals": [*hospitals, tiny_hospital("mirror", "-$phi")],
            },
        },
        "hospitals": {"kind": "column", "column": "hospital"},
        "held_out": ["mirror"],
        "split": {"kind": "fractions", "val": 0.1, "test": 0.3},
    }
    shared = {
        "run": {
            "seed": "$seed",
            "rounds": 2,
            "ontology": {"classes": ["none", "nodule"], "attributes": {"view": ["AP", "PA"]}},
            "image": {"size_px": 32},
            "model": TINY_MODEL,
            "learning": {"training": {"batch_size": 8, "steps_per_round": 2}},
            "statistics": {"bootstrap_replicates": 20},
            "audit": {"enabled": False},
        },
        "min_cell_count": 1,
        "explained_per_class": 1,
        "baselines": {"kinds": []},
    }
    grid = {
        "name": "small",
        "seeds": [0, 1],
        "couplings": [0, 0.6],
        "methods": ["erm", "leace"],
        "attribute": "view",
        "head_rounds": 1,
        "head_steps": 5,
        "replicates": 20,
        "shared": shared,
        "cells": {"phantoms": cell},
    }
    return {"grid": {**grid, **more}}


def write_grid(folder: Path, **more: Any) -> Path:
    """Write `tiny_grid` and return its path."""
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(tiny_grid(**more), sort_keys=False), encoding="utf-8")
    return path
