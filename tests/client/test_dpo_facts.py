"""Every fact of the evidence pack is what code and ledgers do, not what somebody wrote down."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from client.dpo_facts import (
    LEAK_AUDIT,
    accounting_of,
    cohort_of,
    flow_of,
    leak_audit_of,
    left_of,
    splits_of,
)
from client.ledger import read_outbox
from client.privacy_ledger import Spend
from client.site import open_site
from mfm_core.config import dump_yaml
from mfm_core.dataset import ImageSet
from server.app import run_federation
from strategies import chain
from strategies.config import RunConfig
from strategies.plan import KINDS
from strategies.privacy import label_of
from tests.client.private_hospital import PRIVATE_RUN
from tests.server.hospitals import RUN, consortium, lay_out, make_grid, site_config
from tests.strategies.memory_grid import Node


def watched(used: dict[str, set[str]]) -> Any:
    """Return a fault that notes which splits a site looks into per kind of message."""

    def wrap(node: Node) -> Node:
        def answer(message: Any) -> Any:
            used["now"] = {message.metadata.message_type.removeprefix("query.")}
            return node(message)

        return answer

    return wrap


@pytest.mark.parametrize("run", [RUN, PRIVATE_RUN], ids=["plain", "private"])
def test_a_kind_uses_the_splits_that_the_page_names(
    run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, used = lay_out(tmp_path, run=run), defaultdict[str, set[str]](set)
    select = ImageSet.select

    def noted(images: ImageSet, split: str) -> Any:
        for kind in used["now"]:
            used[kind].add(split)
        return select(images, split)

    monkeypatch.setattr(ImageSet, "select", noted)
    grid = make_grid(folder, wrap={0: watched(used), 1: watched(used)})
    run_federation(grid, consortium(folder, "out"), resume=False)
    shown = {row["kind"] for row in flow_of(open_site(folder / "sites" / "0.yaml"))["exchanges"]}
    assert shown == {*used} - {"now"} | {"atlas", "hello", "receipts"}
    for kind in KINDS:
        if kind in shown:
            assert used[kind] == set(splits_of(run, kind)), kind
    _compare_with_ledger(folder / "sites" / "0.yaml", run)


def _compare_with_ledger(site_file: Path, run: RunConfig) -> None:
    """Hold the promised fields against what has really left."""
    read = read_outbox(site_file)
    promised = {row["kind"]: row for row in flow_of(open_site(site_file))["exchanges"]}
    for line in read.lines:
        arrays = {array["name"]: array["shape"] for array in line["arrays"]}
        row = promised[line["kind"]]
        assert arrays == {array["name"]: array["shape"] for array in row["arrays"]}
        assert row["label"]["level"] == line["protection"]["level"]
        assert row["label"] == label_of(run, line["kind"], 1).to_dict()
    found = left_of(read)
    assert found["records"] == len(read.lines) and found["bytes"] == read.bytes
    assert sum(row["records"] for row in found["runs"]) == found["records"]


def test_what_private_training_cost_stands_there_run_by_run(tmp_path: Path) -> None:
    site = open_site(lay_out(tmp_path, run=PRIVATE_RUN) / "sites" / "0.yaml")
    assert accounting_of(site)["runs"] == []
    for number in (1, 2):
        site.privacy.spend(Spend("a" * 64, number, "patient", 800, 1.0, 1.0, 0.04, 40))
    found = accounting_of(site)
    assert found["epsilon"] == found["runs"][0]["epsilon"] > 0 and found["runs"][0]["steps"] == 80
    assert found["label"]["level"] == "formal" and found["problems"] == 0
    path = site.config.state_folder / "privacy.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"steps": 40', '"steps": 4'))
    assert accounting_of(site)["problems"] > 0


def test_the_cohort_is_counted_and_a_patient_on_both_sides_shows(tmp_path: Path) -> None:
    folder = lay_out(tmp_path)
    counts = cohort_of(open_site(folder / "sites" / "0.yaml"))["counts"]
    assert [(row["split"], row["images"], row["patients"]) for row in counts] == [
        ("train", 24, 12),
        ("val", 8, 4),
        ("test", 16, 8),
    ]
    assert all(row["also_in_another"] == 0 for row in counts)


def test_images_that_cannot_be_opened_are_counted_as_not_done(tmp_path: Path) -> None:
    folder = lay_out(tmp_path)
    (folder / "images" / "north" / "0.png").write_bytes(b"no image")
    assert cohort_of(open_site(folder / "sites" / "0.yaml"))["counts"] is None


@pytest.mark.parametrize(
    ("content", "state", "attacks"),
    [
        (None, "not done", 0),
        ('{"attacks": []}', "not done", 0),
        ("{", "damaged", 0),
        ('{"attacks": [{"name": "LiRA"}]}', "damaged", 0),
        (
            json.dumps(
                {
                    "final_hash": None,
                    "attacks": [
                        {
                            **{"name": "LiRA", "auc": 0.51, "auc_interval": [0.4, 0.6]},
                            **{"tpr_at_1_fpr": 0.01, "n": 40, "date": "2026-11-20"},
                            "best_image": "Anna.dcm",
                        }
                    ],
                }
            ),
            "done",
            1,
        ),
    ],
)
def test_a_leak_audit_is_read_for_its_figures_only(
    content: str | None, state: str, attacks: int, tmp_path: Path
) -> None:
    config = site_config("north").model_copy(update={"state_folder": tmp_path})
    if content is not None:
        (tmp_path / LEAK_AUDIT).write_text(content, encoding="utf-8")
    found = leak_audit_of(config)
    assert found["state"] == state and len(found["attacks"]) == attacks
    assert "Anna" not in json.dumps(found)


def test_a_refused_kind_says_so(tmp_path: Path) -> None:
    folder = lay_out(tmp_path)
    kinds = [kind for kind in KINDS if kind != "audit"]
    dump_yaml(site_config("north", allowed_kinds=kinds), folder / "sites" / "0.yaml")
    site = open_site(folder / "sites" / "0.yaml")
    answered = {row["kind"]: row["answered"] for row in flow_of(site)["exchanges"]}
    assert answered.pop("audit") is False and all(answered.values())


def test_an_empty_ledger_has_nothing_to_list(tmp_path: Path) -> None:
    folder = lay_out(tmp_path)
    found = left_of(read_outbox(folder / "sites" / "0.yaml"))
    assert found["records"] == 0 and found["runs"] == []
    assert chain.verify(folder / "state" / "north" / "outbox.jsonl") == ()
