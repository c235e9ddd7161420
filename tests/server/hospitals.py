"""Two small hospitals of synthetic PNGs and a tiny agreed run, for tests of whole runs."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, RecordDict
from PIL import Image

from client.app import app as client_app
from client.config import LimitsConfig, SiteConfig
from client.site import close_sites
from mfm_core.config import DataConfig, dump_yaml
from server.config import ConsortiumConfig, load_consortium
from strategies.config import RunConfig
from tests.strategies.memory_grid import MemoryGrid, Node

SIDE = 32
RUN = RunConfig.model_validate(
    {
        "name": "tiny",
        "seed": 5,
        "rounds": 2,
        "ontology": {"classes": ["left", "right"], "attributes": {"view": ["AP", "PA"]}},
        "image": {"size_px": SIDE},
        "model": {
            "widths": [16, 32],
            "depths": [1, 1],
            "groups": 2,
            "norm_channels": 8,
            "latent_channels": 4,
        },
        "learning": {"training": {"batch_size": 8, "steps_per_round": 3}},
        "statistics": {"bootstrap_replicates": 20},
        "mitigation": {"attribute": "view", "rounds": 2, "steps_per_round": 3},
        "audit": {"explained_per_class": 0, "min_group": 1},
    }
)


def write_hospital(folder: Path, seed: int, images: int = 48) -> None:
    """Write PNGs with a bright patch left or right, and manifest.csv; two images a patient."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows = []
    for index in range(images):
        label = "left" if index % 4 < 2 else "right"
        pixels = generator.integers(20, 80, (SIDE, SIDE))
        column = 4 if label == "left" else 20
        pixels[10:20, column : column + 8] += 120
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
        split = ("train", "train", "train", "val", "test", "test")[(index // 4) % 6]
        rows.append((f"{index}.png", label, f"p{index // 2}", split, "AP" if index % 3 else "PA"))
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "label", "patient_id", "split", "view"))
        writer.writerows(rows)


def site_config(name: str, **limits: object) -> SiteConfig:
    allowed = {"accepted_runs": ["any"], "min_cell_count": 1, **limits}
    data = DataConfig.model_validate(
        {"root": f"../images/{name}", "manifest": f"../images/{name}/manifest.csv",
         "columns": {"split": "split"}}
    )  # fmt: skip
    return SiteConfig(
        name=name,
        data=data,
        limits=LimitsConfig.model_validate(allowed),
        state_folder=Path(f"../state/{name}"),
        run=Path("../run.yaml"),
    )


def lay_out(
    folder: Path, names: tuple[str, ...] = ("north", "south"), run: RunConfig = RUN
) -> Path:
    """Write images, site files and run.yaml below `folder`; return it."""
    close_sites()
    (folder / "sites").mkdir(parents=True)
    dump_yaml(run, folder / "run.yaml")
    for index, name in enumerate(names):
        write_hospital(folder / "images" / name, seed=index)
        dump_yaml(site_config(name), folder / "sites" / f"{index}.yaml")
    return folder


def consortium(folder: Path, output: str, **settings: object) -> ConsortiumConfig:
    """Write and load a consortium.yaml for quick tests."""
    content = {
        "simulated_sites": 2,
        "output": output,
        "run": "run.yaml",
        "deadline_s": 120.0,
        "grace_s": 60.0,
        "node_wait_s": 0.2,
        "poll_s": 0.01,
        **settings,
    }
    path = folder / f"{output}.yaml"
    dump_yaml(ConsortiumConfig.model_validate(content), path)
    return load_consortium(path)


def hospital(folder: Path, index: int) -> Node:
    """Return a node that runs the real ClientApp on one site's file."""

    def answer(message: Message) -> Message:
        context = Context(
            run_id=1,
            node_id=message.metadata.dst_node_id,
            node_config={"partition-id": index, "num-partitions": 2},
            state=RecordDict(),
            run_config={"sites-folder": str(folder / "sites")},
        )
        return client_app(message, context)

    return answer


def make_grid(
    folder: Path, sites: int = 2, wrap: dict[int, Callable[[Node], Node]] | None = None
) -> MemoryGrid:
    """Return a grid of real hospitals; `wrap` puts a fault around some of them."""
    nodes = {100 + index: hospital(folder, index) for index in range(sites)}
    for index, fault in (wrap or {}).items():
        nodes[100 + index] = fault(nodes[100 + index])
    return MemoryGrid(nodes)


class Killed(Exception):
    """Stands for kill -9 of the server: nothing after it runs."""


def dying_after(after: int) -> Callable[[Node], Node]:
    """Return a fault for several nodes: the server dies at the first of their replies beyond."""
    seen = 0

    def dying(node: Node) -> Node:
        def answer(message: Message) -> Message | None:
            nonlocal seen
            seen += 1
            if seen > after:
                raise Killed
            return node(message)

        return answer

    return dying
