"""A consortium folder over real processes: what runs, what hospitals see, what is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client.parser import text_string_to_metric_families

from mfm_core.errors import ConfigError
from server.certificates import create_authority, issue_server_certificate
from server.register import read_nodes
from server.services import Service
from server.superlink import (
    Host,
    check_host,
    chosen_door,
    find_nginx,
    find_started,
    find_supervisor,
    is_healthy,
    lay_out,
    prune_apps,
    read_processes,
    recipes,
    stop_host,
)
from server.supervisor import only_one, supervisor_command
from strategies.health import read_ills
from strategies.processes import observe, split_address
from tests.server.test_gateway import HIDDEN, PASSED


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_host(folder: Path) -> Host:
    create_authority(folder / "authority", "North Sea")
    issue_server_certificate(folder / "authority", ["localhost"])
    (folder / "sites").mkdir()
    return Host(folder, f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")


def public_key() -> str:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return key.public_bytes(*form).decode()


def write_site(host: Host, name: str, status: str, key: str) -> None:
    content = json.dumps({"name": name, "status": status, "public_key": key})
    path = host.folder / "sites" / f"{name}.json"
    path.with_suffix(".part").write_text(content)
    path.with_suffix(".part").replace(path)


def wait_for(what: Callable[[], bool], limit_s: float = 90.0) -> bool:
    stop_at = time.monotonic() + limit_s
    while time.monotonic() < stop_at:
        if what():
            return True
        time.sleep(0.2)
    return False


def test_only_the_newest_unpacked_bundles_stay(tmp_path: Path) -> None:
    assert prune_apps(tmp_path) == ()
    for number in range(5):
        app = tmp_path / "apps" / f"mfm.mfm.1.0.{number}"
        (app / "server").mkdir(parents=True)
        (app / "server" / "app.py").write_text("")
        os.utime(app, (1_000_000 + number, 1_000_000 + number))
    (tmp_path / "apps" / "note.txt").write_text("")
    assert set(prune_apps(tmp_path)) == {f"mfm.mfm.1.0.{number}" for number in (0, 1, 2)}
    left = sorted(path.name for path in (tmp_path / "apps").iterdir())
    assert left == ["mfm.mfm.1.0.3", "mfm.mfm.1.0.4", "note.txt"]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path)


def test_a_taken_port_is_refused_in_words(host: Host) -> None:
    with socket.socket() as stranger:
        stranger.bind(split_address(host.listen))
        stranger.listen()
        with pytest.raises(ConfigError, match=r"listen: .* is taken .*in use") as caught:
            check_host(host)
    assert len(caught.value.problems) == 1
    check_host(host)


def test_everything_wrong_is_said_at_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.superlink.find_nginx", lambda: None)
    (host.authority / "server.key").unlink()
    port = split_address(host.superlink)[1]
    with pytest.raises(ConfigError) as caught:
        check_host(replace(host, superlink=f"0.0.0.0:{port}", door="nginx"))
    said = "\n".join(caught.value.problems)
    assert "authority/server.key is missing" in said and "not loopback" in said
    assert "nginx is not installed" in said and chosen_door(host) == "builtin"


def test_a_second_start_on_the_same_folder_is_refused(host: Host) -> None:
    with only_one(host):
        command, environment = supervisor_command(host)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "is running already" in done.stderr
    with only_one(host):
        pass


def test_flower_is_started_closed(host: Host) -> None:
    """Loopback, TLS, node keys, a secret, a database, and nothing installed at run time."""
    lay_out(host)
    link, executor, _ = recipes(host)
    words = list(link.command)
    for flag in ("--enable-supernode-auth", "--disable-runtime-dependency-installation"):
        assert flag in words
    for name, value in (("--isolation", "process"), ("--host", "127.0.0.1")):
        assert words[words.index(name) + 1] == value
    assert "--ssl-keyfile" in words and "--database" in words and "--insecure" not in words
    secret = str(host.secret)
    assert secret in words and secret in executor.command and host.secret.stat().st_mode & 0o77 == 0
    assert link.environment["FLWR_HOME"] == str(host.home) and not any(host.empty.iterdir())


def test_a_damaged_record_starts_and_stops_nothing(host: Host) -> None:
    host.link.mkdir()
    for text in ("", "[]", "{}", '{"supervisor": 3, "services": [1, null]}'):
        host.processes.write_text(text)
        assert find_supervisor(host) is None and find_started(host) == ()
    assert stop_host(host) == ()


def test_stop_ends_nothing_that_was_not_recorded_with_this_start_time(host: Host) -> None:
    """A process id that somebody else has by now."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger:
        found = observe("superlink", stranger.pid)
        assert found is not None
        host.link.mkdir()
        old = {**found.to_dict(), "started": found.started - 100}
        host.processes.write_text(json.dumps({"supervisor": old, "services": [old]}))
        assert stop_host(host) == () and stranger.poll() is None
        stranger.kill()


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A running consortium; its end is a test of its own."""
    found = make_host(tmp_path_factory.mktemp("consortium"))
    found = replace(found, metrics=f"127.0.0.1:{free_port()}")
    write_site(found, "north", "admitted", public_key())
    command, environment = supervisor_command(found)
    with subprocess.Popen(command, env=environment) as child:
        assert wait_for(lambda: bool(read_processes(found).get("ready")), 180.0)
        yield found
        stop_host(found)
        child.wait()


def figures(host: Host) -> dict[str, float]:
    """Return what a Prometheus would read, by name and label values."""
    with urllib.request.urlopen(f"http://{host.metrics}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.slow
def test_a_scrape_shows_what_runs_and_that_it_answers(hosted: Host) -> None:
    """The real endpoint, the real SuperLink's gRPC health service and its real database."""
    assert wait_for(lambda: "mfm_server_process_answers superlink" in figures(hosted))
    found = figures(hosted)
    for name in ("superlink", "superexec", "gateway"):
        assert found[f"mfm_server_process_up {name}"] == 1.0
        assert found[f"mfm_server_process_restarts_total {name}"] == 0.0
    for name in ("superlink", "gateway"):
        assert found[f"mfm_server_process_answers {name}"] == 1.0
    assert found["mfm_server_site_online north"] == 0.0 and found["mfm_server_ready"] == 1.0
    assert not [name for name, value in found.items() if "unreadable" in name and value]
    assert read_ills(hosted.processes) == ()


@pytest.mark.slow
def test_a_superlink_that_stands_still_is_not_healthy(hosted: Host) -> None:
    """Its process is there, so only the health check can tell."""
    link = next(found for found in find_started(hosted) if found.name == "superlink")
    link.send(signal.SIGSTOP)
    try:
        (ill,) = read_ills(hosted.processes)
        assert "gRPC health check" in ill
    finally:
        link.send(signal.SIGCONT)
    assert wait_for(lambda: read_ills(hosted.processes) == ())


def ask(host: Host, address: str, target: str, method: str) -> int:
    """Return the status of one request, its target sent byte for byte."""
    context = ssl.create_default_context(cafile=str(host.authority / "ca.crt"))
    plain = socket.create_connection(split_address(address), 20)
    with context.wrap_socket(plain, server_hostname="localhost") as link:
        head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"
        link.sendall(f"{head}Connection: close\r\n\r\n".encode())
        return int(link.recv(4096).split()[1])


@pytest.mark.slow
@pytest.mark.parametrize("door", ["nginx", "builtin"])
def test_hospitals_reach_fleet_and_health_and_nothing_else(hosted: Host, door: str) -> None:
    if door == "nginx" and not find_nginx():
        pytest.skip("nginx is not installed")
    other = replace(hosted, door=door, listen=f"127.0.0.1:{free_port()}")  # type: ignore[arg-type]
    gateway = Service(recipes(other)[2])
    gateway.start()
    try:
        assert wait_for(lambda: is_healthy(other.listen, other.authority / "ca.crt"))
        for target in PASSED:
            assert ask(other, other.listen, target, "POST") in (200, 405, 415)
        for target in (path for path in HIDDEN if path and "\n" not in path):
            for method in ("GET", "POST"):
                # 400: nginx refuses a target that is no path before any rule
                assert ask(other, other.listen, target, method) in (404, 400), target
        assert ask(other, hosted.superlink, "/docs", "GET") == 200
    finally:
        gateway.stop()


@pytest.mark.slow
def test_keys_follow_the_list_of_sites_and_may_come_back(hosted: Host) -> None:
    """Flower keeps the key of an unregistered node for ever; here it is let go."""
    key = read_nodes(hosted.nodes)["north"]["public_key"]
    before = {node.node_id for node in hosted.flower.nodes()}
    write_site(hosted, "north", "suspended", key)
    assert wait_for(lambda: not read_nodes(hosted.nodes)) and hosted.flower.nodes() == ()
    write_site(hosted, "north", "admitted", key)
    assert wait_for(lambda: "north" in read_nodes(hosted.nodes))
    after = {node.node_id for node in hosted.flower.nodes()}
    assert len(after) == len(before) == 1 and after != before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["superexec", "gateway", "superlink"])
def test_what_is_killed_is_started_again(hosted: Host, name: str) -> None:
    def row() -> dict[str, int]:
        return next(r for r in read_processes(hosted)["services"] if r["name"] == name)

    first = row()
    os.kill(first["pid"], signal.SIGKILL)
    assert wait_for(lambda: row()["pid"] != first["pid"] and bool(row()["alive"]))
    assert row()["starts"] == first["starts"] + 1
    assert wait_for(lambda: is_healthy(hosted.listen, hosted.authority / "ca.crt"))


@pytest.mark.slow
def test_stop_leaves_no_process_even_after_the_supervisor_was_killed(hosted: Host) -> None:
    supervisor = find_supervisor(hosted)
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    assert wait_for(lambda: find_supervisor(hosted) is None)
    left = find_started(hosted)
    assert {"superlink", "superexec", "gateway"} <= {process.name for process in left}
    stop_host(hosted)
    assert not any(process.alive for process in left)
    check_host(hosted)


STARTING = """
import sys
from dataclasses import replace
from server import supervisor
real = supervisor.recipes
idle = [sys.executable, "-c", "import time; time.sleep(60)"]
supervisor.recipes = lambda host: tuple(replace(r, command=idle) for r in real(host))
supervisor.main()
"""


def test_told_to_stop_while_it_starts_it_stops(host: Host) -> None:
    """A SuperLink that never answers must not hold up SIGTERM."""
    command, environment = supervisor_command(host)
    words = [sys.executable, "-c", STARTING, *command[4:]]
    with subprocess.Popen(words, env=environment) as child:
        assert wait_for(lambda: len(find_started(host)) == 1, 30.0)
        left = find_started(host)
        child.terminate()
        assert child.wait(20.0) == 0
    assert not any(process.alive for process in left) and not host.processes.exists()
