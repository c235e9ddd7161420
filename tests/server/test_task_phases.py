"""A whole multi-task pre-training in memory: hospitals with different data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.site import close_sites
from mfm_core.checkpoint import load_model
from mfm_core.config import load_yaml
from mfm_core.tasks import slices_of
from server.app import run_federation
from server.run_files import read_lines
from strategies import chain
from strategies.config import RunConfig
from strategies.plan import plan_of
from tests.server.hospitals import Killed, consortium, dying_after, make_grid
from tests.server.task_hospitals import HELD, lay_out_tasks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    run_federation(make_grid(folder), consortium(folder, "out"), resume=False)
    return dict(json.loads((folder / "out" / "server.json").read_text()))


def test_a_pretraining_ends_complete_with_figures_per_task(
    folder: Path, results: dict[str, Any]
) -> None:
    assert results["status"] == "complete" and results["pretraining"]
    found = {row["task"]: row for row in results["tasks"]}
    assert set(found) == {"chest/binary", "chest/ordinal", "skin/multiclass", "skin/multilabel"}
    assert found["chest/binary"]["questions"][0]["ssim"]["n"] == 4 + 3 + 4
    assert found["chest/ordinal"]["macro_auc"] is not None
    south = {row["task"]: row["macro_auc"] for row in results["per_site"]["south"]}
    assert south["skin/multiclass"] is None and south["chest/ordinal"] is not None
    model, metadata = load_model(folder / "out" / "final.safetensors")
    assert model.head.out_features == 1 + 3 + 3 + 4
    assert "skin/multilabel" in metadata["ontology"]
    assert not (folder / "out" / "atlas.safetensors").exists()


def test_the_plan_is_short_and_every_reply_is_in_the_sites_ledgers(
    folder: Path, results: dict[str, Any]
) -> None:
    run = load_yaml(folder / "run.yaml", RunConfig)
    assert [step.kind for step in plan_of(run)] == ["patch_moments", "train", "train", "evaluate"]
    lines = read_lines(folder / "out")
    for name in HELD:
        known = [line["ledgers"][name] for line in lines]
        assert chain.verify(folder / "state" / name / "outbox.jsonl", known) == ()
    training = [line for line in lines if line["phase"] == "train"]
    assert training[0]["of_site"]["south"]["task_images"]["skin/multilabel"] == 0
    assert training[0]["of_site"]["north"]["task_images"]["skin/multilabel"] == 12
    assert training[0]["val"]["tasks"]["chest/binary"] == pytest.approx(np.log(2), abs=1e-6)


def test_a_site_without_a_task_does_not_move_its_head(folder: Path, tmp_path: Path) -> None:
    """With the skin at nobody, its heads end as they began: zeros; at the north alone they move."""
    only = {"north": ("chest",), "south": ("chest",)}
    own = lay_out_tasks(tmp_path / "one", only, rounds=1)
    (own / "run.yaml").write_text((folder / "run.yaml").read_text())
    run_federation(make_grid(own), consortium(own, "out"), resume=False)
    nobody, _ = load_model(own / "out" / "final.safetensors")
    everyone, _ = load_model(folder / "out" / "final.safetensors")
    parts = slices_of(load_yaml(folder / "run.yaml", RunConfig).ontology.tasks)
    for name, part in parts.items():
        assert everyone.head.weight[part].any()
        assert bool(nobody.head.weight[part].any()) == name.startswith("chest/")


def test_a_killed_pretraining_resumes_to_the_same_hash(
    folder: Path, results: dict[str, Any], tmp_path: Path
) -> None:
    close_sites()
    fault = dying_after(5)
    with pytest.raises(Killed):
        run_federation(
            make_grid(folder, wrap={0: fault, 1: fault}), consortium(folder, "again"), resume=False
        )
    close_sites()
    run_federation(make_grid(folder), consortium(folder, "again"), resume=True)
    again = json.loads((folder / "again" / "server.json").read_text())
    assert again["final_hash"] == results["final_hash"]
