"""What is started again, for how long, and what ends the node."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from client.supervisor import HOPELESS, UNTRUSTED, Pace, Program, Service, supervise
from mfm_core.errors import RunFailed
from strategies import health

QUICK = Pace(
    poll_s=0.02,
    first_wait_s=0.05,
    longest_wait_s=0.2,
    settled_s=30.0,
    refused_s=0.6,
    patience_s=2.0,
    tries=3,
)
REFUSAL = "print('Exit Code: 305'); print('[code: 2004] Failed to activate SuperNode'); exit(1)"
STAYS = "import time; print('SuperNode ID: 7', flush=True); time.sleep(60)"


def service(place: Path, script: str, pace: Pace = QUICK) -> Service:
    """Return a service whose program sees the number of its start as `start`."""
    counter = place / "starts"
    head = (
        "import pathlib, sys\n"
        f"at = pathlib.Path({str(counter)!r})\n"
        "start = int(at.read_text()) + 1 if at.exists() else 1\n"
        "at.write_text(str(start))\n"
    )
    command = (sys.executable, "-I", "-c", head + script)
    return Service(
        Program("supernode", command, place / "logs" / "supernode.log", place, os.environ), pace
    )


def watch(found: Service, until: str, limit_s: float = 20.0) -> float:
    """Watch until a state is reached; return the seconds it took."""
    began = time.monotonic()
    while found.state != until:
        assert time.monotonic() - began < limit_s, (found.state, found.reason)
        time.sleep(0.02)
        found.watch()
    return time.monotonic() - began


def test_a_short_refusal_is_waited_out(tmp_path: Path) -> None:
    found = service(tmp_path, f"if start < 3: {REFUSAL}\n{STAYS}", Pace(**{**vars(QUICK)}))
    found.pace = Pace(**{**vars(QUICK), "refused_s": 30.0})
    found.start()
    while found.starts < 3:
        time.sleep(0.02)
        found.watch()
    while "SuperNode ID" not in found.said():
        time.sleep(0.02)
    found.watch()
    assert found.state == "running"
    found.stop()


def test_a_refusal_that_lasts_ends_with_what_to_do(tmp_path: Path) -> None:
    found = service(tmp_path, REFUSAL)
    found.start()
    assert watch(found, "failed") > QUICK.refused_s
    assert found.starts > QUICK.tries
    assert "not registered" in found.reason and "mfm-client check" in found.reason


def test_a_server_that_is_away_is_waited_for_without_an_end(tmp_path: Path) -> None:
    found = service(tmp_path, "print('Exit Code: 305'); print('502 Bad Gateway'); exit(1)")
    found.start()
    began = time.monotonic()
    while time.monotonic() - began < 3 * QUICK.refused_s or found.starts <= QUICK.tries:
        time.sleep(0.02)
        found.watch()
        assert found.state in ("running", "waiting")
    found.stop()


def test_why_a_server_cannot_be_trusted_is_said(tmp_path: Path) -> None:
    text = "Failed to initialize the connection to the SuperLink.\\n[SSL] certificate has expired"
    found = service(tmp_path, f"print('Exit Code: 305'); print('{text}'); exit(1)")
    found.start()
    watch(found, "waiting")
    assert "305: [SSL] certificate has expired" in found.reason


def test_a_wrong_clock_is_named_and_waited_out_however_long(tmp_path: Path) -> None:
    """Flower's SuperNode ends with status 0 and no reason when its signature is refused."""
    tries = QUICK.tries + 2
    end = "print('SuperNode terminated gracefully.'); exit(0)"
    found = service(tmp_path, f"if start < {tries}: {end}\n{STAYS}")
    found.start()
    watch(found, "waiting")
    assert "clock" in found.reason and "mfm-client check" in found.reason
    while found.starts < tries:
        time.sleep(0.02)
        found.watch()
        assert found.state in ("running", "waiting")
    found.stop()


@pytest.mark.parametrize("code", sorted(HOPELESS))
def test_what_repetition_cannot_cure_is_not_repeated(tmp_path: Path, code: int) -> None:
    found = service(tmp_path, f"print('Exit Code: {code}'); exit(1)")
    found.start()
    watch(found, "failed")
    assert found.starts == 1 and str(code) in found.reason


def test_a_program_that_never_stays_up_ends_the_node(tmp_path: Path) -> None:
    found = service(tmp_path, "exit(3)")
    found.start()
    watch(found, "failed")
    assert found.starts == QUICK.tries and "status 3" in found.reason


def test_only_what_was_said_since_the_last_start_counts(tmp_path: Path) -> None:
    found = service(tmp_path, f"if start == 1: {REFUSAL}\nexit(3)")
    found.start()
    watch(found, "failed")
    assert "status 3" in found.reason and "305" not in found.reason


def test_the_environment_is_the_given_one_and_nothing_else(tmp_path: Path) -> None:
    command = (sys.executable, "-I", "-c", "import os; print(sorted(os.environ))")
    log = tmp_path / "a.log"
    found = Service(Program("a", command, log, tmp_path, {"ONLY": "this"}), QUICK)
    found.start()
    while found.state == "running":
        found.watch()
    assert "'ONLY'" in log.read_text() and "'HOME'" not in log.read_text()


def test_a_program_deaf_to_sigterm_is_killed_with_all_it_started(tmp_path: Path) -> None:
    script = (
        "import signal, subprocess, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['/bin/sleep', '60'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    found = service(tmp_path, script)
    found.start()
    while not found.said().strip():
        time.sleep(0.02)
    grandchild = int(found.said().split()[0])
    began = time.monotonic()
    found.stop(patience_s=0.3)
    assert time.monotonic() - began < 5.0
    deadline = time.monotonic() + 5.0
    while Path(f"/proc/{grandchild}/stat").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{grandchild}/stat").read_text().split(")")[1].split()[0] == "Z":
            break
        time.sleep(0.02)
    assert time.monotonic() < deadline


def test_a_log_that_grew_large_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.supervisor.LARGEST_LOG", 10)
    found = service(tmp_path, "print('x' * 50)")
    found.start()
    watch(found, "waiting")
    watch(found, "running")
    found.stop()
    assert (tmp_path / "logs" / "supernode.log.1").read_text().count("x") == 50


def test_one_that_gives_up_ends_all_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    stays, fails = service(tmp_path / "a", STAYS), service(tmp_path / "b", "exit(3)")
    noted: list[str] = []
    with pytest.raises(RunFailed, match="status 3"):
        supervise((stays, fails), QUICK, lambda: noted.append(stays.state), lambda: False)
    assert stays.process is not None and not stays.process.alive
    assert noted[0] == "running" and noted[-1] == "stopped"


def test_being_told_to_end_ends_in_reverse_order(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = service(tmp_path / "a", STAYS), service(tmp_path / "b", STAYS)
    order: list[str] = []
    for name, found in (("first", first), ("second", second)):
        plain = found.stop
        found.stop = lambda patience_s=None, name=name, plain=plain: (  # type: ignore[method-assign]
            order.append(name),
            plain(patience_s),
        )[1]
    told = threading.Event()
    threading.Timer(0.3, told.set).start()
    supervise((first, second), QUICK, lambda: None, told.is_set)
    assert order == ["second", "first"]
    assert not any(found.process and found.process.alive for found in (first, second))


def test_a_node_that_lost_its_trust_and_does_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower's SuperNode stops serving at a certificate that has ended, and stays."""
    monkeypatch.setattr(health, "PROBE_EVERY_S", 0.05)
    found = service(tmp_path, f"import time; print({UNTRUSTED!r}, flush=True); time.sleep(60)")
    found.program = replace(found.program, health=health.quiet_address())
    found.start()
    assert watch(found, "waiting") < 15.0 < health.SICK_S
    assert "certificate" in found.reason and found.process and not found.process.alive
    found.stop()


def test_a_node_that_is_silent_for_a_moment_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_EVERY_S", 0.05)
    found = service(tmp_path, STAYS)
    found.program = replace(found.program, health=health.quiet_address())
    found.start()
    for _ in range(20):
        time.sleep(0.05)
        found.watch()
    assert found.state == "running" and found.pulse.answers is False
    found.stop()
