"""Hospitals that hold different data sets in the MIMeta layout, for whole runs in memory."""

from __future__ import annotations

from pathlib import Path

from client.config import LimitsConfig, SiteConfig
from client.site import close_sites
from mfm_core.config import DataConfig, dump_yaml
from mfm_core.mimeta_images import read_all, task_names
from strategies.config import RunConfig
from tests.mfm_core.mimeta_world import write_set
from tests.mfm_core.task_world import IMAGE, LEARNING, MODEL

HELD = {"north": ("chest", "skin"), "south": ("chest",)}
"""Which data sets each hospital has; only the north has the skin's tasks."""


def run_on(data: Path, **more: object) -> RunConfig:
    """The run on every task below a folder."""
    tasks = {name: task for found in read_all(data) for name, task in task_names(found).items()}
    content = {
        "name": "tasks",
        "rounds": 2,
        "ontology": {"tasks": tasks},
        "image": IMAGE,
        "model": MODEL,
        "learning": LEARNING,
        "statistics": {"bootstrap_replicates": 20},
        **more,
    }
    return RunConfig.model_validate(content)


def lay_out_tasks(folder: Path, held: dict[str, tuple[str, ...]] = HELD, **more: object) -> Path:
    """Write data sets, site files and run.yaml below `folder`; return it."""
    close_sites()
    for number, name in enumerate(held):
        write_set(folder / "data" / name, "chest", kinds=("binary", "ordinal"), seed=number)
        if "skin" in held[name]:
            kinds = ("multiclass", "multilabel")
            write_set(folder / "data" / name, "skin", kinds=kinds, channels=3, count=18)
    dump_yaml(run_on(folder / "data" / "north", **more), folder / "run.yaml")
    (folder / "sites").mkdir()
    for number, name in enumerate(held):
        site = SiteConfig(
            name=name,
            data=DataConfig(root=Path(f"../data/{name}"), mimeta=held[name]),
            limits=LimitsConfig(accepted_runs=("any",), min_cell_count=1),
            state_folder=Path(f"../state/{name}"),
            run=Path("../run.yaml"),
        )
        dump_yaml(site, folder / "sites" / f"{number}.yaml")
    return folder
