"""A loopback consortium: its folders, and that nothing it starts outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from client.config import load_site_config
from mfm_core.config import DataConfig, canonical_hash
from mfm_core.errors import ConfigError, RunFailed
from server.commands_hosting import find_host
from simulation.consortium import Consortium, Hospital, free_addresses
from strategies.processes import descendants
from tests.server.hospitals import RUN

SLEEPER = [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '300'])"]


def hospital(folder: Path, name: str) -> Hospital:
    content = {"root": str(folder / name), "manifest": str(folder / name / "manifest.csv")}
    return Hospital(DataConfig.model_validate(content), {"min_cell_count": 3}, b"s" * 32)


def consortium(folder: Path) -> Consortium:
    sites = {name: hospital(folder, name) for name in ("north", "south")}
    return Consortium(folder / "made", RUN, sites, {"deadline_s": 60.0})


def wait_for_child(pid: int) -> tuple[int, ...]:
    """Return the process and what it started, once it has."""
    stop_at = time.monotonic() + 20
    while not descendants(pid) and time.monotonic() < stop_at:
        time.sleep(0.02)
    assert descendants(pid)
    return (pid, *descendants(pid))


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False


def test_the_folders_hold_what_was_agreed_and_each_hospitals_own_settings(tmp_path: Path) -> None:
    with consortium(tmp_path) as made:
        host, hosting = find_host(made.coordinator)
        assert hosting.deadline_s == 60.0 and hosting.address == hosting.listen == host.listen
        for name in made.names:
            config = load_site_config(made.hospital(name).site_file)
            assert config.limits.accepted_runs == (canonical_hash(RUN),)
            assert (config.name, config.limits.min_cell_count) == (name, 3)
            assert config.data.root == tmp_path / name
            assert (config.state_folder / "secret.key").read_bytes() == b"s" * 32
        assert made.processes() == {} == made.processes("north")
        assert (made.rounds(), made.ending(), made.ledger("north").problems) == ([], None, ())
    with pytest.raises(ConfigError, match="not an empty folder"):
        consortium(tmp_path).__enter__()


def test_addresses_differ() -> None:
    assert len(set(free_addresses(20))) == 20


def test_an_exception_ends_all_that_was_started_even_if_suspended_and_nothing_else(
    tmp_path: Path,
) -> None:
    other = subprocess.Popen(["sleep", "300"])
    try:
        with pytest.raises(KeyboardInterrupt), consortium(tmp_path) as made:
            child = made._spawn("north", SLEEPER)
            started = wait_for_child(child.pid)
            with pytest.raises(ConfigError, match="runs already"):
                made._spawn("north", SLEEPER)
            os.kill(child.pid, signal.SIGSTOP)
            raise KeyboardInterrupt
        assert len(started) == 2 and not any(alive(pid) for pid in started)
        assert alive(other.pid)
    finally:
        other.kill()
        other.wait()


def test_what_does_not_start_says_its_last_words(tmp_path: Path) -> None:
    with consortium(tmp_path) as made:
        made._spawn("north", [sys.executable, "-c", "print('no room'); raise SystemExit(3)"])
        with pytest.raises(RunFailed, match="north did not start: no room"):
            made.await_start("north", lambda: False)


def test_a_kill_of_the_starter_ends_what_it_started(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from tests.simulation.test_consortium import SLEEPER, consortium
made = consortium(Path({str(tmp_path)!r})).__enter__()
print(made._spawn("north", ["{sys.executable}", "-c", "import time; time.sleep(300)"]).pid)
input()
"""
    starter = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-uc", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    starter.kill()
    starter.communicate()
    stop_at = time.monotonic() + 20
    while alive(pid) and time.monotonic() < stop_at:
        time.sleep(0.02)
    assert not alive(pid)
