"""Survival: a site that lies, one that is silent or late, one that answers twice.

Each run is held against the final hash of the honest sites alone, reached in memory.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

from simulation.consortium import Consortium
from strategies.processes import observe
from tests.federation.evil_site import PATIENT
from tests.federation.hostile_world import EVIL, HONEST, HostileConsortium, World, run_of
from tests.federation.lies import LIES
from tests.federation.survival import Case, Outcome

SENT = (
    *("nan", "infinite", "huge norm", "wrong shape", "a pickle", "altered after sealing"),
    *("another run's hash", "another code's hash", "another round", "another site's name"),
    *("a billion images", "false counts"),
)
"""Lies that go over the wire; `test_lies` tells all of them in memory."""

ACTED = {
    "replay": ("rejected:round", "its own earlier reply, byte for byte"),
    "babble": ("error:1001", "a patient's name where a coded word belongs"),
    "unknown code": ("error:4711", "an error code that nobody agreed"),
    "twice, the first broken": ("rejected:nan", "a broken reply, then a true one"),
    "nonsense": ("rejected:record", "a record that nobody agreed"),
}
"""Outcome and description of other acts."""

WAITS = {"deadline_s": 90.0, "grace_s": 20.0, "poll_s": 0.5}


def tell_lies(folder: Path) -> Iterator[Outcome]:
    """Yield a row per lie: one run, a lie in each round of training."""
    told = (*SENT, *ACTED)
    world = World(folder, run_of("lies", len(told)))
    alone = world.alone()
    with world.consortium(WAITS) as real:
        script = {f"train {number}": lie for number, lie in enumerate(told, start=1)}
        real.play({**script, "otherwise": "nonsense"})
        real.start()
        real.run()
        same, words = same_as(real, alone), repeated_words(real)
        lines = {line["round"]: line for line in real.rounds() if line["phase"] == "train"}
    for number, lie in enumerate(told, start=1):
        expected, what = ACTED.get(lie) or (LIES[lie].outcome, lie)
        line = lines.get(number, {"sites": {}, "seconds": 0.0})
        problems = [*held(line["sites"], expected), *words]
        if not same:
            problems.append("the honest sites' result was touched")
        yield Outcome(what, shown(line["sites"]), 0, same, line["seconds"], tuple(problems))


def held(sites: dict[str, str], expected: str) -> list[str]:
    """Return in which way one exchange's outcomes are not as expected."""
    wanted = {**dict.fromkeys(HONEST, "ok"), EVIL: expected}
    return [] if sites == wanted else [f"expected {wanted}, found {sites}"]


def shown(sites: dict[str, str]) -> str:
    """Return an exchange's outcomes in words."""
    rest = "honest sites ok" if all(sites.get(name) == "ok" for name in HONEST) else str(sites)
    return f"{sites.get(EVIL, 'no line')}; {rest}"


def same_as(real: Consortium, expected: str) -> bool:
    """Tell whether the agreed run reached this final hash."""
    ending = real.ending()
    return ending is not None and ending.results.get("final_hash") == expected


def repeated_words(real: Consortium) -> list[str]:
    """Return where the coordinator repeats what a liar put into a word."""
    texts = [real.run_folder().glob("*.json*"), (real.folder / "logs").glob("*.log")]
    texts.append(real.host.logs.glob("*.log"))
    found = [path.name for paths in texts for path in paths if PATIENT in path.read_text()]
    return [f"{name} repeats a liar's words" for name in found]


def answer_twice(folder: Path) -> Iterator[Outcome]:
    """Yield a row: two true replies to one message count once."""
    world = World(folder, run_of("twice", 1))
    alone = world.alone(3)
    with world.consortium(WAITS) as real:
        real.play({"train 1": "twice, both true", "otherwise": "honest"})
        real.start()
        begun = time.monotonic()
        real.run()
        same = same_as(real, alone)
        line = next(line for line in real.rounds() if line["phase"] == "train")
        said = real.hospital(EVIL).node / "logs" / "runner.log"
        problems = [] if "pushed around the SuperNode" in said.read_text() else ["sent once only"]
    if not same:
        problems.append("the result is not that of three sites that answer once")
    text = f"{line['sites'][EVIL]}, {line['site_images'][EVIL]} images of {line['images']}"
    took = time.monotonic() - begun
    yield Outcome(
        "two replies, the second ten times as heavy", text, 0, same, took, tuple(problems)
    )


class Silence:
    """One run in which the hostile site is late, stopped or stuck, round after round."""

    def __init__(self, real: HostileConsortium) -> None:
        self.real, self.rows = real, list[tuple[int, str, str]]()
        self.following = real.submit()

    def await_line(self, number: int) -> None:
        """Return once the line of a round of training is there."""
        while not any(
            line["phase"] == "train" and line["round"] == number for line in self.real.rounds()
        ):
            if self.following.poll() is not None:
                raise AssertionError(f"the run ended before round {number}")
            time.sleep(0.2)

    def send(self, role: str, number: int) -> None:
        """Send a signal to one of the hostile site's processes."""
        found = observe(role, self.real.processes(EVIL)[role])
        assert found is not None
        found.send(number)


def stay_silent(folder: Path) -> Iterator[Outcome]:
    """Yield a row per kind of silence; each must cost its round the grace and nothing else."""
    world = World(folder, run_of("silent", 7), evil_minutes=0.2)
    alone = world.alone()
    with world.consortium({**WAITS, "grace_s": 8.0}) as real:
        lies = {f"train {number}": "nan" for number in range(3, 8)}
        real.play({"train 1": "late", "train 2": "late", **lies, "otherwise": "nonsense"})
        real.start()
        run = Silence(real)
        run.await_line(2)
        (real.hospital(EVIL).root / "go").touch()
        run.await_line(3)
        run.send("worker", signal.SIGSTOP)
        run.await_line(4)
        run.send("supernode", signal.SIGSTOP)
        run.await_line(5)
        run.send("supernode", signal.SIGCONT)
        run.send("runner", signal.SIGSTOP)
        run.await_line(6)
        run.send("runner", signal.SIGCONT)
        real.wait(run.following)
        same = same_as(real, alone)
        lines = {line["round"]: line for line in real.rounds() if line["phase"] == "train"}
        last = real.rounds()[-1]
    wanted = (
        (1, "a true reply kept back past deadline and grace", ("no-reply",)),
        (3, "the late replies let go; they belong to no round", ("no-reply", "rejected:nan")),
        (4, "its working process stopped (SIGSTOP)", ("error:stopped", "no-reply")),
        (5, "its SuperNode stopped (SIGSTOP)", ("no-reply", "offline")),
        (6, "its runner stopped (SIGSTOP)", ("no-reply", "offline")),
    )
    for number, what, outcomes in wanted:
        line = lines[number]
        problems = [] if line["sites"][EVIL] in outcomes else held(line["sites"], outcomes[0])
        problems += [] if same else ["a late reply was counted"]
        yield Outcome(what, shown(line["sites"]), 0, same, line["seconds"], tuple(problems))
    back = [] if last["sites"][EVIL].startswith("rejected") else [f"not back: {last['sites']}"]
    yield Outcome(
        "all of it let go again", shown(last["sites"]), 0, same, last["seconds"], tuple(back)
    )


CASES = (
    Case("hostile: lies", "each lie is named; the honest sites' result is untouched", tell_lies),
    Case("hostile: two replies", "the first counts, once", answer_twice),
    Case("hostile: silence", "each silence is named and costs no more than the grace", stay_silent),
)
"""A site that does not tell the truth, or nothing at all."""
