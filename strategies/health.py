"""Whether a program answers: asked by the standard gRPC health service, grpc.health.v1.

Flower's SuperLink and SuperNode serve it with `--health-server-address` (flwr 1.41). It says that
the process runs its threads, not that its interface works, so callers ask that one as well where
there is one. A program that runs and has long been silent is to be ended and started again.
What crosses the hospital's boundary: nothing; the address is on loopback.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from strategies.processes import read_process

PROBE_EVERY_S = 15.0
STARTING_EVERY_S = 1.0
"""Between two looks at a program that has just started; its silence counts after PROBE_EVERY_S."""

SICK_S = 120.0
"""A program that runs but has not answered for so long is ended and started again."""


def is_serving(address: str, limit_s: float = 2.0) -> bool:
    """Tell whether a gRPC health server says SERVING.

    Args:
        address: host:port, without TLS, hence on loopback.
        limit_s: longest wait, seconds.
    """
    with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(service=""), timeout=limit_s)
        except grpc.RpcError:
            return False
    return bool(answer.status == HealthCheckResponse.SERVING)


def read_ills(record: Path) -> tuple[str, ...]:
    """Return what is not well about the processes of a supervisor; empty when all is.

    Args:
        record: its processes.json.
    """
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        supervisor = read_process(content["supervisor"])
        rows = [(str(row["name"]), read_process(row), row) for row in content["services"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ("it does not run",)
    if supervisor is None or not supervisor.alive:
        return ("it does not run",)
    ills = [f"{name} does not run" for name, found, _ in rows if found is None or not found.alive]
    ills += [f"{name} does not answer" for name, _, row in rows if row.get("answers") is False]
    if content.get("ready") is False:
        ills.append("it is not ready yet")
    address = content.get("health")
    if not ills and address and not is_serving(address):
        ills.append(f"the gRPC health check at {address} is not answered")
    return tuple(ills)


def quiet_address() -> str:
    """Return host:port of loopback that stays free while a program starts again.

    Outgoing connections take their ports on 127.0.0.1, so a port of another address of 127.0.0.0/8
    is taken only by who asks for that very address.
    """
    host = f"127.{secrets.randbelow(254) + 1}.{secrets.randbelow(256)}.{secrets.randbelow(254) + 1}"
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"


@dataclass
class Pulse:
    """Whether one program answers, and for how long it has not.

    Attributes:
        ask: asks it once.
        answers: what it last said; None while it does not run or has just started.
    """

    ask: Callable[[], bool]
    answers: bool | None = None
    _well_at: float = field(default_factory=time.monotonic)
    _next: float = 0.0

    def is_lost(self, alive: bool) -> bool:
        """Ask when it is time to; return whether it runs and has been silent for too long.

        Args:
            alive: whether its process runs; one that does not is nobody's to ask.
        """
        now = time.monotonic()
        if not alive:
            self.answers, self._well_at, self._next = None, now, now
            return False
        if now < self._next:
            return False
        self._next = now + (STARTING_EVERY_S if self.answers is None else PROBE_EVERY_S)
        answers = self.ask()
        if answers:
            self._well_at = time.monotonic()
        if answers or self.answers is not None or now - self._well_at >= PROBE_EVERY_S:
            self.answers = answers
        if time.monotonic() - self._well_at <= SICK_S:
            return False
        self._well_at = time.monotonic()
        return True
