"""Kills processes of a running consortium at named points, and watches what becomes of the run.

`armed_python` makes a Python environment like this one whose every process loads `strike_hook`;
the consortium is started with it. `strike` arms points, waits until the processes have suspended
themselves there, kills the victims and reports how the run went on. No sleep decides anything.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import site
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulation.consortium import Consortium

HOOK = Path(__file__).with_name("strike_hook.py")
IMPORTS = Path(__file__).with_name("import_hook.py")
HIT_LIMIT_S, RECOVERY_LIMIT_S = 300.0, 420.0
Steps = list[tuple[str, int]]


@contextmanager
def armed_python(folder: Path, hook: Path = HOOK) -> Iterator[Path]:
    """Let everything that is started meanwhile load a hook; yield the folder it is steered by."""
    real, shadow, strikes = Path(sys.executable), folder / "python", folder / "strikes"
    place = shadow / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    for made in (strikes, shadow / "bin", place):
        made.mkdir(parents=True)
    for name in ("python", "python3"):
        (shadow / "bin" / name).symlink_to(real.resolve())
    shutil.copyfile(Path(sys.prefix) / "pyvenv.cfg", shadow / "pyvenv.cfg")
    for script in real.parent.glob("fl*wer*"), real.parent.glob("flwr*"):
        for path in script:
            _, _, body = path.read_text(encoding="utf-8").partition("\n")
            own = shadow / "bin" / path.name
            own.write_text(f"#!{shadow}/bin/python\n{body}", encoding="utf-8")
            own.chmod(0o755)
    shutil.copyfile(IMPORTS, place / "mfm_import_hook.py")
    shutil.copyfile(hook, place / "mfm_strike_hook.py")
    packages = "\n".join(f"import site; site.addsitedir({at!r})" for at in site.getsitepackages())
    lines = f"import mfm_strike_hook; mfm_strike_hook.install()\n{packages}\n"
    (place / "strike.pth").write_text(lines, encoding="utf-8")
    os.environ["MFM_STRIKES"], sys.executable = str(strikes), str(shadow / "bin" / "python")
    try:
        yield strikes
    finally:
        sys.executable = str(real)
        del os.environ["MFM_STRIKES"]


@dataclass(frozen=True)
class Strike:
    """One kill.

    Attributes:
        words: what is done, for the table.
        point: of the hook, where the strike falls.
        when: what the call's text must hold, parts divided by |, e.g. "train 1|asked".
        who: owner of the victim: "server" or a hospital.
        role: of the victim, see `Consortium.processes`.
        where: whose process reaches the point: "" the server's, else a hospital.
        down_s: how long its supervisor is kept from starting it again.
        allowed: finished exchanges that may be repeated.
    """

    words: str
    point: str
    when: str
    who: str
    role: str
    where: str = ""
    down_s: float = 0.0
    allowed: int = 1


@dataclass
class Aftermath:
    """What became of the run after strikes that fell together.

    Attributes:
        strikes: they.
        before: exchanges that were finished when they fell.
        lost: of those, how many had to be repeated.
        seconds: until one more exchange than before was finished, or the run had ended.
        problems: what went wrong.
    """

    strikes: Sequence[Strike]
    before: Steps
    lost: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def finished(consortium: Consortium, run: str) -> Steps:
    """Return the finished exchanges of a run, hello apart."""
    try:
        lines = consortium.rounds(run)
    except (OSError, ValueError):
        return []
    return [(x["phase"], x["round"]) for x in lines if x["phase"] != "hello" and "failed" not in x]


def arm(strikes: Sequence[Strike], folder: Path) -> None:
    """Let the processes suspend themselves at these points."""
    for one in strikes:
        path = folder / f"armed-{one.point}"
        content = {"when": one.when, "where": f"/hospitals/{one.where}/" if one.where else ""}
        part = path.with_suffix(".part")
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(path)


def strike(
    consortium: Consortium,
    run: str,
    strikes: Sequence[Strike],
    folder: Path,
    then: Sequence[Strike] = (),
    *,
    armed: bool = False,
) -> Aftermath:
    """Do what the strikes say and follow the run until it has made good.

    Args:
        consortium: it.
        run: its name.
        strikes: that fall together.
        folder: what the processes are steered by.
        then: next ones, armed before the victims die because their points may come at once.
        armed: whether these strikes were such.
    """
    if not armed:
        arm(strikes, folder)
    after = Aftermath(strikes, [])
    hits: list[tuple[Strike, int]] = []
    for one in strikes:
        pid = _await_hit(folder / f"hit-{one.point}", consortium, run)
        if pid is None:
            after.problems.append(f"{one.point} {one.when}: the run never came to this point")
        else:
            hits.append((one, pid))
    after.before = finished(consortium, run)
    begun = time.monotonic()
    arm(then, folder)
    for one, pid in hits:
        _kill(consortium, one, pid)
    if hits:
        next_hits = [folder / f"hit-{one.point}" for one in then]
        _follow(consortium, run, after, begun, lambda: any(path.is_file() for path in next_hits))
    return after


def _await_hit(path: Path, consortium: Consortium, run: str) -> int | None:
    """Return the process that suspended itself, None if the run ends or takes too long."""

    def hit_or_over() -> bool:
        return path.is_file() or consortium.ending(run) is not None

    wait_until(hit_or_over, HIT_LIMIT_S)
    if not path.is_file():
        path.with_name(path.name.replace("hit-", "armed-")).unlink(missing_ok=True)
        return None
    pid = int(json.loads(path.read_text(encoding="utf-8"))["pid"])
    path.unlink()
    wait_until(lambda: _state(pid) == "T", 10)
    return pid


def _kill(consortium: Consortium, one: Strike, pid: int) -> None:
    roles = consortium.processes(one.who)
    victim, supervisor = roles[one.role], roles["supervisor"]
    if one.down_s:
        os.kill(supervisor, signal.SIGSTOP)
    os.kill(victim, signal.SIGKILL)
    if victim != pid:
        os.kill(pid, signal.SIGCONT)
    if one.down_s:
        time.sleep(one.down_s)
        os.kill(supervisor, signal.SIGCONT)


def _follow(
    consortium: Consortium,
    run: str,
    after: Aftermath,
    begun: float,
    at_next: Callable[[], bool],
) -> None:
    fewest = len(after.before)

    def made_good() -> bool:
        nonlocal fewest
        found = len(finished(consortium, run))
        fewest = min(fewest, found)
        return found > len(after.before) or at_next() or consortium.ending(run) is not None

    if not wait_until(made_good, RECOVERY_LIMIT_S):
        after.problems.append(f"nothing moved for {RECOVERY_LIMIT_S:.0f} s")
    after.seconds = time.monotonic() - begun
    after.lost = len(after.before) - fewest
    allowed = max(one.allowed for one in after.strikes)
    if after.lost > allowed:
        after.problems.append(f"{after.lost} finished exchanges were lost, allowed {allowed}")


def wait_until(check: Callable[[], bool], limit_s: float) -> bool:
    """Return whether `check` held within the limit."""
    stop_at = time.monotonic() + limit_s
    while time.monotonic() < stop_at:
        if check():
            return True
        time.sleep(0.02)
    return check()


def _state(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return "gone"
    return text.rpartition(")")[2].split()[0]


def ledger_problems(consortium: Consortium, run: str, images: dict[str, int]) -> list[str]:
    """Return what is wrong with the coordinator's and the hospitals' ledgers of an ended run.

    An answer is one line of one hospital's ledger. A line does not say whose it is, so the first
    ones of two hospitals with as many images are the same where both say hello in one millisecond;
    that a hospital's answers are its own follows from its ledger, in which they must stand.

    Args:
        consortium: it.
        run: its name.
        images: training images of every hospital.
    """
    lines: list[dict[str, Any]] = [x for x in consortium.rounds(run) if "failed" not in x]
    steps = [(x["phase"], x["round"]) for x in lines if x["phase"] != "hello"]
    problems = [f"{step} stands {steps.count(step)} times" for step in set(steps)
                if steps.count(step) > 1]  # fmt: skip
    counted: dict[tuple[str, str], list[str]] = {}
    for number, line in enumerate(lines):
        for name, entry in line["ledgers"].items():
            counted.setdefault((name, entry), []).append(f"line {number} ({line['phase']})")
    problems += [f"{name}: its answer {entry!r} was counted twice: {', '.join(where)}"
                 for (name, entry), where in counted.items() if len(where) > 1]  # fmt: skip
    for line in lines:
        if line["images"] != sum(line["site_images"].values()):
            problems.append(f"{line['phase']}: {line['images']} images, the sites have fewer")
        if line["phase"] == "train" and line["site_images"] != images:
            problems.append(f"train {line['round']}: images {line['site_images']}, not {images}")
    for name in consortium.names:
        read = consortium.ledger(name, run)
        own = {line["hash"]: line for line in read.lines}
        problems += [f"{name}: {problem}" for problem in read.problems]
        problems += [
            f"{name}: {line['phase']} {line['round']} is another exchange in its own ledger"
            for line in lines
            if (mine := own.get(line["ledgers"].get(name)))
            and (mine["kind"], mine["round"]) != (line["phase"], line["round"])
        ]
    return problems
