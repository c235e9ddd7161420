"""Survival: a link of 1 Mbit/s whose round trip takes 200 ms, held against a direct one.

The slow site's node runs in a network namespace of its own. The kernel narrows the cable that leads
out of it (tc, `netem` or else `tbf`); what the kernel refuses, the relay at the other end does by
holding every byte back, and the row says so. TLS and HTTP pass through the relay untouched; TCP
itself ends there.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from server.certificates import issue_server_certificate
from strategies.processes import split_address
from tests.federation.hostile_world import EVIL, World, run_of
from tests.federation.listening import Listening
from tests.federation.survival import Case, Outcome
from tests.federation.survival_lies import WAITS, same_as
from tests.federation.survival_trust import point_at

RATE, ONE_WAY_S, PIECE = 1_000_000 / 8, 0.1, 1500
"""Bytes per second, seconds from end to end, bytes that travel together."""


@dataclass(frozen=True)
class Link:
    """What the kernel does of a slow link.

    Attributes:
        inside: words before a command that let it run at the far end; none without a namespace.
        address: where the far end reaches this one.
        rate, delay: whether the kernel limits the rate and delays.
        refused: what it said to what it does not do.
    """

    inside: tuple[str, ...] = ()
    address: str = "127.0.0.1"
    rate: bool = False
    delay: bool = False
    refused: str = ""


@contextlib.contextmanager
def slow_cable() -> Iterator[Link]:
    """Lay a slow cable into a network namespace, as far as the kernel can."""
    name, near, far = f"mfm-slow-{os.getpid()}", f"mfmn{os.getpid()}", f"mfmf{os.getpid()}"
    block = f"10.{77 + os.getpid() % 100}.{os.getpid() // 100 % 250}"
    into = f"ip -n {name}"
    try:
        said = tried(
            f"ip netns add {name}",
            f"ip link add {near} type veth peer name {far} netns {name}",
            f"ip address add {block}.1/30 dev {near}",
            f"ip link set {near} up",
            f"{into} address add {block}.2/30 dev {far}",
            f"{into} link set {far} up",
            f"{into} link set lo up",
        )
        if said:
            yield Link(refused=said)
            return
        ends = (f"tc qdisc add dev {near} root", f"tc -n {name} qdisc add dev {far} root")
        inside = (shutil.which("ip") or "ip", "netns", "exec", name)
        delayed = tried(*(f"{end} netem rate 1mbit delay 100ms" for end in ends))
        said = delayed and tried(*(f"{end} tbf rate 1mbit burst 4kb latency 2s" for end in ends))
        yield Link(inside, f"{block}.1", not said, not delayed, said or delayed)
    finally:
        tried(f"ip link delete {near}")
        tried(f"ip netns delete {name}")


def tried(*commands: str) -> str:
    """Run commands until one fails; return what it said, nothing when none did."""
    for command in commands:
        try:
            done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        except OSError as error:
            return str(error)
        if done.returncode:
            return done.stderr.strip() or f"{command}: {done.returncode}"
    return ""


class Relay(Listening):
    """A slow way to an address; the line's rate is shared by all connections of one direction.

    Args:
        target: where it leads.
        link: what the kernel does already.
    """

    def __init__(self, target: str, link: Link) -> None:
        super().__init__(link.address)
        self._target, self._free = split_address(target), {"up": 0.0, "down": 0.0}
        self._rate = float("inf") if link.rate else RATE
        self._delay = 0.0 if link.delay else ONE_WAY_S
        self.carried = {"up": 0, "down": 0}
        self._lock = threading.Lock()

    def serve(self, near: socket.socket) -> None:
        """Carry both directions of one connection."""
        far = socket.create_connection(self._target)
        for source, sink, way in ((near, far, "up"), (far, near, "down")):
            self._carry(source, sink, way)

    def _carry(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        line: queue.Queue[tuple[float, bytes]] = queue.Queue(maxsize=64)

        def take() -> None:
            content = b"-"
            while content:
                try:
                    content = source.recv(PIECE)
                except OSError:
                    content = b""
                line.put((self._arrival(way, len(content)), content))

        def give() -> None:
            while True:
                at, content = line.get()
                time.sleep(max(0.0, at - time.monotonic()))
                with contextlib.suppress(OSError):
                    if not content:
                        sink.shutdown(socket.SHUT_WR)
                        return
                    sink.sendall(content)

        for work in (take, give):
            threading.Thread(target=work, daemon=True).start()

    def _arrival(self, way: str, size: int) -> float:
        """Return when so many bytes are at the other end."""
        with self._lock:
            begin = max(time.monotonic(), self._free[way])
            self._free[way] = begin + size / self._rate
            self.carried[way] += size
            return self._free[way] + self._delay


def use_a_slow_link(folder: Path) -> Iterator[Outcome]:
    """Yield a row: one site behind the slow link, the same result, seconds per message."""
    world = World(folder, run_of("link", 3))
    everyone = world.alone(3)
    with (
        slow_cable() as link,
        world.consortium({**WAITS, "deadline_s": 300.0, "grace_s": 120.0}) as real,
    ):
        issue_server_certificate(real.host.authority, ["127.0.0.1", link.address])
        real.play({"otherwise": "honest"})
        real.start_server()
        with Relay(real.host.listen, link) as relay:
            real.inside = link.inside
            point_at(real.hospital(EVIL), relay.address)
            real.start_sites(real.names)
            real.run()
            same, lines = same_as(real, everyone), real.rounds()
            real.close()
    last = [line["seconds"] for line in lines if line["phase"] == "train"]
    outcomes = {line["sites"][EVIL] for line in lines}
    problems = [] if outcomes == {"ok"} else [f"outcomes {outcomes}"]
    problems += [] if same else ["not the result of three sites"]
    each = statistics.median(last)
    mib = sum(relay.carried.values()) / 2**20
    ended = f"ok; {each:.1f} s a round of training (median of {len(last)}), {mib:.1f} MiB in all"
    yield Outcome(in_words(link), ended, 0, same, each, tuple(problems))


def in_words(link: Link) -> str:
    """Return what made the link slow."""
    who = {True: "the kernel", False: "a relay"}
    what = f"1 Mbit/s by {who[link.rate]}, 200 ms there and back by {who[link.delay]}"
    return f"{what} ({' '.join(link.refused.split())})" if link.refused else what


CASES = (Case("hostile: slow link", "the same result, only later", use_a_slow_link),)
"""A hospital with a slow line."""
