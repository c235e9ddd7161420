"""What leaves three hospitals, byte by byte: `python -m tests.federation.egress [--json] [--keep]`.

Three hospitals whose DICOM files, tables, names and settings are full of invented identifiers make
a full run over real processes; a second run goes wrong at each of them in mid-run; one of them
leaks control identifiers on purpose. Everything a SuperNode sends is recorded in clear before the
gateway (`relay`), every connection of a site's processes is noted, and all that lies at the
coordinator afterwards is read. Then all of it is searched (`searching`). Exit code 1 if an
identifier is found, a control is not, or something was sent past the recording.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pydicom

from client.config import load_site_config
from client.kit import read_kit
from client.site import CACHE, LEDGER
from mfm_core.whole_file import write_whole
from server.folder import Folder
from simulation.consortium import Consortium, Hospital
from strategies import chain
from strategies.code_hash import bundle_folder
from strategies.config import RunConfig
from strategies.onboarding import KIT
from tests.federation.egress_control import Piece, control_pieces
from tests.federation.identifiers import ONTOLOGY, Planting, plant
from tests.federation.relay import Relay
from tests.federation.searching import Mark, Search, bodies, search_all
from tests.federation.striking import armed_python, wait_until
from tests.server.hospitals import RUN

HOOK = Path(__file__).with_name("egress_hook.py")
NAMES, LEAKY = ("north", "south", "west"), "west"
BROKEN = "broken"
HOSTING = {"deadline_s": 60, "grace_s": 30, "poll_s": 0.2, "node_wait_s": 60, "attempts": 1}
AGREED = RunConfig.model_validate({**RUN.model_dump(), "ontology": ONTOLOGY.model_dump()})
AMONG = "at the coordinator"


@dataclass
class Proof:
    """What was searched, what for, and what came of it.

    Attributes:
        planted: kind of place to identifiers planted there.
        forms: patterns searched for.
        searched: place to (contents, bytes).
        found: place, identifier, form: must be empty.
        controls: form to whether the identifier that was leaked in it was found.
        problems: what else must hold and does not.
        replies: exchange and answer words of the run that went wrong, to how often.
        seconds: per part.
    """

    planted: Counter[str] = field(default_factory=Counter)
    forms: int = 0
    searched: dict[str, tuple[int, int]] = field(default_factory=dict)
    found: list[tuple[str, str, str]] = field(default_factory=list)
    controls: dict[str, bool] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    replies: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Return whether nothing left, every control was found and nothing else is wrong."""
        return not self.found and all(self.controls.values()) and not self.problems


def judge(
    proof: Proof,
    marks: Sequence[Mark],
    pieces: Sequence[Piece],
    contents: Mapping[str, Sequence[bytes]],
) -> Proof:
    """Search named contents for the marks and the control pieces; return the proof with both."""
    begun = time.monotonic()
    control = {piece.mark.name for piece in pieces}
    search = Search([*marks, *(piece.mark for piece in pieces)])
    proof.planted = Counter(mark.where for mark in marks)
    proof.forms = sum(len(mark.forms) for mark in marks)
    hits: set[tuple[str, str]] = set()
    for place, parts in contents.items():
        proof.searched[place] = (len(parts), sum(map(len, parts)))
        found = search_all(search, [(place, bytes(part)) for part in parts])
        hits |= {(name, form) for _, name, form in found if name in control}
        proof.found += sorted({hit for hit in found if hit[1] not in control})
    proof.controls = {
        f"{number} {piece.form}": (piece.mark.name, piece.form) in hits
        for number, piece in enumerate(pieces, start=1)
    }
    proof.seconds["search"] = time.monotonic() - begun
    return proof


def prove(folder: Path, tell: Any = print) -> Proof:
    """Return the proof of a consortium of three below an empty folder."""
    proof, begun = Proof(), time.monotonic()
    plants = {name: plant(folder / "data", name, seed) for seed, name in enumerate(NAMES)}
    hospitals = {
        name: Hospital(planting.data, {"min_cell_count": 1}) for name, planting in plants.items()
    }
    pieces = control_pieces()
    with (
        armed_python(folder / "armed", HOOK) as steering,
        Consortium(folder / "all", AGREED, hospitals, HOSTING) as consortium,
        contextlib.ExitStack() as stack,
    ):
        relays = {name: stack.enter_context(_relay(consortium, name)) for name in NAMES}
        for name in NAMES:
            _mark_settings(consortium, plants[name])
        tell(f"{time.strftime('%H:%M:%S')} starting the coordinator and {len(NAMES)} hospitals")
        consortium.start_server()
        with _host_names(plants["north"]):
            consortium.start_sites(NAMES)
        proof.seconds["start"] = time.monotonic() - begun
        _whole_run(consortium, proof, tell)
        _broken_run(consortium, plants, pieces, steering, proof, tell)
        addresses = {name: _own_addresses(consortium, name, relays) for name in NAMES}
        consortium.close()
        _check_ledgers(consortium, relays, proof)
        _check_connections(steering, addresses, proof)
    contents: dict[str, Sequence[bytes]] = {}
    for name, relay in relays.items():
        sent = [bytes(stream) for stream in relay.sent]
        contents[f"sent by {name}"] = [*sent, *(b"".join(bodies(stream)) for stream in sent)]
        contents[f"sent to {name}"] = [b"".join(bodies(bytes(s))) for s in relay.received]
    contents |= _coordinator(consortium)
    tell(f"{time.strftime('%H:%M:%S')} searching")
    marks = [mark for planting in plants.values() for mark in planting.marks]
    return judge(proof, marks, pieces, contents)


def _relay(consortium: Consortium, name: str) -> Relay:
    """Return a relay of a hospital's own, and make its kit name it."""
    folder = consortium.hospital(name)
    kit = read_kit(folder.kit)
    relay = Relay(kit.address, Folder(consortium.coordinator).authority)
    changed = kit.model_copy(update={"address": relay.address})
    write_whole(folder.kit / KIT, changed.model_dump_json().encode())
    return relay


def _mark_settings(consortium: Consortium, planting: Planting) -> None:
    """Write identifiers into a hospital's site.yaml and the path of its state folder."""
    folder, words = consortium.hospital(planting.site), planting.words
    text = folder.site_file.read_text(encoding="utf-8")
    state = f"state_folder: state-{words.word('path of the state folder')}"
    assert "state_folder: state\n" in text
    text = text.replace("state_folder: state\n", f"{state}\n")
    remarks = [words.word("comment in site.yaml") for _ in range(4)]
    folder.site_file.write_text("".join(f"# {each}\n" for each in remarks) + text, "utf-8")


@contextlib.contextmanager
def _host_names(planting: Planting) -> Iterator[None]:
    """Give the processes started meanwhile names of machine, user and a proxy's exceptions."""
    names = ("HOSTNAME", "HOST", "LOGNAME", "USER", "COMPUTERNAME")
    before = {name: os.environ.get(name) for name in names}
    for name in names:
        os.environ[name] = f"pacs-{planting.words.number('name of a machine or user')}.ward"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _whole_run(consortium: Consortium, proof: Proof, tell: Any) -> None:
    begun = time.monotonic()
    code = consortium.run()
    ending = consortium.ending()
    proof.seconds["full run"] = time.monotonic() - begun
    tell(f"{time.strftime('%H:%M:%S')} the full run ended {ending and ending.status} ({code})")
    if ending is None or ending.status != "complete":
        proof.problems.append(f"the full run is not complete: {ending}")
    run = consortium.run_folder()
    for words in (("report", str(run)), ("release", str(run))):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "server", *words],
            cwd=bundle_folder(), env={**os.environ, "PYTHONPATH": str(bundle_folder())},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            proof.problems.append(f"mfm-server {words[0]}: {done.stderr[-300:] or done.stdout}")


def _broken_run(
    consortium: Consortium,
    plants: Mapping[str, Planting],
    pieces: Sequence[Piece],
    steering: Path,
    proof: Proof,
    tell: Any,
) -> None:
    """Start a run in which every site fails in mid-run, one of them after it has leaked."""
    begun = time.monotonic()
    leak = {
        "kind": "patch_moments",
        "pieces": {f"x{n}": p.content.hex() for n, p in enumerate(pieces)},
    }
    (steering / f"leak-{LEAKY}").write_text(json.dumps(leak), encoding="utf-8")
    following = consortium.submit(BROKEN)
    if not wait_until(lambda: _has_leaked(consortium), 240.0):
        proof.problems.append(f"{LEAKY} has not leaked in time")
    for name, harm in (("north", _cut), ("south", _without_pixels), ("west", _no_state)):
        folder = consortium.hospital(name)
        state = load_site_config(folder.site_file).state_folder
        harm(plants[name], state)
        worker = consortium.processes(name).get("worker")
        if worker is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)  # a new one opens the images anew
    code = consortium.wait(following, 400.0)
    proof.seconds["broken run"] = time.monotonic() - begun
    for line in consortium.rounds(BROKEN):
        for site, word in line.get("sites", {}).items():
            proof.replies[f"{line['phase']} {line['round']}: {site} {word}"] += 1
    tell(f"{time.strftime('%H:%M:%S')} the broken run ended ({code})")
    if code == 0:
        proof.problems.append("the run that was to fail did not")


def _has_leaked(consortium: Consortium) -> bool:
    """Return whether the leaky answer of the second run has been given and judged."""
    with contextlib.suppress(OSError, ValueError):
        kinds = [line["kind"] for line in consortium.ledger(LEAKY).lines]
        judged = any(line["phase"] == "patch_moments" for line in consortium.rounds(BROKEN))
        return kinds.count("patch_moments") == 2 and judged
    return False


def _empty_cache(state: Path) -> None:
    for path in sorted((state / CACHE).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


def _cut(planting: Planting, state: Path) -> None:
    """Cut off an image file whose name is an identifier."""
    path = planting.data.root / planting.files[0]
    path.write_bytes(path.read_bytes()[:400])
    _empty_cache(state)


def _without_pixels(planting: Planting, state: Path) -> None:
    """Replace an image by a DICOM file of the same patient that holds none."""
    path = planting.data.root / planting.files[0]
    header = pydicom.dcmread(path)
    del header.PixelData
    header.save_as(path)
    _empty_cache(state)


def _no_state(planting: Planting, state: Path) -> None:
    """Put a folder where the ledger is written, so that nothing can be."""
    ledger = state / LEDGER
    ledger.rename(ledger.with_suffix(".kept"))
    (ledger / planting.words.word("name in the state folder")).mkdir(parents=True)


def _own_addresses(consortium: Consortium, name: str, relays: Mapping[str, Relay]) -> set[str]:
    """Return where the processes of a hospital may connect to: its relay, and its own SuperNode."""
    content = json.loads((consortium.hospital(name).node / "processes.json").read_bytes())
    return {relays[name].address, str(content["address"]), str(content.get("health"))}


def _check_ledgers(consortium: Consortium, relays: Mapping[str, Relay], proof: Proof) -> None:
    """Hold what each site's ledger lists against what was recorded of it."""
    for name in NAMES:
        state = load_site_config(consortium.hospital(name).site_file).state_folder
        path = state / LEDGER
        lines = chain.read(path if path.is_file() else path.with_suffix(".kept"))
        sent = b"".join(b"".join(bodies(bytes(stream))) for stream in relays[name].sent)
        missing = [line["kind"] for line in lines if line["sha256"].encode() not in sent]
        if missing or not lines:
            proof.problems.append(f"{name}: not in the recording: {missing} of {len(lines)} lines")


def _check_connections(steering: Path, own: Mapping[str, set[str]], proof: Proof) -> None:
    """Hold every connection of a site's processes against the few it may make."""
    seen: Counter[str] = Counter()
    for path in sorted(steering.glob("connects-*")):
        for text in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            for name, allowed in own.items():
                if f"/hospitals/{name}" not in line["words"]:
                    continue
                seen[name] += 1
                if line["address"] not in allowed:
                    proof.problems.append(f"{name} connected to {line['address']}")
    if missing := [name for name in NAMES if not seen[name]]:
        proof.problems.append(f"no connection was noted of {missing}: the hook did not work")


def _coordinator(consortium: Consortium) -> dict[str, Sequence[bytes]]:
    """Return every file of the coordinator's, by the folder it lies in."""
    found: dict[str, list[bytes]] = {}
    base = consortium.coordinator
    for path in sorted(base.rglob("*")):
        if path.is_file():
            part = path.relative_to(base).parts
            place = f"{AMONG}: {part[0] if len(part) > 1 else 'settings'}"
            name = str(path.relative_to(base)).encode()
            found.setdefault(place, []).extend((path.read_bytes(), name))
    for what in ("server", f"run {AGREED.name}", f"run {BROKEN}"):
        said = consortium.log_of(what).read_bytes()
        found.setdefault(f"{AMONG}: what its commands printed", []).append(said)
    return dict(found)


def table_of(proof: Proof) -> str:
    """Return the proof as Markdown."""
    lines = ["| searched | contents | bytes | identifiers found |", "| --- | --- | --- | --- |"]
    hits = Counter(place for place, _, _ in proof.found)
    for place, (contents, size) in proof.searched.items():
        lines.append(f"| {place} | {contents} | {size:,} | {hits[place]} |")
    lines += ["", "| planted in | identifiers |", "| --- | --- |"]
    lines += [f"| {where} | {count} |" for where, count in sorted(proof.planted.items())]
    lines.append(f"| all, in {proof.forms:,} forms | {proof.planted.total()} |")
    known = sum(proof.controls.values())
    lines += ["", f"Controls: {known} of {len(proof.controls)} leaked identifiers were found."]
    lines += [f"NOT FOUND: {form}" for form, found in proof.controls.items() if not found]
    lines += [f"FOUND: {name} as {form}, {place}" for place, name, form in proof.found]
    lines += [f"PROBLEM: {problem}" for problem in proof.problems]
    lines += [f"Answer of the broken run: {words}" for words in proof.replies]
    took = ", ".join(f"{part} {seconds:.0f} s" for part, seconds in proof.seconds.items())
    return "\n".join([*lines, "", f"{'holds' if proof.holds else 'DOES NOT HOLD'}; {took}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the proof and print it; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.federation.egress")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the tables")
    parser.add_argument("--keep", type=Path, help="an empty folder to work in, which is kept")
    options = parser.parse_args(arguments)

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="mfm-egress-") as name:
        proof = prove(options.keep or Path(name), tell)
    print(json.dumps(asdict(proof), indent=1) if options.json else table_of(proof))
    return int(not proof.holds)


if __name__ == "__main__":
    sys.exit(main())
