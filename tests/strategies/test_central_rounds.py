"""Whole runs under central DP: noise once, counted before it is drawn, killed and gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from client.site import open_site
from mfm_core.accounting import epsilon_of
from mfm_core.errors import CheckpointError
from server.app import run_federation
from server.journal import NOISE, RunFolder
from server.run_files import read_lines
from strategies import wire
from strategies.central_noise import CENTRAL, Shielded, terms_of
from strategies.central_rounds import CentralRounds
from strategies.chain import read
from strategies.collector import Pooled
from strategies.config import RunConfig
from strategies.plan import Step
from strategies.strategy import PhasedStrategy
from tests.client.central_hospital import CLIP, central_run
from tests.server.hospitals import Killed, consortium, lay_out, make_grid
from tests.strategies.records import numbers

NAMES = ("east", "north", "south", "west")
SCHEMA = (("body", (4,)), ("head.weight", (2,)))


def federate(folder: Path, run: RunConfig, faults=None, resume=False, **settings):
    if not (folder / "run.yaml").exists():
        lay_out(folder, NAMES, run)
    waits = {"deadline_s": 60.0, "grace_s": 0.0, "attempts": 1, "quorum": 3, "simulated_sites": 4}
    plan = consortium(folder, "out", **{**waits, **settings})
    return run_federation(make_grid(folder, 4, faults), plan, resume)


def test_a_run_in_the_open_adds_noise_once_a_round_and_the_record_says_epsilon(tmp_path) -> None:
    state = federate(tmp_path, central_run(trainable="all", rounds=2))
    drawn = read(tmp_path / "out" / NOISE)
    assert [(line["round"], line["sites"]) for line in drawn] == [(1, 4), (2, 4)]
    results = json.loads((tmp_path / "out" / "server.json").read_text())
    found = results[CENTRAL]
    assert found["epsilon_site"] == pytest.approx(epsilon_of([(4.0, 1.0, 2)], 1e-6))
    assert found["epsilon_patient"] == pytest.approx(epsilon_of([(2.0, 1.0, 2)], 1e-6))
    assert results["privacy"]["train"]["trust"] == "trusting the server"
    assert state.facts[CENTRAL] == {"clip": CLIP, "draws": 2}
    line = next(line for line in read_lines(tmp_path / "out") if line["phase"] == "train")
    assert line[CENTRAL]["draws"] == 1 and "loss" not in line and "val" not in line
    for index in range(4):
        site = open_site(tmp_path / "sites" / f"{index}.yaml")
        assert site.privacy.read().epsilon(1e-6) == pytest.approx(found["epsilon_patient"])


def test_masked_is_unmasked_with_the_noise_removed(tmp_path: Path, monkeypatch) -> None:
    """With all noise set to zero both ways end in the same weights, to the bit."""
    silent = (lambda exact, deviation: exact,)
    monkeypatch.setattr("strategies.central_noise.site_half.__defaults__", silent)
    monkeypatch.setattr(CentralRounds.__init__, "__defaults__", silent)
    plain = federate(tmp_path / "plain", central_run(quantile=0.5))
    masked = federate(tmp_path / "masked", central_run(secure=True, quantile=0.5))
    np.testing.assert_array_equal(plain.weights, masked.weights)
    assert plain.facts[CENTRAL] == masked.facts[CENTRAL]
    results = json.loads((tmp_path / "masked" / "out" / "server.json").read_text())
    assert "trusting no server" in results[CENTRAL]["words"]


@pytest.mark.parametrize("secure", [False, True])
def test_a_kill_after_the_noise_counts_and_the_round_gets_fresh_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: bool
) -> None:
    """Under a secure sum the server's own noise would raise: the sites have drawn theirs."""
    if secure:
        monkeypatch.setattr(CentralRounds.__init__, "__defaults__", (None,))
    run, seen = central_run(secure, rounds=2, quantile=0.5), []
    keep = RunFolder.keep

    def killed(folder: RunFolder, state) -> None:
        seen.append(state.weights.copy())
        if len(seen) == 1:
            raise Killed
        keep(folder, state)

    monkeypatch.setattr(RunFolder, "keep", killed)
    with pytest.raises(Killed):
        federate(tmp_path, run)
    state = federate(tmp_path, run, resume=True)
    drawn = read(tmp_path / "out" / NOISE)
    assert [line["round"] for line in drawn] == [1, 1, 2], "never cut back"
    assert not np.array_equal(seen[0], seen[1])
    assert state.facts[CENTRAL]["draws"] == 3
    results = json.loads((tmp_path / "out" / "server.json").read_text())
    three = pytest.approx(epsilon_of([(2.0, 1.0, 3)], 1e-6))
    assert results[CENTRAL]["epsilon_patient"] == three
    site = open_site(tmp_path / "sites" / "0.yaml")
    assert site.privacy.read().epsilon(1e-6) == three, "the site paid for the repeat as well"


def too_long(node):
    """A site that sends twice the clip."""

    def answer(message: Message) -> Message:
        reply = node(message)
        header = reply.content.config_records[wire.HEADER]
        if header["kind"] != "train":
            return reply
        size = numbers(reply.content, wire.MODEL).size
        long = np.zeros(size, dtype=np.float32)
        long[-1] = 1.0
        fields = {key: header[key] for key in ("kind", "round", "config_hash", "code_hash", "site")}
        made = wire.Header(**fields, num_images=1)
        record = wire.encode(made, wire.Payload(long), (("model", (size,)),))
        record.config_records[wire.HEADER]["schema_hash"] = header["schema_hash"]
        return Message(record, reply_to=message)

    return answer


def test_a_site_that_does_not_clip_is_refused_and_left_out(tmp_path: Path) -> None:
    federate(tmp_path, central_run(), {3: too_long})
    lines = [line for line in read_lines(tmp_path / "out") if line["phase"] == "train"]
    assert [line["sites"]["west"] for line in lines] == ["rejected:norm"]
    assert [line["sites"] for line in read(tmp_path / "out" / NOISE)] == [3]


class Counting:
    """A journal whose noted sums can be taken away."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def draw(self, step: Step, facts) -> int:
        self.lines.append(step.kind)
        return len(self.lines)


def test_the_line_is_there_before_the_noise_and_lost_lines_end_the_run() -> None:
    run, journal = central_run(), Counting()

    def draw(exact, deviation):
        assert len(journal.lines) == 1, "no noise without its line"
        return exact + 1

    rounds = CentralRounds(run, SCHEMA, journal, draw)
    mean = Pooled(4, np.zeros(6), None, {})
    facts, noisy = rounds.shield(Step("train", 1), {"other": 1}, mean)
    grain = terms_of(run, SCHEMA, CLIP).grain
    assert noisy.update is not None and facts["other"] == 1
    np.testing.assert_allclose(noisy.update, [0, 0, 0, 0, grain / 4, grain / 4])
    journal.lines.clear()
    with pytest.raises(CheckpointError, match="lines were removed"):
        rounds.shield(Step("train", 2), facts, mean)
    assert Shielded(np.zeros(1), 0.0).within == 0.0


def test_flowers_own_loop_adds_the_noise_too(tmp_path: Path) -> None:
    assert "_finish" in PhasedStrategy.aggregate_train.__code__.co_names


def test_a_journal_that_was_changed_draws_no_noise(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "c" * 64, "d" * 64, rounds=2)
    assert [folder.draw(Step("train", n), {"sites": 3}) for n in (1, 2)] == [1, 2]
    path = tmp_path / NOISE
    path.write_text(path.read_text().replace('"sites": 3', '"sites": 4', 1))
    with pytest.raises(CheckpointError, match="no noise is drawn"):
        folder.draw(Step("train", 3), {})
    path.write_text("")
    with pytest.raises(CheckpointError, match="no noise is drawn"):
        folder.draw(Step("train", 3), {})
    assert RunFolder(tmp_path, "f" * 64, "d" * 64, rounds=2).drawn() == 0
