"""Cells leave once, noisy and paid for; a repeat is the same bytes; other questions are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.app import app
from client.config import load_site_config
from client.doctor_words import table_of
from client.dry_run import rehearse
from client.private_release import (
    EXACT,
    KEPT,
    OWN_ATLAS,
    forecast_release,
    forecast_words,
    latent_release,
    protect,
)
from client.site import Site, close_sites, open_site
from mfm_core.atlas import load_atlas
from mfm_core.config import dump_yaml
from mfm_core.discrete_noise import gaussian_epsilon
from mfm_core.errors import OutboxRefusal
from mfm_core.private_cells import GRAINS
from mfm_core.sums import Sum
from server.app import run_federation
from strategies import wire
from strategies.answers import answer_of
from strategies.atlas_release import basis_of
from strategies.chain import read
from strategies.code_hash import code_hash
from strategies.config import RunConfig
from strategies.plan import MESSAGE_TYPES
from strategies.private_atlas import CELLS, site_deviation
from tests.server.hospitals import RUN, consortium, lay_out, make_grid, site_config
from tests.strategies.records import numbers

ATLAS_RUN = RunConfig.model_validate(
    {
        **RUN.model_dump(),
        "name": "private-atlas",
        "rounds": 1,
        "statistics": {"refit_head": True, "bootstrap_replicates": 0},
        "mitigation": {},
        "audit": {"enabled": False},
        "privacy": {
            "atlas": {
                "mechanism": "gaussian",
                "noise_multiplier": 2.0,
                "directions": 2,
                "min_sites": 2,
                "min_cell_count": 1,
            }
        },
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    return lay_out(tmp_path_factory.mktemp("release"), run=ATLAS_RUN)


def site_with(folder: Path, state: str, **limits: object) -> Site:
    """Return the first hospital with a state folder of its own and other limits."""
    close_sites()
    wanted = {"min_cell_count": 1, **limits}
    made = site_config("north", **wanted).model_copy(update={"state_folder": Path(f"../{state}")})
    dump_yaml(made, folder / "sites" / "0.yaml")
    return open_site(folder / "sites" / "0.yaml")


def ask(folder: Path, weights: np.ndarray | None = None) -> Message:
    """Return the real app's reply to a request for latent sums."""
    site = open_site(folder / "sites" / "0.yaml")
    weights = site.starting_weights if weights is None else weights
    header = wire.Header("latent_sums", 0, site.config_hash, code_hash())
    payload = wire.Payload(weights, basis_of(site.run, weights).to_sum())
    record = wire.encode(header, payload, site.schema)
    sent = Message(record, 5, MESSAGE_TYPES["latent_sums"], group_id="0")
    place = {"sites-folder": str(folder / "sites")}
    return app(sent, Context(1, 5, {"partition-id": 0}, RecordDict(), place))


def cells_of(reply: Message) -> np.ndarray:
    """Return the noisy cells of a reply as they travel."""
    assert not reply.has_error(), reply.error
    (name,) = wire.arrays_of(reply.content)
    return numbers(reply.content, name)


def test_the_same_question_gets_the_same_bytes_and_costs_once(folder: Path) -> None:
    site = site_with(folder, "same")
    first = cells_of(ask(folder))
    close_sites()
    again = cells_of(ask(folder))
    assert first.tobytes() == again.tobytes()
    site = open_site(folder / "sites" / "0.yaml")
    found = site.privacy.read()
    assert found.problems == () and len(found.spends) == 1
    assert found.epsilon(1e-6) == pytest.approx(gaussian_epsilon(2.0, 1e-6))
    events = [line["event"] for line in read(site.config.state_folder / "privacy.jsonl")]
    assert events == ["opened", "spent", "repeated"]
    exact = latent_release(
        site, site.starting_weights, basis_of(site.run, site.starting_weights).to_sum()
    )
    noise = first - exact[1][EXACT] / GRAINS
    assert 0.3 < noise.std() / site_deviation(site.run) < 2.0
    assert np.array_equal(first * GRAINS, np.rint(first * GRAINS))


def test_another_encoder_is_another_release_up_to_the_limit(folder: Path) -> None:
    site = site_with(folder, "many", max_atlas_releases=2, max_epsilon=100.0)
    weights = site.starting_weights
    assert not ask(folder, weights).has_error()
    assert not ask(folder, weights * np.float32(1.01)).has_error()
    refused = ask(folder, weights * np.float32(1.02))
    assert refused.has_error() and refused.error.reason == "limit"
    assert not ask(folder, weights).has_error()
    assert len(open_site(folder / "sites" / "0.yaml").privacy.read().spends) == 2


def test_the_release_that_would_pass_the_budget_is_refused_before_any_noise(folder: Path) -> None:
    site_with(folder, "poor", max_epsilon=1.0)
    refused = ask(folder)
    assert refused.has_error() and refused.error.reason == "budget"
    assert not (folder / "poor" / KEPT).exists()


def test_a_changed_cohort_in_the_same_run_is_refused(folder: Path) -> None:
    site_with(folder, "changed", max_epsilon=100.0)
    assert not ask(folder).has_error()
    (note,) = (folder / "changed").glob("cohort-*.json")
    facts = json.loads(note.read_text())
    note.unlink()
    close_sites()
    site = open_site(folder / "sites" / "0.yaml")
    site.images.patients[0] += 1000
    assert json.loads(json.dumps(facts))["images"] == len(site.images)
    refused = ask(folder)
    assert refused.has_error() and refused.error.reason == "limit"


def test_a_lost_copy_is_paid_for_again(folder: Path) -> None:
    site_with(folder, "lost", max_epsilon=100.0)
    first = cells_of(ask(folder))
    (kept,) = (folder / "lost" / KEPT).iterdir()
    kept.unlink()
    assert first.tobytes() != cells_of(ask(folder)).tobytes()
    assert len(open_site(folder / "sites" / "0.yaml").privacy.read().spends) == 2


def test_exact_cells_cannot_leave(folder: Path) -> None:
    site = site_with(folder, "exact")
    asked = basis_of(site.run, site.starting_weights).to_sum()
    images, exact = latent_release(site, site.starting_weights, asked)
    header = wire.Header("latent_sums", 0, site.config_hash, code_hash(), "north", images)
    with pytest.raises(OutboxRefusal, match="other names"):
        answer = answer_of(site.run, "latent_sums")
        site.outbox.release(header, wire.Payload(total=exact), site.schema, answer)


def test_a_basis_that_is_none_is_refused(folder: Path) -> None:
    site = site_with(folder, "skew")
    good = basis_of(site.run, site.starting_weights).to_sum()
    skew = Sum({**good.arrays, "directions": 2 * good["directions"]})
    header = wire.Header("latent_sums", 0, site.config_hash, code_hash())
    record = wire.encode(header, wire.Payload(site.starting_weights, skew), site.schema)
    sent = Message(record, 5, MESSAGE_TYPES["latent_sums"], group_id="0")
    place = {"sites-folder": str(folder / "sites")}
    reply = app(sent, Context(1, 5, {"partition-id": 0}, RecordDict(), place))
    assert reply.has_error() and reply.error.reason == "basis"
    assert not (folder / "skew" / "privacy.jsonl").exists()


def test_two_sites_make_an_atlas_of_noisy_cells(folder: Path) -> None:
    close_sites()
    for index, name in enumerate(("north", "south")):
        made = site_config(name, min_cell_count=1)
        dump_yaml(made, folder / "sites" / f"{index}.yaml")
    run_federation(make_grid(folder), consortium(folder, "out"), resume=False)
    results = json.loads((folder / "out" / "server.json").read_text())
    assert results["status"] == "complete"
    assert results["privacy"]["latent_sums"]["level"] == "formal"
    assert results["latent_sums"]["private"]["sites"] == 2
    for index, name in enumerate(("north", "south")):
        site = open_site(folder / "sites" / f"{index}.yaml")
        assert site.privacy.read().problems == () and len(site.privacy.read().spends) == 1
        lines = read(folder / "state" / name / "outbox.jsonl")
        (sent,) = [line for line in lines if line["kind"] == "latent_sums"]
        assert [array["name"] for array in sent["arrays"]] == [CELLS] and sent["images"] == 0
        atlas = load_atlas(folder / "state" / name / "atlas.safetensors", None)
        assert np.linalg.eigvalsh(atlas.covariance)[0] > 0
        own = load_atlas(folder / "state" / name / OWN_ATLAS, atlas.encoder_hash)
        assert float(own.counts.sum()) == 12 and not np.allclose(own.means, atlas.means)


def test_the_forecast_is_known_before_anything_is_paid(folder: Path) -> None:
    site = site_with(folder, "forecast")
    site.load(site.starting_weights)
    basis = basis_of(site.run, site.starting_weights)
    few, many = forecast_release(site, basis, 2), forecast_release(site, basis, 2000)
    assert all(a.cosine < b.cosine for a, b in zip(few, many, strict=True))
    assert "cosine" in forecast_words(site, basis)
    assert not (folder / "forecast" / "privacy.jsonl").exists()


def test_the_dry_run_shows_the_forecast_and_the_label_and_pays_nothing(folder: Path) -> None:
    site = site_with(folder, "dry")
    config = load_site_config(folder / "sites" / "0.yaml")
    rows = rehearse(config, ATLAS_RUN, folder / "rehearsal", lambda done, of: None)
    (shown,) = [row for row in rows if row.kind == "latent_sums"]
    assert shown.outcome == "leaves" and "formal" in shown.mechanism
    assert shown.epsilon == f"{gaussian_epsilon(2.0, 1e-6):.2f}"
    assert "cosine" in shown.forecast and "cosine" in table_of(rows)
    assert [tensor.name for tensor in shown.tensors] == [CELLS]
    assert not (site.config.state_folder / "privacy.jsonl").exists()


def test_under_a_secure_sum_another_group_gets_fresh_noise_and_pays(folder: Path) -> None:
    """The same bytes in two groups could be subtracted down to one site."""
    site = site_with(folder, "groups", max_epsilon=100.0)
    assert not ask(folder).has_error()  # notes the cohort
    weights = site.starting_weights
    asked = basis_of(site.run, weights).to_sum()
    _, exact = latent_release(site, weights, asked)
    one = protect(site, weights, (asked, "group 1"), exact)[CELLS]
    two = protect(site, weights, (asked, "group 2"), exact)[CELLS]
    assert not np.array_equal(one, two)
    assert len(site.privacy.read().spends) == 3
