"""A process is ended only when it is the very one that was recorded, and then with its children."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from strategies.processes import (
    descendants,
    end,
    ended_with_parent,
    observe,
    read_process,
    send_signal,
    split_address,
    wait_until_gone,
)

SLEEP = ["/bin/sleep", "60"]
SLEEPER = "import time; time.sleep(60)"
STUBBORN = (
    "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    f"child = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], start_new_session=True); "
    "print(child.pid, flush=True); time.sleep(60)"
)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", SLEEPER])
    yield child
    child.kill()
    child.wait()


def test_a_process_of_another_start_time_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    found = observe("sleeper", sleeper.pid)
    assert found is not None and found.alive
    for changed in ({"started": found.started - 1}, {"boot": "another"}):
        stranger = dataclasses.replace(found, **changed)
        assert not stranger.alive
        end([stranger], patience_s=0.1)
        send_signal(stranger, signal.SIGKILL)
    assert sleeper.poll() is None


def test_a_dead_child_that_nobody_collected_does_not_count_as_running(
    sleeper: subprocess.Popen[bytes],
) -> None:
    found = observe("sleeper", sleeper.pid)
    assert found is not None
    os.kill(sleeper.pid, signal.SIGKILL)
    assert wait_until_gone([found], 5.0) == ()


def test_what_ignores_sigterm_is_forced_and_its_children_go_with_it() -> None:
    parent = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = observe("child", int(parent.stdout.readline()))
    found = observe("parent", parent.pid)
    assert child is not None and found is not None and child.pid in descendants(parent.pid)
    start = time.monotonic()
    end([found], patience_s=0.3)
    assert time.monotonic() - start < 5.0
    assert not found.alive and not child.alive
    parent.wait()
    parent.stdout.close()


def test_a_record_comes_back_from_json_and_nonsense_does_not(
    sleeper: subprocess.Popen[bytes],
) -> None:
    found = observe("sleeper", sleeper.pid)
    assert found is not None and read_process(found.to_dict()) == found
    for wrong in (None, {}, [], {"name": "x", "pid": "y", "started": 1, "boot": ""}):
        assert read_process(wrong) is None


def test_a_record_survives_json_and_knows_its_process() -> None:
    child = subprocess.Popen(SLEEP)
    found = observe("sleeper", child.pid)
    assert found is not None and found.alive and read_process(found.to_dict()) == found
    child.kill()
    child.wait()
    assert not found.alive and observe("sleeper", child.pid) is None


def test_a_process_with_the_same_number_but_another_start_gets_no_signal() -> None:
    child = subprocess.Popen(SLEEP)
    found = observe("sleeper", child.pid)
    assert found is not None
    for changed in ({"started": found.started - 1}, {"boot": "another boot"}):
        stranger = dataclasses.replace(found, **changed)  # type: ignore[arg-type]
        stranger.send(signal.SIGKILL)
        assert not stranger.alive
    time.sleep(0.1)
    assert child.poll() is None
    found.send(signal.SIGKILL)
    assert child.wait(5) == -signal.SIGKILL
    assert wait_until_gone((found,), 1.0) == ()


@pytest.mark.parametrize("content", [None, {}, {"pid": "x"}, [1], {"name": "a", "pid": 1}])
def test_what_is_no_record_is_none(content: object) -> None:
    assert read_process(content) is None


def test_a_program_ends_when_its_parent_is_killed() -> None:
    script = (
        "import subprocess, time\n"
        "from strategies.processes import ended_with_parent\n"
        "child = subprocess.Popen(ended_with_parent(['/bin/sleep', '60']))\n"
        "time.sleep(0.5)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    found = observe("sleeper", int(parent.stdout.readline()))
    assert found is not None and found.alive
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until_gone((found,), 5.0) == ()


def test_a_program_whose_parent_is_gone_already_does_not_start() -> None:
    command = list(ended_with_parent(["/bin/echo", "started"]))
    command[command.index(str(os.getpid()))] = "1"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "started" not in done.stdout


def test_addresses_are_split_with_their_brackets_off() -> None:
    assert split_address("[::1]:8000") == ("::1", 8000)
    assert split_address("0.0.0.0:443") == ("0.0.0.0", 443)
