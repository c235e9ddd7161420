"""Survival: a full disk at a site, where nothing may leave without its line, and at the server.

The disks are small file systems in memory, mounted by the case, which needs the right to mount.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.federation.hostile_world import EVIL, HONEST, HostileConsortium, World, run_of
from tests.federation.survival import Case, Outcome
from tests.federation.survival_lies import WAITS, same_as

SITE_MIB, SERVER_MIB = 4, 24


@contextlib.contextmanager
def small_disk(folder: Path, size_mib: int) -> Iterator[str]:
    """Mount a file system of so many MiB at a folder; yield why not, or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        said = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        said = str(error)
    try:
        yield said
    finally:
        if not said:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill a file system to its last pages; return the file that fills it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return ballast


def fill_disks(folder: Path) -> Iterator[Outcome]:
    """Yield a row for the site and two for the server, all of one run."""
    world = World(folder, run_of("disk", 2))
    alone = world.alone()
    with world.consortium({**WAITS, "attempts": 1}) as real:
        state, runs = real.hospital(EVIL).root / "state", real.coordinator / "runs"
        with small_disk(state, SITE_MIB) as no_site, small_disk(runs, SERVER_MIB) as no_server:
            if no_site or no_server:
                reason = f"skipped: {no_site or no_server}"
                yield Outcome("a full disk", reason, 0, None, 0.0)
                return
            real.play({"otherwise": "honest"})
            fill(state)
            real.start()
            yield from _server_full(real, runs, alone)
            yield _site_full(real, state, alone)
            real.close()


def _server_full(real: HostileConsortium, runs: Path, alone: str) -> Iterator[Outcome]:
    following = real.submit()
    while not any(line["phase"] == "train" for line in real.rounds()):
        if following.poll() is not None:
            raise AssertionError(f"ended before it trained: {real.ending()}")
        time.sleep(0.1)
    begun, ballast = time.monotonic(), fill(runs)
    code, ending = real.wait(following, 300.0), real.ending()
    message = ending.message if ending else "no ending"
    problems = [] if code == 3 and ending and ending.status == "failed" else [f"exit code {code}"]
    problems += [] if "No space left" in message else [f"the reason is not said: {message!r}"]
    shown = [row["status"] for row in real.status()["runs"]]
    problems += [] if shown == ["failed"] else [f"`status` says {shown}"]
    took = time.monotonic() - begun
    what = "the server's disk full during a run"
    yield Outcome(what, f"failed: {message[-120:]}", 0, None, took, tuple(problems))
    before = {line["hash"] for line in real.rounds() if line["phase"] != "hello"}
    begun = time.monotonic()
    ballast.unlink()
    code, same = real.resume(), same_as(real, alone)
    problems = [] if code == 0 else [f"exit code {code}"]
    problems += [] if same else ["not the honest sites' result"]
    rounds = [line["round"] for line in real.rounds() if line["phase"] == "train"]
    problems += [] if rounds == [1, 2] else [f"rounds {rounds}"]
    lost = len(before - {line["hash"] for line in real.rounds()})
    problems += [] if lost <= 1 else [f"{lost} finished exchanges were lost, allowed 1"]
    took = time.monotonic() - begun
    what = "space freed, `mfm-server resume`"
    yield Outcome(
        what, "goes on from the last finished exchange", lost, same, took, tuple(problems)
    )


def _site_full(real: HostileConsortium, state: Path, alone: str) -> Outcome:
    lines = real.rounds()
    found = {line["sites"][EVIL] for line in lines}
    problems = [] if found <= {"refused:outbox", "error:disk"} else [f"outcomes {found}"]
    bad = [line for line in lines if any(line["sites"][name] != "ok" for name in HONEST)]
    problems += ["an honest site was not ok"] if bad else []
    ledger = real.ledger(EVIL) if (state / "outbox.jsonl").is_file() else None
    problems += ["something left"] if ledger is not None and ledger.lines else []
    same, took = same_as(real, alone), sum(line["seconds"] for line in lines)
    what = "a site's disk full throughout"
    return Outcome(
        what, f"{', '.join(sorted(found))}; nothing left", 0, same, took, tuple(problems)
    )


CASES = (
    Case("hostile: full disks", "nothing leaves unlisted; the run fails in words", fill_disks),
)
"""No space at a site, no space at the server."""
