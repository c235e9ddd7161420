"""Small inputs for the simulation's tests: a tiny study, a folder of images, a toy app."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

TINY_MODEL = {
    "widths": [16, 32],
    "depths": [1, 1],
    "groups": 2,
    "norm_channels": 8,
    "latent_channels": 4,
}


def tiny_study(**more: Any) -> dict[str, Any]:
    """Two phantom hospitals, a small model, two rounds of two steps."""
    content: dict[str, Any] = {
        "run": {
            "name": "tiny",
            "rounds": 2,
            "ontology": {
                "classes": ["none", "infiltrate", "effusion", "nodule", "cardiomegaly"],
                "attributes": {"view": ["AP", "PA"]},
            },
            "image": {"size_px": 32},
            "model": TINY_MODEL,
            "learning": {"training": {"batch_size": 8, "steps_per_round": 2}},
            "statistics": {"bootstrap_replicates": 20},
        },
        "source": {
            "kind": "phantoms",
            "phantoms": {
                "seed": 3,
                "size_px": 32,
                "hospitals": [{"name": "north", "patients": 60}, {"name": "south", "patients": 45}],
            },
        },
        "hospitals": {"kind": "column", "column": "hospital"},
        "split": {"kind": "column", "column": "split"},
        "min_cell_count": 1,
        "explained_per_class": 1,
        "baselines": {"kinds": ["nearest_neighbour"]},
    }
    return {**content, **more}


def write_study(folder: Path, **more: Any) -> Path:
    """Write `tiny_study` and return its path."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tiny_study(**more)), encoding="utf-8")
    return path


def write_images(folder: Path, patients: int = 40, seed: int = 0) -> Path:
    """Write `labels.csv` and small images: two classes, two scanners, two images a patient."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for patient in range(patients):
        label = "ill" if rng.random() < 0.5 else "healthy"
        for number in range(2):
            name = f"p{patient}_{number}.png"
            pixels = rng.integers(0, 120, (32, 32)) + (100 if label == "ill" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
            view = "AP" if rng.random() < 0.5 else "PA"
            rows.append([name, label, f"p{patient}", "ab"[patient % 2], view])
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "patient_id", "scanner", "view"])
        writer.writerows(rows)
    return folder


def folder_study(**more: Any) -> dict[str, Any]:
    """A study of `write_images`, two hospitals by scanner."""
    content = tiny_study(
        source={"kind": "folder", "data": {"root": ".", "manifest": "labels.csv"}},
        hospitals={"kind": "column", "column": "scanner"},
        split={"kind": "fractions", "val": 0.15, "test": 0.2},
        min_images=4,
    )
    run = {
        **content["run"],
        "ontology": {"classes": ["healthy", "ill"], "attributes": {"view": ["AP", "PA"]}},
    }
    return {**content, "run": run, **more}


TOY_PROJECT = """\
[project]
name = "toy"
version = "0.1.0"
description = "An app for tests of the engine."
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "consortium"
fab-include = ["toy/*.py"]
[tool.flwr.app.components]
serverapp = "toy.server:app"
clientapp = "toy.client:app"
[tool.flwr.app.config]
server-config = ""
sites-folder = ""
resume = false
"""

TOY_SERVER = """\
import json, time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    folder = Path(str(context.run_config["server-config"])).parent
    while len(list(grid.get_node_ids())) < 2:
        time.sleep(0.1)
    for number in range(1, 4):
        progress = {"phase": "train", "round": number, "rounds": 3, "step": number, "steps": 3}
        (folder / "progress.json").write_text(json.dumps(progress))
        content = RecordDict({"c": ConfigRecord({"round": number})})
        nodes = sorted(grid.get_node_ids())
        messages = [Message(content, dst_node_id=n, message_type="query.x") for n in nodes]
        replies = list(grid.send_and_receive(messages, timeout=120 if number == 1 else 8))
        sites = {str(n): "no-reply" for n in nodes}
        for reply in replies:
            name = str(reply.metadata.src_node_id)
            sites[name] = f"error:{reply.error.code}" if reply.has_error() else "ok"
        with (folder / "rounds.jsonl").open("a") as file:
            file.write(json.dumps({"phase": "train", "round": number, "sites": sites}) + "\\n")
    (folder / "server.json").write_text("{}")
"""

TOY_CLIENT = """\
import os, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
@app.query("x")
def x(message, context):
    mode = os.environ.get("TOY_MODE", "")
    if context.node_config["partition-id"] == 1 and message.content["c"]["round"] == 2:
        if mode == "crash":
            os._exit(3)
        if mode == "hang":
            time.sleep(1000)
    record = ConfigRecord({"folder": os.getcwd()})
    return Message(RecordDict({"c": record}), reply_to=message)
"""


def write_toy_app(folder: Path) -> Path:
    """Write a Flower app that is no part of this project and return its folder."""
    app = folder / "toy"
    (app / "toy").mkdir(parents=True)
    (app / "pyproject.toml").write_text(TOY_PROJECT, encoding="utf-8")
    (app / "toy" / "__init__.py").write_text("", encoding="utf-8")
    (app / "toy" / "server.py").write_text(TOY_SERVER, encoding="utf-8")
    (app / "toy" / "client.py").write_text(TOY_CLIENT, encoding="utf-8")
    return app
