"""The SuperNode's pace, and that Flower's loop is the one this was written for."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

from flwr.supernode import start_client_internal

from client import supernode
from client.supernode import BUSY_S, LOOK_S, REPLY_S, Pace


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def read(self) -> float:
        return self.now


def test_looks_are_frequent_after_a_message_and_rare_when_idle() -> None:
    clock = Clock()
    pace = Pace(clock.sleep, clock.read)
    pace.sleep(3)
    pace.sleep(0.5)
    pace.sleep(3)
    assert clock.slept == [3, REPLY_S, LOOK_S]
    looks = 0
    while clock.slept[-1] != 3:
        pace.sleep(3)
        looks += 1
    assert looks == BUSY_S / LOOK_S


def test_flowers_loop_uses_the_clock_for_these_two_waits_only() -> None:
    source = inspect.getsource(start_client_internal)
    assert set(re.findall(r"\btime\.\w+\([\d.]*\)", source)) == {"time.sleep(3)", "time.sleep(0.5)"}
    assert set(re.findall(r"\btime\.(\w+)", source)) == {"sleep"}


def test_it_takes_the_options_of_flowers_own_program() -> None:
    script = Path(supernode.__file__)
    done = subprocess.run(
        [sys.executable, "-P", str(script), "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and "Flower version" in done.stdout
