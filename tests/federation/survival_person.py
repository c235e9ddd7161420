"""Survival: a site where nothing leaves before a person has looked (`limits.manual`).

The person is a thread that types what a person would: `mfm-client outbox approve` or `reject`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

import yaml

from client.config import load_site_config
from client.held import held_messages
from client.ledger import OutboxReading, read_outbox
from strategies.code_hash import bundle_folder
from tests.federation.hostile_world import EVIL, HONEST, HostileConsortium, World, run_of
from tests.federation.survival import Case, Outcome
from tests.federation.survival_lies import WAITS

Word = Literal["approve", "reject"]
PATIENT_WAITS = {**WAITS, "deadline_s": 300.0, "grace_s": 200.0}


class Person:
    """Decides every message that waits at a site, in the same way."""

    def __init__(self, site_file: Path, word: Word) -> None:
        self.site_file, self.word, self.decided = site_file, word, list[str]()
        self.problems: list[str] = []
        self._state = load_site_config(site_file).state_folder
        self._gone = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._gone.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._gone.wait(0.3):
            for held in held_messages(self._state):
                if held.name not in self.decided:
                    self._decide(held.name)

    def _decide(self, name: str) -> None:
        words = [sys.executable, "-P", "-m", "client", "outbox", self.word, name]
        words += ["--config", str(self.site_file)]
        done = subprocess.run(
            words, cwd=bundle_folder(), capture_output=True, text=True, check=False
        )
        self.decided.append(name)
        self.problems += [done.stderr[-300:]] if done.returncode else []


def let_a_person_decide(folder: Path) -> Iterator[Outcome]:
    """Yield a row for a person who approves everything and one who rejects everything."""
    world = World(folder, run_of("person", 1))
    everyone, alone = world.alone(3), world.alone()
    with world.consortium(PATIENT_WAITS) as real:
        site_file = real.hospital(EVIL).site_file
        content = yaml.safe_load(site_file.read_text(encoding="utf-8"))
        content["limits"]["manual"] = True
        site_file.write_text(yaml.safe_dump(content), encoding="utf-8")
        real.play({"otherwise": "honest"})
        real.start()
        yield _one_run(real, "approve", everyone)
        yield _one_run(real, "reject", alone)


def unwitnessed(real: HostileConsortium) -> OutboxReading:
    """Return the site's ledger alone: where all was rejected, no line of the server knows of it."""
    return read_outbox(real.hospital(EVIL).site_file, None)


def _one_run(real: HostileConsortium, word: Word, expected: str) -> Outcome:
    begun, name = time.monotonic(), f"person-{word}"
    before = len(unwitnessed(real).lines)
    with Person(real.hospital(EVIL).site_file, word) as person:
        real.run(name)
    lines, ending = real.rounds(name), real.ending(name)
    assert ending is not None
    ledger = real.ledger(EVIL, name) if word == "approve" else unwitnessed(real)
    left = [line.get("approved_by") for line in ledger.lines][before:]
    wanted = "ok" if word == "approve" else "refused:outbox"
    found = {line["sites"][EVIL] for line in lines}
    same = ending.results.get("final_hash") == expected
    problems = list(person.problems)
    problems += [] if found == {wanted} else [f"expected {wanted}, found {found}"]
    problems += [] if same else ["not the result of those whose answers left"]
    if len(person.decided) < len(lines):
        problems.append(f"{len(person.decided)} messages waited, {len(lines)} exchanges were made")
    if word == "approve" and not (left and all(left)):
        problems.append("the ledger does not name who approved")
    if word == "reject" and left:
        problems.append(f"{len(left)} messages left all the same")
    rest = [line["sites"] for line in lines if any(line["sites"][n] != "ok" for n in HONEST)]
    problems += [f"an honest site was not ok: {sites}" for sites in rest]
    status = {"approve": "complete", "reject": "degraded"}[word]
    problems += [] if ending.status == status else [f"the run ended {ending.status}"]
    ended = f"{ending.status}; {wanted}; {len(left)} of {len(person.decided)} messages left"
    took = time.monotonic() - begun
    return Outcome(f"a person {word}s every message", ended, 0, same, took, tuple(problems))


CASES = (
    Case("hostile: a person decides", "what is approved leaves, no more", let_a_person_decide),
)
"""`limits.manual` over real processes."""
