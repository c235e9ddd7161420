"""The hospital's runner decides before anything is computed, and always answers."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client import app
from client import runner as runner_module
from client.runner import Runner, expected_bundle
from client.site import close_sites
from mfm_core.config import canonical_hash
from strategies import wire
from strategies.code_hash import code_hash
from strategies.plan import MESSAGE_TYPES
from strategies.rounds import FAILED, REFUSED
from tests.server.hospitals import RUN, lay_out


@dataclass
class Waiting:
    """A task as `client.tasks` hands it over, without a SuperNode behind it."""

    message: Message
    bundle_hash: str
    context: Context = field(default_factory=lambda: Context(1, 5, {}, RecordDict(), {}))


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = lay_out(tmp_path_factory.mktemp("runner"), names=("north",))
    close_sites()
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 5, 1
    before = app.perform
    found = Runner(folder / "sites" / "0.yaml", None)  # type: ignore[arg-type]
    yield found
    found._worker.stop()
    app.perform = before


def hello() -> Message:
    header = wire.Header("hello", 0, canonical_hash(RUN), code_hash())
    return Message(wire.encode(header, wire.Payload()), 5, MESSAGE_TYPES["hello"])


def test_a_run_of_the_installed_code_is_answered(runner: Runner) -> None:
    reply = runner.answer(Waiting(hello(), expected_bundle(RUN)))  # type: ignore[arg-type]
    assert reply.has_content()


def test_an_altered_bundle_is_refused_before_anything_is_computed(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "app", lambda *_: pytest.fail("the message was opened"))
    reply = runner.answer(Waiting(hello(), "0" * 64))  # type: ignore[arg-type]
    assert (reply.error.code, reply.error.reason) == (REFUSED, "bundle")


def test_a_bundle_that_the_site_does_not_name_is_refused(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner, "_accepted", ("f" * 64,))
    reply = runner.answer(Waiting(hello(), expected_bundle(RUN)))  # type: ignore[arg-type]
    assert (reply.error.code, reply.error.reason) == (REFUSED, "bundle")
    assert "limits.accepted_bundles" in caplog.text


def test_an_exchange_that_does_not_exist_is_answered_with_one_word(runner: Runner) -> None:
    strange = Message(RecordDict(), 5, "query.everything")
    reply = runner.answer(Waiting(strange, expected_bundle(RUN)))  # type: ignore[arg-type]
    assert (reply.error.code, reply.error.reason) == (FAILED, "internal")


def test_the_log_says_what_the_runner_does_whatever_a_library_set_up_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Opacus configures logging while it is imported, which Python does only once."""
    monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler()])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(runner_module, "Tasks", lambda *_: None)

    class Speaking:
        def __init__(self, *_: object) -> None: ...

        def stop(self) -> None: ...

        def run(self) -> None:
            runner_module.log.info("accepting bundle 12ab")

    monkeypatch.setattr(runner_module, "Runner", Speaking)
    runner_module.main(["site.yaml", "127.0.0.1:1", str(tmp_path / "secret")])
    assert "INFO accepting bundle 12ab" in capsys.readouterr().err


def test_the_bundle_expected_is_that_of_this_run(tmp_path: Path) -> None:
    other = RUN.model_copy(update={"seed": 6})
    assert expected_bundle(RUN) != expected_bundle(other)
