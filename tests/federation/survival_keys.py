"""Survival: keys that may not connect, what the one door hides, and a bundle that was altered."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.node_pb2 import Node

from client.folder import Folder as SiteFolder
from client.keys import create_site, read_key
from client.kit import read_kit
from client.node import free_port, programs
from client.registration import ask_registration
from mfm_core.errors import ConfigError
from server.folder import Folder
from server.follow import Follower, prepare
from server.hosting import consortium_of, load_hosting
from server.membership import admit, remove, suspend
from server.register import read_nodes
from server.superlink import chosen_door
from strategies.code_hash import bundle_folder
from strategies.processes import split_address
from tests.federation.evil_site import fleet
from tests.federation.hostile_world import EVIL, HONEST, HostileConsortium, World, run_of
from tests.federation.survival import Case, Outcome
from tests.federation.survival_lies import WAITS, repeated_words, same_as
from tests.server.test_gateway import HIDDEN

NODE_LIMIT_S = 90.0


def use_wrong_keys(folder: Path) -> Iterator[Outcome]:
    """Yield a row per key that may not connect, then per run beside them."""
    world = World(folder, run_of("keys", 3))
    alone = world.alone()
    with world.consortium(WAITS) as real:
        real.play({"otherwise": "nonsense"})
        real.start()
        yield from _refused_keys(real, folder)
        yield _ask_for_another(real)
        yield from _suspended(real, alone)
        yield _removed(real)
        yield _altered_bundle(real, folder)


def _refused_keys(real: HostileConsortium, folder: Path) -> Iterator[Outcome]:
    stranger = copy_of_site(real, "north", folder / "stranger")
    shutil.rmtree(stranger.root / "keys")
    shutil.copytree(create_site(folder / "made", "stranger").root / "keys", stranger.root / "keys")
    yield _one_refused("an unregistered key", stranger, "unknown")
    twin = copy_of_site(real, "north", folder / "twin")
    yield _one_refused("a second node with the key of one that is connected", twin, "registered")
    begun, request = time.monotonic(), create_site(folder / "asks", "east").request
    text = real.hospital("north").request.read_text(encoding="utf-8")
    request.write_text(text.replace('"north"', '"east"'), encoding="utf-8")
    try:
        admit(Folder(real.coordinator), request)
    except ConfigError as error:
        problems = () if "belongs to north already" in str(error) else (str(error),)
        ended = "refused by `site add`"
    else:
        ended, problems = "admitted", ("one key was admitted under two names",)
    took = time.monotonic() - begun
    yield Outcome("a request with another site's key", ended, 0, None, took, problems)


def _one_refused(what: str, folder: SiteFolder, registered: str) -> Outcome:
    begun = time.monotonic()
    said = try_node(folder)
    kit = read_kit(folder.kit)
    answer = ask_registration(kit.address, folder.authority, read_key(folder)).answer
    problems = [] if answer == registered else [f"`check` would say {answer}"]
    if "Exit Code: 305" not in said or "[code: 2004]" not in said:
        problems.append(f"the SuperNode was not refused: {said[-300:]}")
    if "SuperNode ID" in said:
        problems.append("the SuperNode was let in")
    ended = f"exit code 305, refused; `check`: {answer}"
    return Outcome(what, ended, 0, None, time.monotonic() - begun, tuple(problems))


def _ask_for_another(real: HostileConsortium) -> Outcome:
    """Pull another site's messages with the hostile site's own, valid key."""
    begun, nodes = time.monotonic(), read_nodes(real.host.nodes)
    status = "answered"
    with fleet(real.hospital(EVIL)) as client:
        other = Node(node_id=int(nodes["north"]["node_id"]))
        try:
            client.PullMessages(PullMessagesRequest(node=other))
        except httpx.HTTPStatusError as error:
            status = f"HTTP {error.response.status_code}"
        own = Node(node_id=int(nodes[EVIL]["node_id"]))
        client.PullMessages(PullMessagesRequest(node=own))
    problems = () if status == "HTTP 401" else (f"expected HTTP 401, found {status}",)
    took = time.monotonic() - begun
    return Outcome("another site's messages asked for", f"{status}", 0, None, took, problems)


def _suspended(real: HostileConsortium, alone: str) -> Iterator[Outcome]:
    """Suspend a site in the middle of a run."""
    following = real.submit()
    while not any(line["phase"] == "train" for line in real.rounds()):
        if following.poll() is not None:
            raise AssertionError(f"the run ended before it trained: {real.rounds()}")
        time.sleep(0.2)
    begun = time.monotonic()
    suspend(Folder(real.coordinator), EVIL)
    real.wait(following)
    same, lines = same_as(real, alone), real.rounds()
    found = [line["sites"][EVIL] for line in lines]
    gone = next((i for i, text in enumerate(found) if not text.startswith("rejected")), None)
    problems = [] if same else ["the honest sites' result was touched"]
    problems += repeated_words(real)
    if gone is None or gone < 2 or set(found[gone:]) - {"offline", "no-reply", "error:5"}:
        problems.append(f"expected to be gone after the suspension, found {found}")
    rest = [line["sites"] for line in lines if any(line["sites"][name] != "ok" for name in HONEST)]
    problems += [f"an honest site was not ok: {sites}" for sites in rest]
    ended = f"{real.ending().status}; {', '.join(dict.fromkeys(found))}"  # type: ignore[union-attr]
    took = time.monotonic() - begun
    yield Outcome("a key suspended during a run", ended, 0, same, took, tuple(problems))
    yield _one_gone("a suspended key asks to come in", real)


def _removed(real: HostileConsortium) -> Outcome:
    remove(Folder(real.coordinator), EVIL)
    return _one_gone("a removed site's key asks to come in", real)


def _one_gone(what: str, real: HostileConsortium) -> Outcome:
    begun, folder = time.monotonic(), real.hospital(EVIL)
    kit, answer = read_kit(folder.kit), ""
    while answer != "unknown" and time.monotonic() - begun < 30.0:
        answer = ask_registration(kit.address, folder.authority, read_key(folder)).answer
    problems = () if answer == "unknown" else (f"expected unknown, found {answer}",)
    took = time.monotonic() - begun
    return Outcome(what, f"refused; `check`: {answer}", 0, None, took, problems)


def _altered_bundle(real: HostileConsortium, folder: Path) -> Outcome:
    """Submit a bundle with one more line, past the command that would not make it."""
    begun, canary = time.monotonic(), folder / "canary"
    hosting = load_hosting(Folder(real.coordinator))
    config = consortium_of(hosting, HONEST)
    prepared = prepare(real.run_folder("altered"), real.agreed, config)
    source = prepared.app / "client" / "app.py"
    line = f"\n__import__('pathlib').Path({str(canary)!r}).touch()\n"
    source.write_text(source.read_text(encoding="utf-8") + line, encoding="utf-8")
    before = [len(real.ledger(name).lines) for name in HONEST]
    ending = Follower(prepared, real.host.flower, lambda line, progress: None).start(resume=False)
    lines = real.rounds("altered")
    sites = lines[-1]["sites"] if lines else {}
    problems = [] if ending.status == "failed" else [f"the run ended {ending.status}"]
    if sites != dict.fromkeys(HONEST, "refused:bundle"):
        problems.append(f"expected refused:bundle of all, found {sites}; {ending.message}")
    if canary.exists():
        problems.append("the altered code was executed")
    if before != [len(real.ledger(name).lines) for name in HONEST]:
        problems.append("something left a site")
    ended = f"{ending.status}; all sites refused:bundle, nothing executed"
    took = time.monotonic() - begun
    return Outcome("a bundle with one line more", ended, 0, None, took, tuple(problems))


def copy_of_site(real: HostileConsortium, name: str, folder: Path) -> SiteFolder:
    """Return a copy of a hospital's folder: what somebody has who stole it."""
    true = real.hospital(name)
    for part in (true.key.parent, true.kit):
        shutil.copytree(part, folder / part.name)
    shutil.copyfile(true.site_file, folder / true.site_file.name)
    return SiteFolder(folder)


def try_node(
    folder: SiteFolder, environment: Mapping[str, str] | None = None, enough: str = ""
) -> str:
    """Start a hospital's SuperNode alone; return what it says until it ends or has said enough."""
    program = programs(folder, f"127.0.0.1:{free_port()}", environment or os.environ)[0]
    log = folder.root / "supernode.log"
    with log.open("wb") as out:
        child = subprocess.Popen(
            program.command, cwd=program.folder, env=dict(program.environment),
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    stop_at = time.monotonic() + NODE_LIMIT_S
    while child.poll() is None and time.monotonic() < stop_at:
        if enough and enough in log.read_text(encoding="utf-8", errors="replace"):
            break
        time.sleep(0.2)
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(20)  # it says goodbye, so that its key is free again
    child.kill()
    child.wait()
    return log.read_text(encoding="utf-8", errors="replace")


def knock(folder: Path) -> Iterator[Outcome]:
    """Yield a row per door: everything that the SuperLink offers beside the fleet is 404."""
    world = World(folder, run_of("door", 1))
    with world.consortium(WAITS) as real:
        real.start_server()
        authority = real.host.authority
        listen = f"127.0.0.1:{free_port()}"
        words = ["-P", "-m", "server.gateway", listen, real.host.superlink, str(authority)]
        second = subprocess.Popen([sys.executable, *words], cwd=bundle_folder())
        try:
            paths = offered(real.host.superlink, authority / "ca.crt")
            for door, address in ((chosen_door(real.host), real.host.listen), ("builtin", listen)):
                yield _one_door(door, address, authority / "ca.crt", paths)
        finally:
            second.terminate()
            second.wait()


def offered(address: str, authority: Path) -> tuple[str, ...]:
    """Return every path that the SuperLink itself serves, from its own description."""
    context = ssl.create_default_context(cafile=str(authority))
    with httpx.Client(verify=context, trust_env=False, base_url=f"https://{address}") as client:
        return tuple(client.get("/openapi.json").raise_for_status().json()["paths"])


def _one_door(door: str, address: str, authority: Path, paths: tuple[str, ...]) -> Outcome:
    begun = time.monotonic()
    inside = [p for p in paths if not p.startswith("/v1/fleet/") and p != "/health"]
    asked = [("POST", path) for path in (*inside, *disguised(inside), *HIDDEN)]
    asked += [("GET", path) for path in (*inside, *HIDDEN)]
    found = {(m, path): request(address, authority, m, path) for m, path in asked}
    problems = [f"{m} {path!r}: {s}" for (m, path), s in found.items() if s not in (400, 404)]
    hidden = sum(status == 404 for status in found.values())
    if not {"/v1/control/start-run", "/v1/runtime/acquire-task"} & set(inside):
        problems.append(f"the SuperLink offers other paths than are known: {inside[:5]}")
    if request(address, authority, "GET", "/health") != 200:
        problems.append("/health does not answer")
    ended = (
        f"404 to {hidden} of {len(found)} requests ({len(inside)} paths of Flower's own), 400 to "
        "those that are no HTTP"
    )
    took = time.monotonic() - begun
    what = f"Control and Runtime interfaces through {door}"
    return Outcome(what, ended, 0, None, took, tuple(problems[:5]))


def disguised(paths: list[str]) -> list[str]:
    """Return forms of inner paths that a careless door would pass on."""
    ways = ("/v1/fleet/..{0}", "/v1/fleet/%2e%2e{0}", "/{0}", "{0}/", "{0}?x=/v1/fleet/y")
    shorter = [path.removeprefix("/v1") for path in paths if path.startswith("/v1/")]
    dotted = [way.format(path) for path in shorter for way in ways[:2]]
    return dotted + [way.format(path) for path in paths for way in ways[2:]]


def request(address: str, authority: Path, method: str, path: str) -> int:
    """Return the status of a request whose path is sent as it is; 0 when none is answered.

    A path that ends at a line feed is HTTP/0.9, which nginx answers with its page alone.
    """
    host, port = split_address(address)
    context = ssl.create_default_context(cafile=str(authority))
    fields = (
        f"{method} {path} HTTP/1.1",
        f"Host: {host}",
        "Content-Length: 0",
        "Connection: close",
    )
    head = "\r\n".join((*fields, "", ""))
    for _ in range(100):
        try:
            plain = socket.create_connection((host, port), timeout=10.0)
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    with plain, context.wrap_socket(plain, server_hostname=host) as secured:
        secured.sendall(head.encode())
        answer = secured.recv(200)
    found = re.match(rb"HTTP/[0-9.]+ ([0-9]{3}) |<html>\s*<head><title>([0-9]{3}) ", answer)
    return int(found[1] or found[2]) if found else 0


CASES = (
    Case("hostile: doors", "hospitals reach the fleet interface and nothing else", knock),
    Case("hostile: keys", "each key is refused by name, the run is untouched", use_wrong_keys),
)
"""Who may connect, what they reach, and which code sites run."""
