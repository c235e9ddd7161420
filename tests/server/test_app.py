"""Whole runs in memory: two real hospitals, the real apps, faults, resumption."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import Strategy

from client.site import close_sites
from mfm_core.atlas import load_atlas
from mfm_core.checkpoint import load_model, weight_schema
from mfm_core.config import canonical_hash, dump_yaml
from mfm_core.errors import CheckpointError, ConfigError, DataError, TooFewSites
from mfm_core.head_files import load_heads
from server.app import final_hash, run_federation
from server.phases import Asking, Training, first_state
from server.report import write_page
from server.run_files import read_lines
from server.weights import new_model
from strategies import chain, wire
from strategies.code_hash import code_hash
from strategies.collector import Identity
from strategies.plan import Step
from strategies.strategy import PhasedStrategy, RunState
from tests.server.hospitals import (
    RUN,
    Killed,
    consortium,
    dying_after,
    lay_out,
    make_grid,
    site_config,
)
from tests.strategies.memory_grid import Node
from tests.strategies.records import numbers, with_array


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("federation"))


@pytest.fixture(scope="module")
def unbroken(folder: Path) -> dict[str, Any]:
    run_federation(make_grid(folder), consortium(folder, "unbroken"), resume=False)
    return dict(json.loads((folder / "unbroken" / "server.json").read_text()))


def test_a_run_ends_complete_with_everything_written(
    folder: Path, unbroken: dict[str, Any]
) -> None:
    output = folder / "unbroken"
    assert unbroken["status"] == "complete"
    assert unbroken["site_names"] == ["north", "south"]
    assert unbroken["config_hash"] == canonical_hash(RUN)
    assert unbroken["n_test"] == 32 and set(unbroken["per_site"]) == {"north", "south"}
    model, metadata = load_model(output / "final.safetensors")
    atlas = load_atlas(output / "atlas.safetensors", metadata["encoder_hash"])
    assert atlas.counts.tolist() == [12, 12]
    assert atlas.latent_size == model.latent_size
    phases = [(line["phase"], line["round"]) for line in read_lines(output)]
    assert phases == [
        ("hello", 0), ("patch_moments", 0), ("train", 1), ("train", 2),
        ("latent_sums", 0), ("heads", 0), ("mitigate", 1), ("mitigate", 2), ("evaluate", 0),
        ("atlas", 0), ("audit", 0),
    ]  # fmt: skip
    progress = json.loads((output / "progress.json").read_text())
    assert progress["phase"] == "done" and progress["step"] == progress["steps"] == 10


def test_a_training_line_names_sites_bytes_losses_and_validation(
    folder: Path, unbroken: dict[str, Any]
) -> None:
    line = unbroken["rounds_table"][0]
    assert line["sites"] == {"north": "ok", "south": "ok"}
    assert line["bytes"]["north"] == unbroken["bytes_per_site_and_round"] > 0
    assert set(line["loss"]) >= {"loss", "reconstruction"} and line["loss"]["loss"] > 0
    assert set(line["val"]) == {"macro_auc", "accuracy", "ssim"}
    assert set(line["of_site"]) == {"north", "south"}


def test_every_site_has_the_final_model_and_a_whole_ledger(
    folder: Path, unbroken: dict[str, Any]
) -> None:
    final, _ = load_model(folder / "unbroken" / "final.safetensors")
    for name in ("north", "south"):
        state = folder / "state" / name
        own, metadata = load_model(state / "final.safetensors")
        assert np.array_equal(own.head.weight.detach(), final.head.weight.detach())
        load_atlas(state / "atlas.safetensors", metadata["encoder_hash"])
        known = [line["ledgers"][name] for line in read_lines(folder / "unbroken")]
        assert chain.verify(state / "outbox.jsonl", known) == ()
        kinds = {line["kind"] for line in chain.read(state / "outbox.jsonl")}
        assert kinds >= {"hello", "train", "latent_sums", "evaluate"}


def test_every_site_and_the_coordinator_hold_the_same_named_heads(
    folder: Path, unbroken: dict[str, Any]
) -> None:
    _, metadata = load_model(folder / "unbroken" / "final.safetensors")
    encoder = metadata["encoder_hash"]
    ours, attribute = load_heads(folder / "unbroken" / "heads.safetensors", encoder)
    assert attribute == "view" and set(ours) == {"chosen", *RUN.mitigation.methods}
    for name in ("north", "south"):
        theirs, _ = load_heads(folder / "state" / name / "heads.safetensors", encoder)
        assert all(np.array_equal(theirs[n].weight, h.weight) for n, h in ours.items())
    assert not np.array_equal(ours["leace"].weight, ours["chosen"].weight)


def test_the_audit_counts_every_head_at_every_site(folder: Path, unbroken: dict[str, Any]) -> None:
    audit = unbroken["audit"]
    assert set(audit["per_site"]) == {"north", "south"}
    for found in (audit["pooled"], *audit["per_site"].values()):
        assert set(found["subgroups"]) == {"chosen", *RUN.mitigation.methods}
        assert found["explanations"] == []
    assert {row["attribute"] for row in audit["biases"]} == {"view", "site"}


def test_an_attribute_of_one_value_costs_the_mitigated_heads_and_not_the_run(
    folder: Path, tmp_path: Path
) -> None:
    """No class has both views anywhere: known after hours of training, so the run must end."""
    changed = {"mitigation": {**RUN.mitigation.model_dump(), "use": "leace"}, "rounds": 1}
    own = lay_out(tmp_path / "one", run=RUN.model_validate({**RUN.model_dump(), **changed}))
    for path in own.glob("images/*/manifest.csv"):
        path.write_text(path.read_text().replace(",AP", ",PA"))
    run_federation(make_grid(own), consortium(own, "out"), resume=False)
    results = json.loads((own / "out" / "server.json").read_text())
    assert results["status"] == "complete"
    assert results["mitigation"]["not_made"].startswith("view: no class has patients with two")
    assert not (own / "out" / "heads.safetensors").exists()
    for name in ("north", "south"):
        assert (own / "state" / name / "final.safetensors").is_file()
        assert not (own / "state" / name / "heads.safetensors").exists()
    for found in (results["audit"]["pooled"], *results["audit"]["per_site"].values()):
        assert set(found["subgroups"]) == set(found["flips"]) == {"chosen"}
    lines = [line for line in read_lines(own / "out") if line["phase"] == "mitigate"]
    assert all("not_made" in line["mitigation"] for line in lines)
    page = write_page(own / "out").read_text()
    assert "no such head could be made: view: no class has patients" in page


def test_the_agreed_head_is_used_and_explanations_are_scored(
    folder: Path,
) -> None:
    changed = {
        "mitigation": {**RUN.mitigation.model_dump(), "use": "leace"},
        "audit": {"explained_per_class": 1, "min_group": 1},
    }
    own = lay_out(folder / "use", run=RUN.model_validate({**RUN.model_dump(), **changed}))
    run_federation(make_grid(own), consortium(own, "out"), resume=False)
    model, metadata = load_model(own / "out" / "final.safetensors")
    heads, _ = load_heads(own / "out" / "heads.safetensors", metadata["encoder_hash"])
    assert np.array_equal(model.head.weight.detach(), heads["leace"].weight)
    assert not np.array_equal(model.head.weight.detach(), heads["chosen"].weight)
    audit = json.loads((own / "out" / "server.json").read_text())["audit"]
    for found in (audit["pooled"], *audit["per_site"].values()):
        assert {row["class"] for row in found["explanations"]} >= {"left", "right"}


def test_the_order_of_arrival_changes_no_bit(folder: Path, unbroken: dict[str, Any]) -> None:
    grid = make_grid(folder)
    grid.order = [101, 100]
    state = run_federation(grid, consortium(folder, "reversed"), resume=False)
    assert final_hash(state) == unbroken["final_hash"]


@pytest.mark.parametrize("after", [1, 4, 5, 9, 13, 15, 21])
def test_killed_anywhere_and_resumed_is_the_unbroken_run(
    folder: Path, unbroken: dict[str, Any], after: int
) -> None:
    """`after` counts replies: the run dies between the two replies of a phase or after both."""
    dying = dying_after(after)
    settings = consortium(folder, f"killed{after}")
    with pytest.raises(Killed):
        run_federation(make_grid(folder, wrap={0: dying, 1: dying}), settings, resume=False)
    progress = json.loads((settings.output / "progress.json").read_text())
    assert progress["phase"] == "failed" and "not foreseen" in progress["message"]
    assert "Killed" in progress["message"] and "resume the run" in progress["message"]
    state = run_federation(make_grid(folder), settings, resume=True)
    assert final_hash(state) == unbroken["final_hash"]
    results = json.loads((settings.output / "server.json").read_text())
    assert results["final_hash"] == unbroken["final_hash"]
    rounds = [line["round"] for line in read_lines(settings.output) if line["phase"] == "train"]
    assert rounds == [1, 2]


def test_a_finished_run_can_be_resumed_and_stays_the_same(
    folder: Path, unbroken: dict[str, Any]
) -> None:
    settings = consortium(folder, "killed4")
    state = run_federation(make_grid(folder), settings, resume=True)
    assert final_hash(state) == unbroken["final_hash"]


def test_a_folder_with_a_run_is_not_overwritten(folder: Path, unbroken: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="resume=true"):
        run_federation(make_grid(folder), consortium(folder, "unbroken"), resume=False)
    progress = json.loads((folder / "unbroken" / "progress.json").read_text())
    assert progress["phase"] == "done"


def test_another_run_cannot_resume_it(folder: Path, unbroken: dict[str, Any]) -> None:
    settings = consortium(folder, "unbroken")
    other = folder / "other.yaml"
    other.write_text((folder / "run.yaml").read_text().replace("seed: 5", "seed: 6"))
    with pytest.raises(CheckpointError, match="another run"):
        run_federation(make_grid(folder), settings.model_copy(update={"run": other}), resume=True)


def lying_counts(node: Node) -> Node:
    """Return a hospital whose counts in training are negative."""

    def answer(message: Message) -> Message | None:
        reply = node(message)
        if reply is not None and message.metadata.message_type == "train":
            less = numbers(reply.content, wire.TOTAL) * -3.0
            reply.content = with_array(reply.content, wire.TOTAL, less)
        return reply

    return answer


def change_update(change: Callable[[np.ndarray], np.ndarray], **header: object) -> object:
    """Return a fault that changes what a hospital sends in training."""

    def wrap(node: Node) -> Node:
        def answer(message: Message) -> Message | None:
            reply = node(message)
            if reply is not None and message.metadata.message_type == "train":
                new = change(numbers(reply.content, wire.MODEL))
                reply.content = with_array(reply.content, wire.MODEL, new, **header)
            return reply

        return answer

    return wrap


LIES = {
    "nan": (change_update(lambda update: np.full_like(update, np.nan)), "rejected:nan"),
    "shape": (change_update(lambda update: update[:-1]), "rejected:shape"),
    "weight": (change_update(lambda update: update, num_images=10**9), "rejected:weight"),
    "counts": (lying_counts, "rejected:counts"),
    "name": (change_update(lambda update: update, site="north"), "rejected:site"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_site_is_named_and_left_out(folder: Path, lie: str) -> None:
    fault, outcome = LIES[lie]
    settings = consortium(folder, f"lie-{lie}", quorum=1)
    run_federation(make_grid(folder, wrap={1: fault}), settings, resume=False)  # type: ignore[dict-item]
    results = json.loads((settings.output / "server.json").read_text())
    assert results["status"] == "degraded"
    for line in results["rounds_table"]:
        assert line["sites"] == {"north": "ok", "south": outcome}
        assert line["site_images"] == {"north": 24}
    load_model(settings.output / "final.safetensors")


def test_a_silent_site_is_named_after_the_grace(folder: Path) -> None:
    def silent(node: Node) -> Node:
        return lambda message: None if message.metadata.message_type == "train" else node(message)

    settings = consortium(folder, "silent", quorum=1, grace_s=0.2)
    run_federation(make_grid(folder, wrap={1: silent}), settings, resume=False)
    lines = [line for line in read_lines(settings.output) if line["phase"] == "train"]
    assert [line["sites"]["south"] for line in lines] == ["no-reply"] * 2
    assert all(line["seconds"] < 20 for line in lines)


def test_below_the_quorum_the_run_stops_and_says_who(folder: Path) -> None:
    settings = consortium(folder, "stopped", quorum=2, attempts=2)
    fault = LIES["nan"][0]
    with pytest.raises(TooFewSites, match="south rejected:nan"):
        run_federation(make_grid(folder, wrap={1: fault}), settings, resume=False)  # type: ignore[dict-item]
    progress = json.loads((settings.output / "progress.json").read_text())
    assert progress["phase"] == "failed" and "south rejected:nan" in progress["message"]
    line = read_lines(settings.output)[-1]
    assert (line["phase"], line["round"], line["failed"]) == ("train", 1, "quorum")
    assert line["sites"] == {"north": "ok", "south": "rejected:nan"}
    state = run_federation(make_grid(folder), settings, resume=True)
    assert state.done == 10
    assert not any("failed" in line for line in read_lines(settings.output))


def test_registered_names_bind_what_a_site_may_call_itself(folder: Path) -> None:
    """In deployment Flower knows each node's registered name; a site cannot answer for another."""
    settings = consortium(folder, "named", simulated_sites=None, sites=["north", "south"], quorum=1)
    grid = make_grid(folder)
    grid.names = {100: "north", 101: "stranger"}
    run_federation(grid, settings, resume=False)
    assert {message.metadata.dst_node_id for message in grid.pushed} == {100}
    assert read_lines(settings.output)[0]["sites"] == {"north": "ok", "south": "offline"}
    swapped = make_grid(folder)
    swapped.names = {100: "south", 101: "north"}
    settings = consortium(folder, "swapped", simulated_sites=None, sites=["north", "south"])
    with pytest.raises(TooFewSites, match="north rejected:site, south rejected:site"):
        run_federation(swapped, settings, resume=False)


class Unwritten:
    """A journal that keeps nothing."""

    def report(self, step: Step, done: int, phases: int, text: str) -> None: ...

    def write(self, line: dict[str, Any]) -> str:
        return "e" * 64

    def keep(self, state: RunState) -> None: ...


def test_flowers_own_loop_over_our_strategy_gives_the_same_weights(folder: Path) -> None:
    """Only the loop is ours: Strategy.start with our configure and aggregate does the same."""
    schema = weight_schema(new_model(RUN))
    identity = Identity(canonical_hash(RUN), code_hash(), schema, schema, RUN.aggregation)
    phases = [Training(RUN, Step("train", number)) for number in (1, 2)]
    rules = consortium(folder, "unused").rules

    def make() -> PhasedStrategy:
        hello = Asking(RUN, Step("hello"))
        return PhasedStrategy([hello, *phases], identity, rules, Unwritten(), first_state(RUN))

    arrays = ArrayRecord({wire.MODEL: wire.Array(first_state(RUN).weights)})
    ours = make().start(make_grid(folder), arrays).arrays[wire.MODEL].numpy()
    stock = Strategy.start(make(), make_grid(folder), arrays, num_rounds=2)
    assert np.array_equal(ours, stock.arrays[wire.MODEL].numpy())
    assert stock.train_metrics_clientapp[2]["num-images"] == 48


def test_when_every_cell_is_suppressed_the_run_stops_and_a_resume_asks_again(
    tmp_path: Path,
) -> None:
    folder = lay_out(tmp_path / "suppressed")

    def allow(min_cell_count: int) -> None:
        close_sites()
        for index, name in enumerate(("north", "south")):
            path = folder / "sites" / f"{index}.yaml"
            path.unlink()
            dump_yaml(site_config(name, min_cell_count=min_cell_count), path)

    settings = consortium(folder, "out")
    allow(8)
    with pytest.raises(DataError, match="found 0 training patients in 0 classes"):
        run_federation(make_grid(folder), settings, resume=False)
    progress = json.loads((settings.output / "progress.json").read_text())
    assert progress["phase"] == "failed" and "lower min_cell_count" in progress["message"]
    allow(1)
    state = run_federation(make_grid(folder), settings, resume=True)
    assert state.done == 10 and state.sums["latent_sums"]["class.count"].tolist() == [12, 12]
    assert json.loads((settings.output / "server.json").read_text())["status"] == "complete"
