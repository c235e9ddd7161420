"""A followed run always ends complete, degraded or failed, whatever its server app does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mfm_core.errors import ConfigError, RunFailed
from server import follow
from server.config import ConsortiumConfig, load_consortium
from server.flower import FlowerRun
from server.follow import Follower, Prepared, find_lost, last_flower_run, prepare
from server.run_files import missing_sites, read_ending
from server.unwatched import is_open
from strategies.bundle import bundle_hash
from tests.server.hospitals import RUN

CONFIG = ConsortiumConfig(sites=("north", "south"), output=Path())
Step = Callable[[Path], str]
"""Plays the server app between two questions: writes into the run folder, returns Flower's word."""


class FakeEngine:
    """Flower with a scripted server app."""

    def __init__(self, folder: Path, *steps: Step) -> None:
        self.folder, self.steps = folder, list(steps)
        self.submitted: list[bool] = []
        self.stopped: list[int] = []
        self.refuses = False
        self.taken: tuple[FlowerRun, ...] = ()

    def run(self, app: Path, settings: Mapping[str, str | bool]) -> int:
        if self.refuses:
            raise RunFailed("flwr run: no")
        assert Path(str(settings["server-config"])).is_file() and (app / "run.yaml").is_file()
        self.submitted.append(bool(settings["resume"]))
        return len(self.submitted)

    def find_run(self, run_id: int) -> FlowerRun:
        assert run_id == len(self.submitted)
        word = self.steps.pop(0)(self.folder)
        if word == "away":
            raise RunFailed("nothing answers")
        return FlowerRun(run_id, word, "its details", "")

    def runs(self) -> tuple[FlowerRun, ...]:
        return self.taken

    def stop(self, run_id: int) -> None:
        self.stopped.append(run_id)


def progress(folder: Path, phase: str, message: str = "words") -> None:
    content = {"phase": phase, "round": 0, "rounds": 2, "step": 1, "steps": 9, "message": message}
    (folder / "progress.json").write_text(json.dumps(content))


def ledger(folder: Path, **sites: str) -> None:
    line = {"phase": "train", "round": 3, "seconds": 1.0, "sites": sites}
    with (folder / "rounds.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def says(word: str) -> Step:
    return lambda folder: word


def ends(phase: str, status: str = "complete", word: str = "running", **sites: str) -> Step:
    def step(folder: Path) -> str:
        ledger(folder, **(sites or {"north": "ok", "south": "ok"}))
        if phase == "done":
            results = {"status": status, "macro_auc": 0.9}
            (folder / "server.json").write_text(json.dumps(results))
        progress(folder, phase)
        return word

    return step


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LOOK_S", 0.005)
    monkeypatch.setattr(follow, "ASK_S", 0.02)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return prepare(tmp_path / "tiny", RUN, CONFIG)


Told = list[tuple[dict[str, Any] | None, Mapping[str, Any]]]


def follower(prepared: Prepared, *steps: Step) -> tuple[Follower, FakeEngine, Told]:
    engine, told = FakeEngine(prepared.folder, *steps), []  # type: ignore[var-annotated]
    return Follower(prepared, engine, lambda *words: told.append(words)), engine, told


def test_what_is_shown_is_what_is_sent(prepared: Prepared) -> None:
    assert prepared.bundle_hash == bundle_hash(prepared.app)
    config = load_consortium(prepared.settings)
    assert config.output.resolve() == prepared.folder.resolve()
    assert config.sites == ("north", "south") and config.quorum == 2


def test_a_complete_run_tells_each_exchange_once(prepared: Prepared) -> None:
    watcher, engine, told = follower(prepared, says("running"), ends("train"), ends("done"))
    ending = watcher.start(resume=False)
    assert ending.status == "complete" and ending.missing == {}
    assert ending.results["macro_auc"] == 0.9 and engine.submitted == [False]
    assert len([line for line, _ in told if line is not None]) == 2


def test_a_degraded_run_names_who_was_missing(prepared: Prepared) -> None:
    last = ends("done", "degraded", north="ok", south="no-reply")
    ending = follower(prepared, last)[0].start(resume=False)
    assert ending.status == "degraded" and ending.missing == {"south": ("train 3 no-reply",)}
    assert read_ending(prepared.folder) == ending


def test_a_run_that_failed_in_words_is_not_started_again(prepared: Prepared) -> None:
    watcher, engine, _ = follower(prepared, ends("failed", north="ok", south="error:2"))
    ending = watcher.start(resume=False)
    assert (ending.status, ending.message) == ("failed", "words")
    assert "south" in ending.missing and engine.submitted == [False]


def test_a_server_app_that_dies_is_started_again_from_its_state(prepared: Prepared) -> None:
    watcher, engine, _ = follower(prepared, says("finished:failed"), says("away"), ends("done"))
    assert watcher.start(resume=False).status == "complete"
    assert engine.submitted == [False, True]
    assert last_flower_run(prepared.folder) == 2


def test_a_server_app_that_dies_again_and_again_is_a_failed_run(prepared: Prepared) -> None:
    watcher, engine, _ = follower(prepared, *[says("finished:failed")] * 3)
    ending = watcher.start(resume=False)
    assert ending.status == "failed" and "its details" in ending.message
    assert engine.submitted == [False, True, True] and read_ending(prepared.folder) == ending


def test_deaths_with_work_done_between_them_do_not_add_up(prepared: Prepared) -> None:
    dies = says("finished:failed")
    steps = [step for _ in range(3) for step in (dies, dies, ends("train"))]
    watcher, engine, _ = follower(prepared, *steps, ends("done"))
    assert watcher.start(resume=False).status == "complete"
    assert engine.submitted == [False] + [True] * 6


def test_a_server_app_whose_process_is_gone_is_started_again_although_flower_has_not_missed_it(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "ASK_S", 60.0)
    monkeypatch.setattr(follow, "LOOK_S", 0.005)
    watcher, engine, told = follower(prepared, says("running"), says("running"))
    seen = iter((False, False, True, True, False, False))  # it takes a while to come up

    def app_runs() -> bool:
        alive = next(seen, True)
        if len(engine.submitted) == 2:
            ends("done")(prepared.folder)
        return alive

    watcher.app_runs = app_runs
    assert watcher.start(resume=False).status == "complete"
    assert engine.submitted == [False, True] and engine.stopped == [1]
    assert any("its process is gone" in words["message"] for line, words in told if line is None)


def test_one_of_two_followers_starts_it_again_and_both_see_the_end(prepared: Prepared) -> None:
    watcher, engine, _ = follower(prepared, says("finished:failed"), ends("done"))
    follow.submit(prepared, engine, resume=False)
    mine = iter((False, True))
    watcher.mends = lambda: next(mine)
    engine.steps.insert(0, says("finished:failed"))
    assert watcher.follow(1).status == "complete"
    assert engine.submitted == [False, True]


def test_a_server_app_that_ends_well_is_not_taken_for_gone(prepared: Prepared) -> None:
    seen = iter((True, False))
    watcher, engine, _ = follower(prepared, ends("done"))
    watcher.app_runs = lambda: next(seen, False)
    assert watcher.start(resume=False).status == "complete"
    assert engine.submitted == [False] and engine.stopped == []


def test_a_run_somebody_stopped_is_not_started_again(prepared: Prepared) -> None:
    watcher, engine, _ = follower(prepared, says("finished:stopped"))
    assert "was stopped" in watcher.start(resume=False).message
    assert engine.submitted == [False]


def test_the_end_of_an_earlier_start_is_not_taken_for_this_one(prepared: Prepared) -> None:
    ends("failed")(prepared.folder)
    watcher, engine, told = follower(prepared, says("running"), ends("done"))
    assert watcher.start(resume=True).status == "complete"
    assert engine.submitted == [True]
    assert len([line for line, _ in told if line is not None]) == 1


def test_a_run_nobody_starts_is_stopped(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "PENDING_LIMIT_S", 0.05)
    watcher, engine, _ = follower(prepared, *[says("pending")] * 20)
    ending = watcher.start(resume=False)
    assert ending.status == "failed" and "superexec.log" in ending.message
    assert engine.stopped == [1]


def test_a_stopped_consortium_ends_the_watching_with_what_to_do(prepared: Prepared) -> None:
    watcher, _, _ = follower(prepared)
    watcher.hosted = lambda: False
    with pytest.raises(RunFailed, match="mfm-server resume"):
        watcher.start(resume=False)


def test_a_refused_submission_leaves_a_failed_run(prepared: Prepared) -> None:
    watcher, engine, _ = follower(prepared)
    engine.refuses = True
    with pytest.raises(RunFailed, match="flwr run: no"):
        watcher.start(resume=False)
    ending = read_ending(prepared.folder)
    assert ending is not None and ending.status == "failed"


def test_a_start_that_flower_took_and_nobody_noted_is_found_again(prepared: Prepared) -> None:
    """The command was killed between Flower's answer and its own note."""
    watcher, engine, _ = follower(prepared)

    def die(app: Path, settings: Mapping[str, str | bool]) -> int:
        raise KeyboardInterrupt

    engine.run = die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        watcher.start(resume=False)
    assert is_open(prepared.folder) and last_flower_run(prepared.folder) is None
    own, other = prepared.bundle_hash, "0" * 64
    engine.taken = (FlowerRun(5, "running", "", other), FlowerRun(6, "finished:failed", "", own))
    assert find_lost(prepared, engine) is None, "neither is this run, or it has ended"
    engine.taken = (*engine.taken, FlowerRun(7, "running", "", own))
    assert find_lost(prepared, engine) == 7 == last_flower_run(prepared.folder)
    assert find_lost(prepared, engine) is None, "it is known by now"


def test_a_folder_with_a_state_is_only_gone_on_with(prepared: Prepared) -> None:
    (prepared.folder / "state").mkdir()
    (prepared.folder / "state" / "state-000001.safetensors").touch()
    with pytest.raises(ConfigError, match="mfm-server resume"):
        prepare(prepared.folder, RUN, CONFIG)
    assert prepare(prepared.folder, RUN, CONFIG, resume=True).run_hash == prepared.run_hash


def test_a_run_without_the_weights_it_starts_from_is_not_prepared(tmp_path: Path) -> None:
    run = RUN.model_copy(update={"pretrained": "2" * 64})
    with pytest.raises(ConfigError, match="set both"):
        prepare(tmp_path / "tiny", run, CONFIG)
    assert not (tmp_path / "tiny").exists()


def test_a_cut_ledger_is_no_reason_to_stop_watching(prepared: Prepared) -> None:
    (prepared.folder / "rounds.jsonl").write_text('{"phase"\n')
    assert missing_sites(prepared.folder) == {}
    watcher, _, _ = follower(prepared, ends("done"))
    (prepared.folder / "rounds.jsonl").write_text('{"phase"\n')
    assert watcher.start(resume=False).status == "complete"
