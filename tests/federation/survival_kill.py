"""The killing half of `survival`: kill -9 of every process at every step of a run.

Two tiny hospitals, two rounds, all phases; a run takes many kills, one after the other. What must
hold of each: at most one finished exchange is repeated; and of the run at its end: it is complete,
every answer was counted once, each round rests on all images, the sites' ledgers are whole and
agree with the coordinator's, every restart stands in the ledger, and the final hash is that of the
same run in memory without a kill.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from mfm_core.config import DataConfig
from server.app import final_hash, run_federation
from simulation.consortium import RUN_LIMIT_S, Consortium, Hospital
from tests.federation.striking import (
    HIT_LIMIT_S,
    Aftermath,
    Strike,
    arm,
    armed_python,
    ledger_problems,
    strike,
    wait_until,
)
from tests.federation.survival import Case, Outcome
from tests.server import hospitals
from tests.server.hospitals import RUN

NAMES = ("north", "south")
IMAGES = dict.fromkeys(NAMES, 24)
HOSTING = {"deadline_s": 100.0, "grace_s": 100.0, "poll_s": 0.5, "node_wait_s": 240.0}
Blows = Sequence[Sequence[Strike]]


def tiny_hospitals(folder: Path) -> dict[str, Hospital]:
    """Write the images of two hospitals and return what they bring to a consortium."""
    found = {}
    for index, name in enumerate(NAMES):
        root = folder / "images" / name
        hospitals.write_hospital(root, seed=index)
        data = {"root": root, "manifest": root / "manifest.csv", "columns": {"split": "split"}}
        found[name] = Hospital(DataConfig.model_validate(data), {"min_cell_count": 1})
    return found


@functools.cache
def unbroken_hash() -> str:
    """Return the final hash of the same run in memory, where nothing is killed."""
    with tempfile.TemporaryDirectory(prefix="mfm-unbroken-") as name:
        folder = hospitals.lay_out(Path(name))
        settings = hospitals.consortium(folder, "whole")
        return final_hash(run_federation(hospitals.make_grid(folder), settings, resume=False))


def strike_run(folder: Path, blows: Blows) -> Iterable[Outcome]:
    """Return a row per strike of one run that takes them all."""
    wanted = unbroken_hash()
    with (
        armed_python(folder) as strikes,
        Consortium(folder / "c", RUN, tiny_hospitals(folder), HOSTING) as consortium,
    ):
        consortium.start()
        following = consortium.submit()
        afters = list(strike_all(consortium, blows, strikes))
        consortium.wait(following, RUN_LIMIT_S)
        yield from judge(consortium, afters, wanted)


def strike_all(consortium: Consortium, blows: Blows, strikes: Path) -> Iterable[Aftermath]:
    """Yield what became of each blow; one at the end of a phase is armed during the one before."""
    armed = False
    for blow, after in zip(blows, [*blows[1:], ()], strict=True):
        then = after if all(one.point == "kept" for one in after) else ()
        yield strike(consortium, RUN.name, blow, strikes, then, armed=armed)
        armed = bool(then)


def strike_unwatched_run(folder: Path) -> Iterable[Outcome]:
    """Return the row of a ServerApp that dies after the `run` command was killed too.

    The command dies between Flower's taking the run and its own note of that.
    """
    wanted, blow = unbroken_hash(), server_app("and `run`, in train 1", "report", "train 1|asked")
    handed = (Strike("`run`, once Flower has it", "handed", "", "server", "run"),)
    with (
        armed_python(folder) as strikes,
        Consortium(folder / "c", RUN, tiny_hospitals(folder), HOSTING) as consortium,
    ):
        consortium.start()
        arm(handed, strikes)
        following = consortium.submit()
        if not wait_until((strikes / "hit-handed").is_file, HIT_LIMIT_S):
            raise AssertionError("Flower never took the run")
        following.kill()
        following.wait()
        after = strike(consortium, RUN.name, blow, strikes)
        wait_until(lambda: consortium.ending() is not None, RUN_LIMIT_S)
        yield from judge(consortium, [after], wanted)


def judge(consortium: Consortium, afters: Sequence[Aftermath], wanted: str) -> Iterable[Outcome]:
    """Return a row per strike; what is wrong with the run as a whole stands in every row."""
    ending = consortium.ending()
    if ending is None or ending.status != "complete":
        problems = [f"not complete: {ending.message if ending else 'no end'}"]
    else:
        problems = ledger_problems(consortium, RUN.name, IMAGES)
    hellos = [line for line in consortium.rounds() if line["phase"] == "hello"]
    restarts = sum(one.role == "serverapp" for after in afters for one in after.strikes)
    if len(hellos) < 1 + restarts:
        problems.append(f"{restarts} restarts, but the ledger holds {len(hellos)} hellos")
    same = ending is not None and ending.results.get("final_hash") == wanted
    if not same:
        problems.append("the final hash is not that of the unbroken run")
    status = ending.status if ending else "no end"
    for after in afters:
        for one in after.strikes:
            own = (*after.problems, *problems)
            yield Outcome(one.words, status, after.lost, same, after.seconds, own)


def server_app(words: str, point: str, when: str, allowed: int = 0) -> tuple[Strike]:
    """Return a kill of the ServerApp."""
    return (Strike(f"ServerApp, {words}", point, when, "server", "serverapp", "", 0.0, allowed),)


SERVER_APP: Blows = (
    server_app("before train 1 is sent", "report", "train 1|waiting"),
    server_app("in aggregation of train 2, one answer added", "report", "train 2|1 to come"),
    server_app("latent sums: ledger line written, state not", "line", "latent_sums", 1),
    server_app("heads: state written, not yet renamed", "replace", "state-000005", 1),
    server_app("after mitigate 1, state kept", "kept", "done=6,"),
    server_app("evaluate sent, nobody has answered", "report", "evaluate|asked"),
    server_app("before atlas is sent", "report", "atlas|waiting"),
    server_app("audit: ledger line written, state not", "line", "audit", 1),
    server_app("all exchanges done, before the results", "kept", "done=10,"),
)


def at_site(words: str, point: str, when: str, victim: str, where: str = "") -> Strike:
    """Return a kill of a hospital's process: "north runner"; `where` reaches the point."""
    who, role = victim.split()
    return Strike(f"{role}, {words}", point, when, who, role, where or who, 0.0, 0)


SITE: Blows = (
    (
        at_site("before train 1 begins", "ask", "train 1", "north runner"),
        at_site("train 1: line in its ledger, not sent", "release", "train 1", "south runner"),
    ),
    (
        at_site("in the midst of train 2, after a step", "backward", "", "north worker"),
        at_site("before it begins train 2", "compute", "train 2", "south worker"),
    ),
    (
        at_site("latent sums: line in its ledger, head not", "head", "lines", "north runner"),
        at_site("after it was given latent sums", "given", "given", "south supernode"),
    ),
    (at_site("while the site computes heads", "ask", "heads", "north supernode"),),
    (at_site("in audit", "compute", "audit", "south worker"),),
)


def link(words: str, when: str, down_s: float) -> tuple[Strike]:
    """Return a kill of the SuperLink while a round is under way."""
    return (Strike(f"SuperLink, {words}", "report", when, "server", "superlink", "", down_s, 0),)


LINK: Blows = (
    link("train 1 sent, back at once", "train 1|asked", 0.0),
    link("train 2, one answer added, 10 s down", "train 2|1 to come", 10.0),
    link("heads sent, 90 s down", "heads|asked", 90.0),
)

HOLDS = "complete, same hash, at most one exchange repeated"
CASES = (
    Case("kill-serverapp", HOLDS, lambda folder: strike_run(folder, SERVER_APP)),
    Case("kill-unwatched", HOLDS, strike_unwatched_run),
    Case("kill-site", HOLDS, lambda folder: strike_run(folder, SITE)),
    Case("kill-superlink", HOLDS, lambda folder: strike_run(folder, LINK)),
)
