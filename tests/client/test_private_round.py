"""A private round is paid for before it is computed, and only its weights leave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client import app as client_app
from client import private_round
from client.app import Request, app
from client.private_round import (
    EPSILON_STEP,
    count_units,
    permit_for,
    planned_spend,
    spent_in_run,
    train_permitted,
)
from client.site import Site, close_sites, open_site
from client.worker import Worker
from mfm_core.accounting import epsilon_of
from mfm_core.checkpoint import flat_weights
from mfm_core.config import dump_yaml
from mfm_core.errors import BudgetSpent, PrivacyLedgerBroken, UpdateRejected
from server.app import run_federation
from server.release_figures import figures_of
from server.run_files import read_lines
from strategies import wire
from strategies.answers import PAID, SPENT
from strategies.chain import read
from strategies.code_hash import code_hash
from strategies.plan import MESSAGE_TYPES, Kind
from strategies.rounds import REFUSED
from tests.client.private_hospital import PRIVATE_RUN
from tests.server.hospitals import consortium, lay_out, make_grid, site_config
from tests.strategies.records import numbers

UNITS = 12
"""Training patients of each hospital in `tests.server.hospitals`."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    return lay_out(tmp_path_factory.mktemp("private"), run=PRIVATE_RUN)


def site_with(folder: Path, state: str, **limits: object) -> Site:
    """Return the first hospital with a state folder of its own and other limits."""
    close_sites()
    made = site_config("north", **limits).model_copy(update={"state_folder": Path(f"../{state}")})
    dump_yaml(made, folder / "sites" / "0.yaml")
    return open_site(folder / "sites" / "0.yaml")


def ask(folder: Path, kind: Kind, number: int = 0) -> Message:
    """Return the real app's reply."""
    site = open_site(folder / "sites" / "0.yaml")
    header = wire.Header(kind, number, site.config_hash, code_hash())
    payload = wire.Payload(None if kind == "hello" else site.starting_weights)
    record = wire.encode(header, payload, site.schema)
    sent = Message(record, 5, MESSAGE_TYPES[kind], group_id=str(number))
    place = {"sites-folder": str(folder / "sites")}
    return app(sent, Context(1, 5, {"partition-id": 0}, RecordDict(), place))


def test_two_sites_spend_what_the_accountant_says_and_only_weights_leave(folder: Path) -> None:
    close_sites()
    run_federation(make_grid(folder), consortium(folder, "out"), resume=False)
    results = json.loads((folder / "out" / "server.json").read_text())
    assert results["status"] == "complete"
    assert {kind for kind, label in results["privacy"].items() if label["level"] == "formal"} == {
        "train"
    }
    assert "patch_moments" not in results["privacy"]
    expected = epsilon_of([(1.5, 4 / UNITS, 2 * 3)], 1e-6)
    for index, name in enumerate(("north", "south")):
        site = open_site(folder / "sites" / f"{index}.yaml")
        found = site.privacy.read()
        assert found.problems == () and [spend.round for spend in found.spends] == [1, 2]
        assert {(spend.units, spend.noise) for spend in found.spends} == {(UNITS, "secret")}
        assert found.epsilon(1e-6) == pytest.approx(expected)
        lines = read(folder / "state" / name / "outbox.jsonl")
        trained = [line for line in lines if line["kind"] == "train"]
        assert [[a["name"] for a in line["arrays"]] for line in trained] == [["model"]] * 2
        assert {line["images"] for line in lines if line["kind"] in ("train", "hello")} == {0, 1}
        assert {line["protection"]["level"] for line in trained} == {"formal"}


def test_the_line_is_on_disk_before_the_first_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, seen = site_with(folder, "first"), []

    def trainer(*_: object, **options: object) -> None:
        seen.append((len(site.privacy.read().spends), options["seed"]))
        raise RuntimeError("the machine stops here")

    monkeypatch.setattr(private_round, "train_privately", trainer)
    for number in (1, 2, 2):
        assert ask(folder, "train", number).error.reason == "internal"
    assert seen == [(1, None), (2, None), (3, None)]  # asked again, paid again


def test_the_round_over_the_limit_is_refused_before_anything_is_computed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = epsilon_of([(1.5, 4 / UNITS, 3)], 1e-6)
    site = site_with(folder, "poor", max_epsilon=one + 0.05)
    monkeypatch.setattr(client_app, "perform", lambda kind, request: None)
    site.privacy.spend(planned_spend(site, 1, UNITS))
    reply = ask(folder, "train", 2)
    assert (reply.error.code, reply.error.reason) == (REFUSED, "budget")
    with pytest.raises(BudgetSpent):
        permit_for(site, 2, UNITS)


@pytest.mark.parametrize(
    ("limits", "word"),
    [({"min_noise_multiplier": 2.0}, "noise"), ({"privacy_unit": "image"}, "noise")],
)
def test_less_protection_than_the_site_asks_for_is_refused(
    folder: Path, limits: dict[str, object], word: str
) -> None:
    site = site_with(folder, "strict", **limits)
    for kind, number in (("hello", 0), ("train", 1)):
        reply = ask(folder, kind, number)  # type: ignore[arg-type]
        assert (reply.error.code, reply.error.reason) == (REFUSED, word)
    assert site.privacy.read().spends == ()


def test_a_broken_ledger_leaves_as_a_word_and_nothing_runs(folder: Path) -> None:
    site = site_with(folder, "broken")
    permit_for(site, 1, UNITS)
    site.privacy.path.write_text("[]\n")
    reply = ask(folder, "train", 2)
    assert (reply.error.code, reply.error.reason) == (REFUSED, "ledger")


def test_nothing_but_what_was_paid_for_is_computed(folder: Path) -> None:
    site = site_with(folder, "unpaid")
    permit = permit_for(site, 1, UNITS)
    for wrong in (None, replace(permit, round=2), replace(permit, units=UNITS + 1)):
        with pytest.raises(PrivacyLedgerBroken, match="not paid for"):
            train_permitted(site, flat_weights(site.model), 1, wrong)


def test_equal_messages_get_answers_of_fresh_noise_and_a_simulation_repeats(folder: Path) -> None:
    site = site_with(folder, "fresh", max_epsilon=100.0)
    start, permit = site.starting_weights, permit_for(site, 1, UNITS)
    first, second = (train_permitted(site, start, 1, permit) for _ in range(2))
    assert not np.array_equal(first, second)
    simulated = replace(site, config=site.config.model_copy(update={"simulated": True}))
    first, second = (train_permitted(simulated, start, 1, permit) for _ in range(2))
    assert np.array_equal(first, second)
    assert planned_spend(simulated, 1, UNITS).noise == "simulated"


def test_a_count_that_changes_with_a_patient_stays_here(folder: Path) -> None:
    site_with(folder, "quiet")
    reply = ask(folder, "hello")
    counts = numbers(reply.content, "sum")
    assert counts.tolist() == [0.0, 0.0, 0.0]
    assert reply.content.config_records["header"]["num_images"] == 0


def test_the_parent_pays_and_the_child_computes(folder: Path) -> None:
    site = site_with(folder, "child")
    worker = Worker(folder / "sites" / "0.yaml", site.config.data.root, limit_s=300.0)
    try:
        units = worker.count(site)
        assert units == count_units(site) == UNITS
        request = Request(site, "train", 1, wire.Payload(site.starting_weights))
        with pytest.raises(UpdateRejected) as caught:
            worker.ask("train", request)
        assert caught.value.reason == "ledger"
        answered = worker.ask("train", replace(request, permit=permit_for(site, 1, units)))
        assert answered.images == 1 and answered.payload.total is None
    finally:
        worker.stop()
    assert len(site.privacy.read().spends) == 1


def test_what_was_spent_leaves_once_rounded_up_and_is_what_a_release_is_judged_by(
    folder: Path,
) -> None:
    close_sites()
    run_federation(make_grid(folder), consortium(folder, "told"), resume=False)
    results = json.loads((folder / "told" / "server.json").read_text())
    site = open_site(folder / "sites" / "0.yaml")
    exact = site.privacy.read().epsilon(1e-6, site.config_hash)
    rows = results["spent"]["per_site"]
    told = rows["north"]["epsilon"]
    assert exact <= told < exact + EPSILON_STEP and told % EPSILON_STEP == 0
    assert results["spent"]["delta"] == 1e-6 and set(rows) == {"north", "south"}
    paid = sum(spend.run == site.config_hash for spend in site.privacy.read().spends)
    assert rows["north"]["rounds"] == paid
    lines = read(folder / "state" / "north" / "outbox.jsonl")
    last = next(line for line in reversed(lines) if line["kind"] == "atlas")
    assert {array["name"] for array in last["arrays"]} == {SPENT, PAID}
    assert last["protection"]["level"] == "heuristic"
    figures = figures_of(
        PRIVATE_RUN,
        results,
        read_lines(folder / "told"),
        {"north": "site 1", "south": "site 2"},
        None,
    )
    assert figures["privacy"]["largest_epsilon"] == max(row["epsilon"] for row in rows.values())


def test_a_damaged_ledger_says_nothing_of_what_was_spent(folder: Path) -> None:
    site = site_with(folder, "damaged")
    permit_for(site, 1, count_units(site))
    assert spent_in_run(site)["spent.rounds"][0] == 1
    path = site.privacy.path
    path.write_text(path.read_text().replace('"steps": 3', '"steps": 2'))
    with pytest.raises(PrivacyLedgerBroken, match="not known"):
        spent_in_run(site)
