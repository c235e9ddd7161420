"""What ends is started again, later each time, and its words are kept."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from server import services
from server.services import Recipe, Service


def recipe(folder: Path, program: str) -> Recipe:
    command = [sys.executable, "-c", program]
    return Recipe("thing", command, dict(os.environ), folder, folder / "logs" / "thing.log")


def watch_until(service: Service, starts: int, limit_s: float = 20.0) -> float:
    begun = time.monotonic()
    while service.starts < starts and time.monotonic() - begun < limit_s:
        service.watch()
        time.sleep(0.01)
    return time.monotonic() - begun


def test_a_killed_process_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "FIRST_PAUSE_S", 0.05)
    service = Service(recipe(tmp_path, "import time; print('up', flush=True); time.sleep(60)"))
    service._pause_s = 0.05
    service.start()
    first = service.process
    assert first is not None and not service.watch()
    os.kill(first.pid, signal.SIGKILL)
    watch_until(service, 2)
    assert service.alive and service.process is not None and service.process.pid != first.pid
    service.stop()
    assert not service.alive and not service.process.alive


def test_the_pause_doubles_while_it_keeps_ending(tmp_path: Path) -> None:
    service = Service(recipe(tmp_path, "print('no', flush=True); raise SystemExit(3)"))
    service._pause_s = 0.1
    service.start()
    taken = watch_until(service, 4)
    assert service.starts == 4 and taken >= 0.1 + 0.2 + 0.4
    service.stop()
    assert service.say() == "no"


def test_a_long_life_makes_the_next_pause_short_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "STEADY_S", 0.0)
    monkeypatch.setattr(services, "FIRST_PAUSE_S", 0.01)
    service = Service(recipe(tmp_path, "pass"))
    service._pause_s = 60.0
    service.start()
    assert watch_until(service, 2) < 15.0 and service.starts == 2
    service.stop()


def test_a_large_log_is_put_aside_while_somebody_writes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "LARGEST_LOG", 1000)
    talk = "import time\nwhile True: print('x' * 99, flush=True); time.sleep(0.005)"
    service = Service(recipe(tmp_path, talk))
    service.start()
    stop_at, aside = time.monotonic() + 10.0, tmp_path / "logs" / "thing.old.log"
    while time.monotonic() < stop_at and not aside.is_file():
        service.watch()
        time.sleep(0.01)
    size = (tmp_path / "logs" / "thing.log").stat().st_size
    service.stop()
    assert aside.stat().st_size > 1000 > size
    assert "\0" not in (tmp_path / "logs" / "thing.log").read_text()
