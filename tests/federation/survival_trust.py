"""Survival: clocks that are off, certificates that are not to be trusted, names and proxies."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from client.folder import Folder as SiteFolder
from client.node import read_node
from client.supervisor import UNASKED
from server.certificates import create_authority, issue_server_certificate
from strategies.code_hash import bundle_folder
from strategies.processes import split_address
from tests.federation.hostile_world import EVIL, HONEST, HostileConsortium, World, run_of
from tests.federation.listening import Listening, pump
from tests.federation.survival import Case, Outcome
from tests.federation.survival_keys import copy_of_site, try_node
from tests.federation.survival_lies import WAITS, same_as

OFF_S = 600.0
SHIFT = """\
import datetime, os, time
_by = float(os.environ["SHIFT_S"])
_seconds, _nanoseconds = time.time, time.time_ns
time.time = lambda: _seconds() + _by
time.time_ns = lambda: _nanoseconds() + int(_by * 1e9)
class _Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=_by)
    @classmethod
    def utcnow(cls):
        return super().utcnow() + datetime.timedelta(seconds=_by)
datetime.datetime = _Shifted
"""
"""A sitecustomize.py: every clock that a Python program reads is off by so much."""

PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")


def shifted(folder: Path, by_s: float) -> dict[str, str]:
    """Return an environment whose clock is off."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(SHIFT, encoding="utf-8")
    return {**plain(), "PYTHONPATH": f"{folder}{os.pathsep}{bundle_folder()}", "SHIFT_S": str(by_s)}


def plain() -> dict[str, str]:
    """Return this process's environment without a proxy."""
    found = {key: value for key, value in os.environ.items() if key.upper() not in PROXIES}
    return {**found, "PYTHONPATH": str(bundle_folder())}


def look(folder: SiteFolder, environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return what `mfm-client check` says of the network: part to its worst level and words."""
    words = [sys.executable, "-P", "-m", "client", "check", str(folder.root), "--json"]
    words += ["--part", "network", "--part", "registration"]
    done = subprocess.run(
        words, cwd=bundle_folder(), env=dict(environment), capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    if not done.stdout.strip():
        raise AssertionError(done.stderr[-2000:])
    found: dict[str, tuple[str, str]] = {}
    for row in json.loads(done.stdout)["findings"]:
        said = (str(row["level"]), f"{row['text']}; {row['advice']}")
        worse = row["part"] not in found or (said[0] == "fail" != found[row["part"]][0])
        found |= {row["part"]: said} if worse else {}
    return found


def fails(found: Mapping[str, tuple[str, str]], part: str, text: str) -> list[str]:
    """Return in which way `check` does not say what is wrong."""
    level, said = found.get(part, ("nothing", ""))
    fits = level == "fail" and text in said
    return [] if fits else [f"`check` {part}: expected fail with {text!r}, found {level} {said!r}"]


def meet_the_wrong_time(folder: Path) -> Iterator[Outcome]:
    """Yield a row per wrong clock: what `check` says, and a run beside it."""
    world = World(folder, run_of("clock", 1))
    alone = world.alone()
    with world.consortium({**WAITS, "node_wait_s": 5.0}) as real:
        real.start_server()
        real.start_sites(HONEST)
        for by in (OFF_S, -OFF_S):
            yield _wrong_clock(real, folder, by)
        words = [sys.executable, "-P", "-m", "client", "start", str(real.hospital(EVIL).root)]
        late = subprocess.Popen(
            words, cwd=bundle_folder(), env=shifted(folder / "late", -OFF_S),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            begun = time.monotonic()
            real.run()
            reason = reason_of(real.hospital(EVIL))
        finally:
            late.terminate()
            late.wait(60)
        same, found = same_as(real, alone), {line["sites"][EVIL] for line in real.rounds()}
    problems = [] if same else ["the honest sites' result was touched"]
    problems += [] if found == {"offline"} else [f"expected offline, found {found}"]
    problems += [] if "clock" in reason else [f"`status` at the site does not say why: {reason!r}"]
    ended, took = f"degraded; {', '.join(found)}; its status: {reason}", time.monotonic() - begun
    yield Outcome("a run beside a clock 10 min behind", ended, 0, same, took, tuple(problems))


def _wrong_clock(real: HostileConsortium, folder: Path, by: float) -> Outcome:
    begun, word = time.monotonic(), "ahead" if by > 0 else "behind"
    copy = copy_of_site(real, "south", folder / f"copy-{word}")
    environment = shifted(folder / word, by)
    found = look(copy, environment)
    problems = fails(found, "clock", word) + fails(found, "registration", "clock")
    said = try_node(copy_of_site(real, EVIL, folder / f"node-{word}"), environment)
    if "SuperNode ID" in said or UNASKED not in said:
        problems.append(f"the SuperNode was not refused: {said[-300:]}")
    ended, took = "HTTP 401, the SuperNode ends; `check`: clock fail", time.monotonic() - begun
    return Outcome(f"a clock 10 min {word}", ended, 0, None, took, tuple(problems))


def reason_of(folder: SiteFolder) -> str:
    """Return why `mfm-client status` says that the SuperNode does not run."""
    return " ".join(row["reason"] for row in read_node(folder).services if row["name"] != "runner")


def meet_wrong_certificates(folder: Path) -> Iterator[Outcome]:
    """Yield a row for another authority's certificate and for one that ended and is renewed."""
    world = World(folder, run_of("certificates", 1))
    alone = world.alone()
    with world.consortium({**WAITS, "node_wait_s": 60.0}) as real:
        real.play({"otherwise": "nonsense"})
        real.start()
        yield _other_authority(real, folder)
        yield from _expired(real, alone)


def _other_authority(real: HostileConsortium, folder: Path) -> Outcome:
    begun, other = time.monotonic(), folder / "other"
    create_authority(other, "somebody else")
    issue_server_certificate(other, ["127.0.0.1"])
    with Listener(other) as listener:
        copy = copy_of_site(real, EVIL, folder / "astray")
        point_at(copy, listener.address)
        found = look(copy, plain())
        said = try_node(copy, plain())
        heard = bytes(listener.heard)
    problems = fails(found, "certificate", "not from the kit's authority")
    problems += [f"the site spoke: {heard[:80]!r}"] if heard else []
    problems += [] if listener.knocks else ["nobody knocked"]
    problems += [] if "Exit Code: 305" in said else [f"the SuperNode did not end: {said[-300:]}"]
    ended, took = "not a byte sent; exit code 305; `check`: fail", time.monotonic() - begun
    what = "a certificate from another authority"
    return Outcome(what, ended, 0, None, took, tuple(problems))


def _expired(real: HostileConsortium, alone: str) -> Iterator[Outcome]:
    """Let the server certificate end under connected sites, then renew it."""
    begun, host, north = time.monotonic(), real.host, real.hospital("north")
    issue_server_certificate(host.authority, ["127.0.0.1"], days=0)
    problems = await_that(lambda: not read_node(north).connected, 150.0, "north stays connected")
    found = look(north, plain())
    problems += fails(found, "certificate", "has ended")
    shown = " ".join(real.status()["problems"])
    problems += [] if "server.crt ended" in shown else [f"the server's status says {shown!r}"]
    problems += await_that(
        lambda: "certificate" in reason_of(north), 60.0, "the site's status does not say why"
    )
    reason = reason_of(north)
    what, took = "the server certificate ends under connected sites", time.monotonic() - begun
    ended = f"sites leave: {reason}; `check` and `status` say that it ended"
    yield Outcome(what, ended, 0, None, took, tuple(problems))
    begun = time.monotonic()
    words = [sys.executable, "-P", "-m", "server", "rotate", str(real.coordinator)]
    subprocess.run(words, cwd=bundle_folder(), check=True, capture_output=True, timeout=60)
    problems = []
    for name in HONEST:
        there = real.hospital(name)
        problems += await_that(lambda at=there: read_node(at).connected, 180.0, f"{name} is away")
    took = time.monotonic() - begun
    real.run()
    same = same_as(real, alone)
    problems += [] if same else ["the honest sites' result was touched"]
    ended = "sites come back by themselves; the run has the honest sites' result"
    yield Outcome("`mfm-server rotate`", ended, 0, same, took, tuple(problems))


def await_that(check: Any, limit_s: float, problem: str) -> list[str]:
    """Return nothing once a check holds, the problem when it does not in time."""
    stop_at = time.monotonic() + limit_s
    while time.monotonic() < stop_at:
        if check():
            return []
        time.sleep(0.5)
    return [f"{problem} after {limit_s:.0f} s"]


def point_at(folder: SiteFolder, address: str) -> None:
    """Write another address into a hospital's kit."""
    path = folder.kit / "kit.json"
    content = {**json.loads(path.read_text(encoding="utf-8")), "address": address}
    path.write_text(json.dumps(content), encoding="utf-8")


class Listener(Listening):
    """A TLS server that writes down all it hears; for the sake of what must not be said."""

    def __init__(self, authority: Path) -> None:
        super().__init__()
        self.heard, self.knocks = bytearray(), 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(authority / "server.crt", authority / "server.key")

    def serve(self, near: socket.socket) -> None:
        """Listen to one knock."""
        self.knocks += 1
        with near:
            near.settimeout(5.0)
            with self._context.wrap_socket(near, server_side=True) as secured:
                self.heard += secured.recv(1000)


class Tunnel(Listening):
    """A proxy that answers CONNECT and leads every name to one address; it counts who asked."""

    def __init__(self, target: str, answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
        super().__init__()
        self.asked: list[str] = []
        self._target, self._answer = split_address(target), answer
        self.url = f"http://{self.address}"

    def serve(self, near: socket.socket) -> None:
        """Lead one caller to the address."""
        with near:
            self.asked.append(near.recv(4096).split(b"\r\n")[0].decode())
            near.sendall(self._answer)
            if b" 200 " not in self._answer:
                return
            with socket.create_connection(self._target) as far:
                threading.Thread(target=pump, args=(far, near), daemon=True).start()
                pump(near, far)


def meet_names_and_proxies(folder: Path) -> Iterator[Outcome]:
    """Yield a row per name that does not resolve and per setting of the proxy variables."""
    name = "fleet.mfm.invalid"
    world = World(folder, run_of("proxies", 1))
    with world.consortium(WAITS) as real:
        issue_server_certificate(real.host.authority, ["127.0.0.1", name])
        real.start_server()
        port = split_address(real.host.listen)[1]
        site = copy_of_site(real, "north", folder / "site")
        yield _one_way(
            "a loopback server, a dead proxy set", site, {"HTTPS_PROXY": "http://127.0.0.1:9"}, ""
        )
        point_at(site, f"{name}:{port}")
        yield _one_way("a name that does not resolve", site, {}, "name")
        with Tunnel(real.host.listen) as tunnel:
            through = {"HTTPS_PROXY": tunnel.url}
            yield _one_way("the same name through a proxy", site, through, "", tunnel)
            exempt = {**through, "NO_PROXY": name}
            yield _one_way("the same proxy, the name in NO_PROXY", site, exempt, "name", tunnel)
        with Tunnel(real.host.listen, b"HTTP/1.1 403 Forbidden\r\n\r\n") as closed:
            refused = {"HTTPS_PROXY": closed.url}
            yield _one_way("a proxy that refuses", site, refused, "proxy")


def _one_way(
    what: str, site: SiteFolder, proxies: Mapping[str, str], part: str, tunnel: Tunnel | None = None
) -> Outcome:
    """Look and connect under some proxy variables; `part` is what `check` must fail, or empty."""
    begun, environment = time.monotonic(), {**plain(), **proxies}
    before = len(tunnel.asked) if tunnel else 0
    found = look(site, environment)
    failed = {name for name, (level, _) in found.items() if level == "fail"}
    expected = {part} if part else set()
    problems = (
        [] if failed == expected else [f"`check` fails {failed}, expected {expected}: {found}"]
    )
    said = "" if part else try_node(site, environment, enough="SuperNode ID")
    problems += [] if part or "SuperNode ID" in said else [f"not connected: {said[-300:]}"]
    if tunnel is not None:
        led = tunnel.asked[before:]
        strays = [line for line in led if "fleet.mfm.invalid" not in line]
        problems += [f"through the proxy without need: {line}" for line in strays]
        problems += [] if bool(led) == (not part) else [f"the proxy was asked {len(led)} times"]
    ended = f"`check`: {part} fail" if part else "connected"
    return Outcome(what, ended, 0, None, time.monotonic() - begun, tuple(problems))


CASES = (
    Case(
        "hostile: clock",
        "the site is refused and told why; the run is untouched",
        meet_the_wrong_time,
    ),
    Case("hostile: certificates", "sites refuse to speak, and come back", meet_wrong_certificates),
    Case("hostile: names and proxies", "`check` names what is wrong", meet_names_and_proxies),
)
"""Time, trust and the way to the server."""
