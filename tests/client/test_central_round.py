"""A round under central DP at the site: paid first, clipped by the process that talks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

from client import app as client_app
from client.app import Reply, Request
from client.central_round import planned_spend, shield, told_clip, train_openly
from client.commands_privacy import spending_of
from client.dry_run import rehearse
from client.site import Site, close_sites, open_site
from mfm_core.accounting import epsilon_of
from mfm_core.config import dump_yaml
from mfm_core.errors import UpdateRejected
from strategies import wire
from strategies.central_noise import WITHIN, clip_sum
from strategies.config import RunConfig
from strategies.rounds import REFUSED
from tests.client.central_hospital import CLIP, central_run
from tests.client.test_private_round import ask, site_with
from tests.server.hospitals import lay_out
from tests.strategies.records import numbers


def laid_out(folder: Path, run: RunConfig) -> Path:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    return lay_out(folder, run=run)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return laid_out(tmp_path_factory.mktemp("central"), central_run())


def with_run(site: Site, run: RunConfig) -> Site:
    return replace(site, run=run)


def update_of(site: Site, reply: Message) -> np.ndarray:
    update = numbers(reply.content, wire.MODEL)
    assert update.size == site.starting_weights.size
    return update.astype(np.float64)


def test_an_answer_is_within_the_clip_and_was_paid(folder: Path) -> None:
    site = site_with(folder, "honest")
    reply = ask(folder, "train", 1)
    assert not reply.has_error()
    assert 0.9 * CLIP < np.linalg.norm(update_of(site, reply)) <= CLIP
    assert reply.content.config_records[wire.HEADER]["num_images"] == 1
    (spend,) = site.privacy.read().spends
    assert spend.spending == (2.0, 1.0, 1) and spend.noise == "server" and spend.units == 0
    assert spend.unit == "patient"
    assert site.privacy.read().epsilon(1e-6) == epsilon_of([(2.0, 1.0, 1)], 1e-6)


def test_asked_again_it_is_paid_again_and_the_budget_ends_it(folder: Path, monkeypatch) -> None:
    two = epsilon_of([(2.0, 1.0, 2)], 1e-6)
    site = site_with(folder, "poor", max_epsilon=two + 0.01)
    seen = []

    def stopped(kind: str, request: Request) -> Reply:
        seen.append(len(site.privacy.read().spends))
        raise RuntimeError("the machine stops here")

    monkeypatch.setattr(client_app, "perform", stopped)
    reasons = [ask(folder, "train", 1).error.reason for _ in range(3)]
    assert reasons == ["internal", "internal", "budget"] and seen == [1, 2]


@pytest.mark.parametrize(
    ("limits", "word"),
    [({"min_noise_multiplier": 2.5}, "noise"), ({"require_secure_sum": True}, "limit")],
)
def test_a_site_may_ask_for_more_noise_or_trust_no_server(folder, limits, word) -> None:
    site = site_with(folder, "strict", **limits)
    reply = ask(folder, "train", 1)
    assert (reply.error.code, reply.error.reason) == (REFUSED, word)
    assert site.privacy.read().spends == ()


def test_the_unit_of_the_site_is_kept_whatever_it_is(folder: Path) -> None:
    site = site_with(folder, "images", privacy_unit="image")
    assert not ask(folder, "train", 1).has_error()
    assert {spend.unit for spend in site.privacy.read().spends} == {"image"}


def test_what_is_not_finite_leaves_as_zeros(folder: Path, monkeypatch) -> None:
    site = site_with(folder, "broken")
    bad = np.full(site.starting_weights.size, np.nan, dtype=np.float32)
    monkeypatch.setattr(client_app, "perform", lambda kind, request: Reply(1, wire.Payload(bad)))
    assert not update_of(site, ask(folder, "train", 1)).any()
    assert "not finite" in (site.config.state_folder / "site.log").read_text()


def test_what_computes_trains_and_what_talks_clips(folder: Path) -> None:
    site = site_with(folder, "parts")
    request = Request(site, "train", 1, wire.Payload(site.starting_weights))
    answered = client_app.do_work("train", request)
    assert answered.payload.model is not None
    assert np.linalg.norm(answered.payload.model) > CLIP, "or the clip is not tested"
    clipped = client_app.shielded(request, answered).payload.model
    assert clipped is not None
    assert 0.9 * CLIP < np.linalg.norm(clipped.astype(float)) <= CLIP


def test_the_head_alone_is_trained(folder: Path) -> None:
    site = site_with(folder, "head")
    change = train_openly(site, site.starting_weights, 1)
    left = np.concatenate([
        np.full(int(np.prod(shape)), name.startswith("head.")) for name, shape in site.schema
    ])  # fmt: skip
    assert change[left].any() and not change[~left].any()
    everything = with_run(site, central_run(trainable="all"))
    assert train_openly(everything, site.starting_weights, 1)[~left].any()
    assert all(p.requires_grad for n, p in site.model.named_parameters() if n.startswith("encoder"))


def test_a_clip_that_no_run_can_have_is_refused(folder: Path) -> None:
    site = site_with(folder, "clip")
    for wrong in (0.0, -1.0, float("nan"), float("inf"), 1e5):
        with pytest.raises(UpdateRejected) as caught:
            told_clip(site, clip_sum(wrong))
        assert caught.value.reason == "clip"
    assert told_clip(site, clip_sum(7.5)) == 7.5 and told_clip(site, None) == CLIP


def test_with_a_followed_clip_one_bit_leaves_and_under_a_secure_sum_both_have_noise(folder) -> None:
    site = site_with(folder, "bits")
    update = np.zeros(site.starting_weights.size, dtype=np.float32)
    update[-1] = 2.0
    visible = with_run(site, central_run(quantile=0.5))
    bits = []
    for clip in (1.0, 3.0):
        payload = shield(visible, clip_sum(clip), wire.Payload(update))
        assert payload.total is not None and payload.total.schema == WITHIN
        bits.append(float(payload.total["within_clip"][0]))
    assert bits == [-0.5, 0.5]
    masked = with_run(site, central_run(secure=True, quantile=0.5))
    noisy = [shield(masked, clip_sum(1.0), wire.Payload(update)) for _ in range(2)]
    assert noisy[0].total is not None and abs(noisy[0].total["within_clip"][0]) != 0.5
    assert not np.array_equal(noisy[0].model, noisy[1].model)
    assert planned_spend(masked, 1, 1.0).noise == "secret"


def test_the_officer_and_the_dry_run_say_whom_the_noise_trusts(folder: Path, tmp_path) -> None:
    site = site_with(folder, "told")
    assert not ask(folder, "train", 1).has_error()
    (row,) = spending_of(site.privacy.read(), site.config.limits)["runs"]
    assert row["noise"] == "server" and row["noise_multiplier"] == 2.0
    lines = (site.config.state_folder / "outbox.jsonl").read_text().splitlines()
    label = json.loads(lines[-1])["protection"]
    assert label["level"] == "formal" and label["trust"] == "trusting the server"
    for secure, words in ((False, "trusting the server"), (True, "trusting no server")):
        run = central_run(secure, quantile=0.5)
        played = rehearse(site.config, run, tmp_path / words, lambda done, of: None)
        (trained,) = [exchange for exchange in played if exchange.kind == "train"]
        assert trained.outcome == "leaves", trained.reason
        assert words in trained.mechanism and float(trained.epsilon) > 0
        update = next(t for t in trained.tensors if t.name == "update of the weights")
        assert update.norm <= CLIP


def test_the_message_must_hold_the_clip_where_it_is_followed(tmp_path: Path) -> None:
    folder = laid_out(tmp_path, central_run(quantile=0.5))
    close_sites()
    dump_yaml(central_run(quantile=0.5), folder / "run.yaml")
    site = open_site(folder / "sites" / "0.yaml")
    assert ask(folder, "train", 1).has_error(), "without a clip"
    assert site.privacy.read().spends == ()
