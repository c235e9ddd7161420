"""The working process: the same answers as in this process, confined, and never waited for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client.app import Request, do_work
from client.site import Site, open_site
from client.worker import Worker, pack, unpack
from mfm_core.checkpoint import flat_weights
from mfm_core.errors import WorkerFailed, WorkerStopped
from mfm_core.sums import Sum
from strategies import wire
from tests.server.hospitals import lay_out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("worker"), names=("north",))


@pytest.fixture(scope="module")
def site(folder: Path) -> Site:
    return open_site(folder / "sites" / "0.yaml")


@pytest.fixture(scope="module")
def worker(folder: Path, site: Site) -> Iterator[Worker]:
    found = Worker(folder / "sites" / "0.yaml", site.config.data.root, limit_s=120.0)
    yield found
    found.stop()


def request(site: Site) -> Request:
    return Request(site, "train", 1, wire.Payload(flat_weights(site.model)))


def test_arrays_come_back_to_the_bit() -> None:
    turned = np.arange(24.0).reshape(4, 6)[:, ::2]
    total = Sum({"b": np.array([1e-300, np.pi]), "a": np.zeros((2, 0, 3)), "turned": turned})
    payload = wire.Payload(np.arange(5, dtype=np.float32), total)
    head, again = unpack(pack({"kind": "train"}, payload))
    assert head["kind"] == "train" and again.total is not None and again.model is not None
    assert again.total.schema == total.schema
    assert again.total.flatten().tobytes() == total.flatten().tobytes()
    assert again.model.tobytes() == np.arange(5, dtype=np.float32).tobytes()


def test_the_child_answers_with_the_bits_of_this_process(site: Site, worker: Worker) -> None:
    asked = request(site)
    theirs = worker.ask("train", asked)
    ours = do_work("train", asked)
    assert theirs.images == ours.images
    around = Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"\0")
    assert b"CUDA_VISIBLE_DEVICES=" in around, "device: cpu shows the child no card"
    assert theirs.payload.model is not None and ours.payload.model is not None
    assert theirs.payload.model.tobytes() == ours.payload.model.tobytes()
    assert theirs.payload.total is not None and ours.payload.total is not None
    assert theirs.payload.total.flatten().tobytes() == ours.payload.total.flatten().tobytes()


def test_the_child_stays_warm_and_says_how_it_is_confined(site: Site, worker: Worker) -> None:
    worker.ask("hello", Request(site, "hello", 0, wire.Payload()))
    first = worker.pid
    worker.ask("hello", Request(site, "hello", 0, wire.Payload()))
    assert worker.pid == first
    assert worker.confined["ends with its parent"] and worker.confined["no new privileges"]


def test_a_killed_child_is_an_error_and_the_next_message_has_a_new_one(
    site: Site, worker: Worker
) -> None:
    worker.ask("hello", Request(site, "hello", 0, wire.Payload()))
    pid = worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    try:
        worker.ask("hello", Request(site, "hello", 0, wire.Payload()))
    except WorkerStopped:
        worker.ask("hello", Request(site, "hello", 0, wire.Payload()))
    assert worker.pid not in (None, pid)


def test_a_child_that_hangs_is_ended_in_time(folder: Path, site: Site) -> None:
    slow = Worker(folder / "sites" / "0.yaml", site.config.data.root, limit_s=120.0)
    slow.ask("hello", Request(site, "hello", 0, wire.Payload()))
    pid = slow.pid
    assert pid is not None
    slow.limit_s = 0.5
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(WorkerStopped, match="no answer within"):
        slow.ask("hello", Request(site, "hello", 0, wire.Payload()))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_error_comes_back_as_a_coded_word_without_its_text(site: Site, worker: Worker) -> None:
    """It is the site's failure, which may be asked again, and no refusal."""
    wrong = Request(site, "train", 1, wire.Payload(np.zeros(3, dtype=np.float32)))
    with pytest.raises(WorkerFailed, match="see the site's log") as caught:
        worker.ask("train", wrong)
    assert caught.value.code in ("internal", "checkpoint")
