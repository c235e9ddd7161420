"""A signal goes to the very process that was started, never to one that got its number."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest

from client.processes import ended_with_parent, observe, read_process, wait_until_gone

SLEEP = ["/bin/sleep", "60"]


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
        "from client.processes import ended_with_parent\n"
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
