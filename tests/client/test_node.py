"""The node of a hospital: what is started, what is ended, and what a kill leaves behind."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import node
from client.folder import Folder
from mfm_core.errors import ConfigError, RunFailed
from strategies.code_hash import bundle_folder
from strategies.health import read_ills
from strategies.processes import wait_until_gone
from tests.client.hospital_folder import make_hospital, make_kit

FAKE = """
import sys
from pathlib import Path
from client import node
from client.folder import Folder
from client.supervisor import Pace, Program

def programs(folder, address, around, health=None):
    place = folder.node / "home"
    place.mkdir(parents=True, exist_ok=True)
    says = "import time; print('SuperNode ID: 7', flush=True); time.sleep(60)"
    return tuple(
        Program(name, (sys.executable, "-Ic", says), folder.node / f"{name}.log", place, around)
        for name in ("supernode", "runner")
    )

node.programs = programs
node.run_node(Folder(Path(sys.argv[1])), Pace(poll_s=0.05, patience_s=2.0))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return make_hospital(tmp_path / "north", make_kit(tmp_path / "kit"), images=4)


@pytest.fixture
def running(folder: Folder) -> Iterator[subprocess.Popen[bytes]]:
    """Run a node whose programs only sleep."""
    child = subprocess.Popen([sys.executable, "-c", FAKE, str(folder.root)], cwd=bundle_folder())
    deadline = time.monotonic() + 60.0
    while not node.read_node(folder).connected:
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    yield child
    child.kill()
    child.wait()
    node.end_left_over(folder)


def test_supernode_and_runner_share_a_secret_and_hold_the_hospitals_key(folder: Folder) -> None:
    around = {"PATH": "/bin", "HTTP_PROXY": "http://p:1", "NO_PROXY": "a.example"}
    supernode, runner = node.programs(folder, "127.0.0.1:5000", around)
    words = supernode.command
    pairs = dict(itertools.pairwise(words))
    assert pairs["--isolation"] == "process" and pairs["--superlink"] == "127.0.0.1:9"
    assert pairs["--root-certificates"] == str(folder.authority)
    assert pairs["--auth-supernode-private-key"] == str(folder.key)
    assert (pairs["--host"], pairs["--port"]) == ("127.0.0.1", "5000")
    assert runner.command[1:] == (
        *("-m", "client.runner", str(folder.site_file), "127.0.0.1:5000", str(folder.secret)),
    )
    assert pairs["--superexec-auth-secret-file"] == str(folder.secret)
    assert folder.secret.stat().st_mode & 0o777 == 0o600
    secret = folder.secret.read_bytes()
    node.programs(folder, "127.0.0.1:5001", around)
    assert len(secret) == 32 and folder.secret.read_bytes() == secret


def test_the_programs_are_quiet_private_and_reach_loopback_without_the_proxy(
    folder: Folder,
) -> None:
    around = {"PATH": "/bin", "HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.example"}
    made = node.node_environment(folder, around)
    assert made["FLWR_TELEMETRY_ENABLED"] == "0" and made["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert made["FLWR_HOME"] == str(folder.node / "home") and made["HTTPS_PROXY"] == "http://p:1"
    assert made["NO_PROXY"].split(",")[0] == "a.example"
    assert {"127.0.0.1", "localhost"} <= set(made["NO_PROXY"].split(","))
    home, _ = node.programs(folder, "127.0.0.1:5000", around)
    assert list(home.folder.iterdir()) == []  # nothing there that could be imported instead


def test_what_is_not_in_order_is_told_before_anything_starts(folder: Folder) -> None:
    node.check_ready(folder)
    folder.key.chmod(0o644)
    folder.site_file.write_text("name: [")
    folder.authority.unlink()
    with pytest.raises(ConfigError) as refused:
        node.run_node(folder)
    assert len(refused.value.problems) == 3
    assert not (folder.node / node.PROCESSES).exists()


def test_nothing_is_ended_where_nothing_was_started(folder: Folder) -> None:
    assert node.stop_node(folder) == ()
    assert not node.read_node(folder).running
    (folder.node).mkdir()
    (folder.node / node.PROCESSES).write_text("{torn")
    assert node.stop_node(folder) == ()


def test_stop_ends_what_was_started_and_a_stranger_stays(
    folder: Folder, running: subprocess.Popen[bytes]
) -> None:
    stranger = subprocess.Popen(["/bin/sleep", "60"])
    shown = node.read_node(folder)
    assert shown.running and all(row["alive"] for row in shown.services)
    with pytest.raises(ConfigError, match="running already"):
        node.run_node(folder)
    started = node.started_processes(folder)
    assert sorted(node.stop_node(folder)) == ["runner", "supernode", "supervisor"]
    assert running.wait(5) == 0 and not any(process.alive for process in started)
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()
    after = node.read_node(folder)
    assert not after.running and not any(row["alive"] for row in after.services)


def test_a_killed_supervisor_leaves_nothing_running(
    folder: Folder, running: subprocess.Popen[bytes]
) -> None:
    started = node.started_processes(folder)
    assert len(started) == 3
    running.kill()
    running.wait()
    assert wait_until_gone(started, 5.0) == ()
    with node.only_one(folder):
        pass  # the lock went with it


def test_a_record_of_another_boot_ends_nobody(
    folder: Folder, running: subprocess.Popen[bytes]
) -> None:
    path = folder.node / node.PROCESSES
    whole = path.read_text()
    boot = node.started_processes(folder)[0].boot
    path.write_text(whole.replace(boot, "another"))
    assert node.stop_node(folder) == () and running.poll() is None
    path.write_text(whole)


@pytest.mark.slow
def test_a_real_supernode_comes_back_after_a_kill(tmp_path: Path) -> None:
    """Exit code 305 for up to a minute, then the same site is connected again."""
    import shutil

    from tests.client.superlink import superlink

    with superlink(tmp_path / "link") as link:
        kit = make_kit(tmp_path / "kit", address=link.address)
        shutil.copyfile(link.authority, kit / "ca.crt")
        folder = make_hospital(tmp_path / "north", kit)
        link.register(folder.public_key, "north")
        try:
            assert node.start_detached(folder).connected
            assert read_ills(folder.node / node.PROCESSES) == (), "its gRPC health service"
            pid = next(
                row["pid"] for row in node.read_node(folder).services if row["name"] == "supernode"
            )
            os.kill(pid, signal.SIGKILL)
            began, reasons = time.monotonic(), set()
            while (
                not (found := node.read_node(folder)).connected or found.services[0]["starts"] < 2
            ):
                assert time.monotonic() - began < 150.0 and found.running
                reasons.add(found.services[0]["reason"])
                time.sleep(0.5)
            assert any("305" in reason for reason in reasons)
        finally:
            assert "supernode" in node.stop_node(folder)


@pytest.mark.slow
def test_a_key_that_nobody_registered_ends_the_node_with_advice(tmp_path: Path) -> None:
    import shutil

    from client.supervisor import Pace
    from tests.client.superlink import superlink

    with superlink(tmp_path / "link") as link:
        kit = make_kit(tmp_path / "kit", address=link.address)
        shutil.copyfile(link.authority, kit / "ca.crt")
        folder = make_hospital(tmp_path / "north", kit)
        before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        try:
            with pytest.raises(RunFailed, match="not registered"):
                node.run_node(folder, Pace(first_wait_s=0.2, longest_wait_s=0.5, refused_s=3.0))
        finally:
            for number, action in before.items():
                signal.signal(number, action)
    assert node.started_processes(folder) == ()
