"""Who answers is well, who is silent is lost, and what is not well is named."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from strategies import health
from strategies.health import Pulse, is_serving, quiet_address, read_ills
from strategies.processes import observe


@pytest.fixture
def address() -> str:
    return quiet_address()


@pytest.fixture
def servicer(address: str) -> Iterator[HealthServicer]:
    """A health server."""
    found, server = HealthServicer(), grpc.server(ThreadPoolExecutor(2))
    add_HealthServicer_to_server(found, server)
    assert server.add_insecure_port(address)
    server.start()
    yield found
    server.stop(None).wait()


def test_only_serving_counts_as_well(address: str, servicer: HealthServicer) -> None:
    assert is_serving(address)
    servicer.set("", HealthCheckResponse.NOT_SERVING)
    assert not is_serving(address)


def test_a_proxy_of_the_environment_is_not_asked(
    address: str, servicer: HealthServicer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert is_serving(address)


def test_an_outgoing_connection_with_the_same_port_takes_nothing_away(address: str) -> None:
    """It may well get the number while a program starts again, on 127.0.0.1."""
    host, _, port = address.rpartition(":")
    assert not is_serving(address, 0.3) and host != "127.0.0.1"
    with socket.socket() as listening, socket.socket() as outgoing, socket.socket() as program:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        outgoing.bind(("127.0.0.1", int(port)))
        outgoing.connect(listening.getsockname())
        program.bind((host, int(port)))


def test_a_program_that_starts_is_asked_often_and_not_called_silent_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, asked = [1000.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pulse = Pulse(lambda: asked.append(now[0]) or len(asked) > 5)  # type: ignore[func-returns-value]
    while pulse.answers is None:
        pulse.is_lost(True)
        now[0] += 0.25
    assert pulse.answers is True and asked[-1] == 1000.0 + 5 * health.STARTING_EVERY_S

    never = Pulse(lambda: False)
    began = now[0]
    while never.answers is None:
        never.is_lost(True)
        now[0] += 0.25
    assert never.answers is False and now[0] - began > health.PROBE_EVERY_S


def test_silence_is_forgiven_for_a_while_and_then_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    said = [True]
    pulse = Pulse(lambda: said[0])
    assert not pulse.is_lost(True) and pulse.answers is True
    said[0] = False
    lost = []
    for _ in range(12):
        now[0] += health.PROBE_EVERY_S
        lost.append(pulse.is_lost(True))
    assert pulse.answers is False
    assert lost.index(True) * health.PROBE_EVERY_S == pytest.approx(health.SICK_S)
    assert sum(lost) == 1, "what was ended has time to come back"
    assert not pulse.is_lost(False) and pulse.answers is None


def record(path: Path, **changed: object) -> Path:
    own = observe("supervisor", os.getpid())
    assert own is not None
    row = {**own.to_dict(), "name": "superlink", "answers": True}
    path.write_text(json.dumps({"supervisor": own.to_dict(), "services": [row], **changed}))
    return path


def test_what_is_not_well_is_named(tmp_path: Path, address: str) -> None:
    path = tmp_path / "processes.json"
    assert read_ills(path) == ("it does not run",)
    for text in ("", "[]", "{}", '{"supervisor": 3, "services": [1]}'):
        path.write_text(text)
        assert read_ills(path) == ("it does not run",)
    assert read_ills(record(path)) == ()
    assert read_ills(record(path, ready=False)) == ("it is not ready yet",)
    (ill,) = read_ills(record(path, health=address))
    assert "gRPC health check" in ill
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        gone = observe("gateway", child.pid)
        assert gone is not None
        child.wait()
    assert read_ills(record(path, services=[gone.to_dict()])) == ("gateway does not run",)
    silent = [{**gone.to_dict(), "answers": False}]
    assert "gateway does not answer" in read_ills(record(path, services=silent))
