"""The hospital's own runner: takes a SuperNode's messages, decides, computes in a child, answers.

It stands where Flower would start `flower-superexec` and a fresh `flwr-clientapp` per message.
The difference: nothing that the server sends is ever executed. A message is answered only if the
bundle of its run is the one this site builds from its own installed code; the limits, the outbox
and the ledger are held here, outside the process that computes; every message gets an answer, and
an error leaves as one coded word. What crosses the hospital's boundary: what `client.app` released.
"""

from __future__ import annotations

import logging
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from flwr.app import Error, Message

from client import app
from client.message_record import FILE, MessageRecord
from client.site import open_site
from client.tasks import REACH_ERRORS, Task, Tasks
from client.worker import Worker
from mfm_core.errors import MfmError
from strategies.bundle import bundle_hash, stage_bundle
from strategies.config import RunConfig
from strategies.rounds import FAILED, REFUSED

POLL_S = 0.2
RETRY_S = 2.0
log = logging.getLogger("mfm.node")


def expected_bundle(run: RunConfig) -> str:
    """Return the hash of the bundle of this run, built from the installed code."""
    with tempfile.TemporaryDirectory(prefix="mfm-bundle-") as folder:
        return bundle_hash(stage_bundle(run, Path(folder)))


class Runner:
    """Answers the messages of one site until it is told to stop."""

    def __init__(self, site_file: Path, tasks: Tasks, record: Path | None = None) -> None:
        site = open_site(site_file)
        limits = site.config.limits
        self._site_file, self._tasks = site_file, tasks
        self._bundle = expected_bundle(site.run)
        self._accepted = limits.accepted_bundles or (self._bundle,)
        self._worker = Worker(
            site_file,
            site.config.data.root,
            limits.max_minutes * 60.0,
            limits.memory_bytes,
            site.config.device,
        )
        self._record = MessageRecord(record)
        self._stopping = threading.Event()
        app.perform, app.count = self._worker.ask, self._worker.count

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Finish the message in hand, then end."""
        self._stopping.set()

    def run(self) -> None:
        """Answer messages until `stop`; wait for the SuperNode where it is not there."""
        log.info("accepting bundle %s", self._bundle)
        try:
            while not self._stopping.is_set():
                self._stopping.wait(self._turn())
        finally:
            self._worker.stop()
            self._tasks.close()

    def _turn(self) -> float:
        """Answer one message if one waits; return the seconds to wait before the next look."""
        try:
            with self._tasks.next() as task:
                if task is None:
                    return POLL_S
                began = time.monotonic()
                reply = self.answer(task)
                self._note(reply, time.monotonic() - began)
                task.give_back(reply)
                return 0.0
        except REACH_ERRORS as error:
            log.warning("the SuperNode cannot be reached (%s); trying again", error)
            return RETRY_S

    def _note(self, reply: Message, seconds: float) -> None:
        """Count a message; figures that cannot be written hold nothing up."""
        try:
            self._record.note(reply, seconds, self._worker.confined)
        except OSError as error:
            log.warning("the count of messages cannot be written: %s", error)

    def answer(self, task: Task) -> Message:
        """Return the reply to a task; always one."""
        if task.bundle_hash != self._bundle:
            log.error("refused a run with bundle %s; expected %s", task.bundle_hash, self._bundle)
            return Message(Error(REFUSED, "bundle"), reply_to=task.message)
        if self._bundle not in self._accepted:
            log.error("refused bundle %s: not in limits.accepted_bundles", self._bundle)
            return Message(Error(REFUSED, "bundle"), reply_to=task.message)
        task.context.node_config["site-config"] = str(self._site_file)
        try:
            return app.app(task.message, task.context)
        except MfmError as error:
            log.error("%s", error)
            return Message(Error(FAILED, error.code), reply_to=task.message)
        except Exception:
            log.exception("unexpected")
            return Message(Error(FAILED, "internal"), reply_to=task.message)


def main(arguments: Sequence[str]) -> None:
    """Run until SIGTERM or SIGINT.

    Args:
        arguments: the site's settings file, host:port of the SuperNode's runtime interface, and
            the file of the secret that both were started with.
    """
    site_file, address, secret = arguments
    words = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.INFO, format=words, force=True)  # Opacus sets WARNING
    logging.getLogger("httpx").setLevel(logging.WARNING)
    record = Path(secret).with_name(FILE)
    runner = Runner(Path(site_file).resolve(), Tasks(address, Path(secret)), record)
    signal.signal(signal.SIGTERM, runner.stop)
    signal.signal(signal.SIGINT, runner.stop)
    runner.run()


if __name__ == "__main__":
    main(sys.argv[1:])
