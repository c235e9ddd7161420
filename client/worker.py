"""The site's working process: it computes, its parent talks.

The parent (`client.runner`) holds the network, the limits, the outbox and the ledger. The child
holds the images and the model, is confined (`client.sandbox`), stays warm between messages, and is
ended with SIGKILL when it takes too long. They speak over one pair of sockets; arrays go as
safetensors, never as pickles. What crosses the hospital's boundary: nothing here.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from client.app import Reply, Request, do_work
from client.private_round import Permit, count_units
from client.sandbox import PARTS
from client.site import Site, open_site
from mfm_core.devices import Wanted
from mfm_core.errors import (
    BoundaryError,
    MfmError,
    UpdateRejected,
    WorkerFailed,
    WorkerStopped,
    unforeseen_word,
)
from mfm_core.sums import Sum
from strategies import wire
from strategies.code_hash import bundle_folder
from strategies.plan import Kind
from strategies.wire import MODEL

START_LIMIT_S = 120.0
COUNT = "count"
"""Asks the child for the units of a private round."""

log = logging.getLogger("mfm.node")


def pack(head: dict[str, Any], payload: wire.Payload) -> list[bytes]:
    """Return a message of the pair: a JSON head and the arrays."""
    arrays = {} if payload.total is None else dict(payload.total.arrays)
    schema = None if payload.total is None else list(arrays)
    named: dict[str, NDArray[Any]] = {f"sum/{name}": array for name, array in arrays.items()}
    if payload.model is not None:
        named[MODEL] = payload.model
    # safetensors writes the memory of an array as it lies, whatever its strides say
    whole = {name: np.ascontiguousarray(array) for name, array in named.items()}
    return [json.dumps({**head, "sum": schema}).encode(), save(whole)]


def unpack(parts: list[bytes]) -> tuple[dict[str, Any], wire.Payload]:
    """Return head and payload of `pack`."""
    head, arrays = json.loads(parts[0]), load(parts[1])
    total = None
    if head["sum"] is not None:
        total = Sum({name: arrays[f"sum/{name}"] for name in head["sum"]})
    return head, wire.Payload(arrays.get(MODEL), total)


@dataclass
class Worker:
    """The child of one site, started when first needed and again after it was ended.

    Attributes:
        site_file: the site's settings.
        data: folder of the images, read-only to the child where the kernel allows.
        limit_s: longest time of one answer.
        memory_bytes: largest private memory of the child, or None.
        device: the site's; with cpu the child is shown no graphics card, whatever it asks for.
        confined: which protections are in force, once it runs.
    """

    site_file: Path
    data: Path
    limit_s: float
    memory_bytes: int | None = None
    device: Wanted = "cpu"
    confined: dict[str, bool] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None
    _pipe: Connection | None = None

    def ask(self, kind: Kind, request: Request) -> Reply:
        """Return the child's answer to one request.

        Raises:
            WorkerStopped: it took too long, ran out of memory or died; a new one starts next time.
            UpdateRejected: the work was refused with a coded word.
            WorkerFailed: it could not be done; `code` is the word.
        """
        permit = None if request.permit is None else asdict(request.permit)
        asked = {"kind": kind, "round": request.round, "permit": permit}
        head, payload = self._exchange(asked, request.payload)
        return Reply(int(head["images"]), payload)

    def count(self, site: Site) -> int:
        """Return how many units a private round of this site draws from, as the child counts them.

        Raises:
            WorkerStopped, UpdateRejected, WorkerFailed: as `ask`.
        """
        return int(self._exchange({"kind": COUNT}, wire.Payload())[0]["units"])

    def _exchange(
        self, asked: dict[str, Any], payload: wire.Payload
    ) -> tuple[dict[str, Any], wire.Payload]:
        pipe = self._ready()
        try:
            for part in pack(asked, payload):
                pipe.send_bytes(part)
            head, answered = unpack(self._receive(pipe, self.limit_s))
        except (OSError, EOFError):
            raise self._stopped("it ended without an answer") from None
        if word := head.get("error"):
            kind = UpdateRejected if head.get("refused") else WorkerFailed
            raise kind(word, f"the work ended with the error {word}; see the site's log")
        return head, answered

    @property
    def pid(self) -> int | None:
        """The child's process, None when there is none."""
        return None if self._process is None else self._process.pid

    def stop(self) -> None:
        """End the child, if there is one."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._pipe = None

    def _ready(self) -> Connection:
        if self._process is not None and self._process.poll() is not None:
            self.stop()
        if self._pipe is None:
            self._start()
        assert self._pipe is not None
        return self._pipe

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "client.child", str(theirs.fileno())]
            command += [str(self.site_file.resolve()), str(self.data), str(self.memory_bytes or 0)]
            hidden = {"CUDA_VISIBLE_DEVICES": ""} if self.device == "cpu" else {}
            self._process = subprocess.Popen(
                command,
                cwd=bundle_folder(),
                env={**os.environ, **hidden},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._pipe = Connection(ours.detach())
        try:
            head, _ = unpack(self._receive(self._pipe, START_LIMIT_S))
        except (OSError, EOFError):
            raise self._stopped("it could not start") from None
        self.confined = head["confined"]
        open_parts = [name for name in PARTS if not self.confined[name]]
        log.info("worker %d started; not in force: %s", self._process.pid, open_parts or "nothing")

    def _receive(self, pipe: Connection, limit_s: float) -> list[bytes]:
        end = time.monotonic() + limit_s
        parts = []
        for _ in range(2):
            if not pipe.poll(max(0.0, end - time.monotonic())):
                raise self._stopped(f"no answer within {limit_s:.0f} s")
            parts.append(pipe.recv_bytes())
        return parts

    def _stopped(self, why: str) -> WorkerStopped:
        code = None if self._process is None else self._process.poll()
        self.stop()
        ended = "" if code is None else f" (exit {code})"
        return WorkerStopped(f"the working process was ended: {why}{ended}")


def answer(pipe: Connection, site_file: Path) -> None:
    """Answer requests until the parent closes the pair."""
    while True:
        try:
            parts = [pipe.recv_bytes(), pipe.recv_bytes()]
        except EOFError:
            return
        head, payload = unpack(parts)
        for part in _work(site_file, head, payload):
            pipe.send_bytes(part)


def _work(site_file: Path, head: dict[str, Any], payload: wire.Payload) -> list[bytes]:
    site = open_site(site_file)
    try:
        if head["kind"] == COUNT:
            return pack({"units": count_units(site)}, wire.Payload())
        permit = None if head["permit"] is None else Permit(**head["permit"])
        request = Request(site, head["kind"], head["round"], payload, permit=permit)
        reply = do_work(request.kind, request)
    except MfmError as error:
        site.log.error("%s %s: %s", head["kind"], type(error).__name__, error)
        word = error.reason if isinstance(error, UpdateRejected) else error.code
        said_no = isinstance(error, BoundaryError | UpdateRejected)
        return pack({"error": word, "refused": said_no}, wire.Payload())
    except MemoryError:
        site.log.exception("%s: out of memory", head["kind"])
        return pack({"error": "memory"}, wire.Payload())
    except Exception as error:
        site.log.exception("%s: unexpected", head["kind"])
        return pack({"error": unforeseen_word(error)}, wire.Payload())
    return pack({"images": reply.images}, reply.payload)
