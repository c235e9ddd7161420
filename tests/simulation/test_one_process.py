"""A federation in this process: the engine's bits, resumed where it stopped, loud at a failure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from flwr.app import Message

from mfm_core.errors import TooFewSites
from simulation import one_process
from simulation.config import StudyConfig
from simulation.hospitals import prepare
from simulation.one_process import Node, federate_here
from simulation.progress import SilentDisplay
from simulation.study import Order, run_study
from tests.simulation.samples import folder_study, write_images

PLAIN = {"statistics": {"bootstrap_replicates": 0}, "audit": {"enabled": False}}


def plain_study() -> StudyConfig:
    content = folder_study(baselines={"kinds": []})
    return StudyConfig.model_validate({**content, "run": {**content["run"], **PLAIN}})


def prepared(folder: Path, data: Path) -> Path:
    prepare(plain_study(), data, folder)
    return folder


def hash_of(folder: Path) -> str:
    return str(json.loads((folder / "server.json").read_text())["final_hash"])


def test_a_stopped_federation_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, real = write_images(tmp_path / "data"), one_process.hospital_node
    federate_here(prepared(tmp_path / "whole", data), 2, resume=False)

    def failing(sites: Path, index: int, many: int) -> Node:
        node = real(sites, index, many)

        def answer(message: Message) -> Message | None:
            if message.metadata.group_id == "2":
                raise KeyboardInterrupt
            return node(message)

        return answer

    folder = prepared(tmp_path / "stopped", data)
    monkeypatch.setattr(one_process, "hospital_node", failing)
    with pytest.raises(KeyboardInterrupt):
        federate_here(folder, 2, resume=False)
    monkeypatch.undo()
    assert not (folder / "server.json").exists()
    federate_here(folder, 2, resume=True)
    assert hash_of(folder) == hash_of(tmp_path / "whole")


def test_a_hospital_that_cannot_work_ends_the_run(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data")
    folder = prepared(tmp_path / "run", data)
    path = folder / "sites" / "1.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["limits"]["accepted_runs"] = ["0" * 64]
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(TooFewSites):
        federate_here(folder, 2, resume=False)
    assert not (folder / "server.json").exists()


@pytest.mark.slow
def test_it_gives_the_bits_of_flowers_engine(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data")
    hashes = [
        run_study(
            Order(plain_study(), data, tmp_path / name, one_process=name == "here"), SilentDisplay()
        )["final_hash"]
        for name in ("here", "engine")
    ]
    assert hashes[0] == hashes[1]
