"""One run of a hosted consortium, as people meet it: prepared, shown, submitted, watched, told.

What crosses a hospital's boundary: the app bundle and the agreed run, when a run is submitted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from mfm_core.config import load_yaml
from mfm_core.errors import ConfigError, RunFailed
from server.flower import Flower
from server.folder import Folder
from server.follow import Follower, Prepared, find_lost, last_flower_run, prepare
from server.hosting import HostingConfig, consortium_of, load_hosted_run
from server.register import read_sites
from server.run_files import RUN_FILE, Ending, choose_run, read_ending
from server.superlink import (
    SERVER_APP,
    Host,
    find_started,
    find_supervisor,
    prune_apps,
    read_processes,
)
from server.unwatched import Followed
from server.waiting import derive_waits
from strategies.config import RunConfig


def run_agreed(host: Host, hosting: HostingConfig, name: str | None) -> None:
    """Submit the agreed run and follow it to its end; Ctrl-C stops only the watching.

    Args:
        host: the consortium.
        hosting: its settings.
        name: folder below runs/; the run's own name when None.

    Raises:
        ConfigError: nothing runs, another run is under way, or the folder holds this run.
        RunFailed: the run ended without a model.
    """
    agreed = load_hosted_run(hosting)
    place = host.folder / "runs" / (name or agreed.name)
    _check_ready(host, place)
    _follow(_prepare(host, hosting, agreed, place), host, resume=False)


def resume_run(host: Host, hosting: HostingConfig, name: str | None) -> None:
    """Go on with a run from its last finished exchange, or watch it when it is under way.

    Args:
        host: the consortium.
        hosting: its settings.
        name: folder below runs/; the newest run when None.

    Raises:
        ConfigError: there is no such run, nothing runs or another run is under way.
        RunFailed: the run ended without a model.
    """
    place = choose_run(host.folder / "runs", name)
    ending = read_ending(place)
    if ending is not None and ending.status != "failed":
        _tell_ending(place, ending)
        return
    _check_ready(host, place)
    agreed = load_yaml(place / RUN_FILE, RunConfig)
    prepared = _prepare(host, hosting, agreed, place, resume=True)
    number = find_lost(prepared, host.flower) or last_flower_run(place)
    if number is not None and _is_under_way(host.flower, number):
        _watch(prepared, host, number)
    else:
        _follow(prepared, host, resume=True)


def _check_ready(host: Host, place: Path) -> None:
    """Refuse when nothing runs, or another run is under way.

    Raises:
        ConfigError: with what to do.
    """
    if find_supervisor(host) is None or not read_processes(host).get("ready"):
        reason = "is not running, or not ready yet; run `mfm-server start` first"
        raise ConfigError(str(host.folder), [reason])
    others = [
        path.parent.name
        for path in (host.folder / "runs").glob(f"*/{RUN_FILE}")
        if path.parent != place
        and read_ending(path.parent) is None
        and (number := last_flower_run(path.parent)) is not None
        and _is_under_way(host.flower, number)
    ]
    if others:
        reason = f"{others[0]} is under way; one run at a time (`mfm-server resume` watches it)"
        raise ConfigError(str(host.folder), [reason])


def _is_under_way(flower: Flower, number: int) -> bool:
    try:
        return not flower.find_run(number).finished
    except RunFailed:
        return False


def _prepare(
    host: Host, hosting: HostingConfig, agreed: RunConfig, place: Path, *, resume: bool = False
) -> Prepared:
    """Write the run's folder and show what is about to be sent."""
    admitted = read_sites(host.folder / "sites").admitted
    waits = derive_waits(host.folder / "runs", agreed)
    times = (waits.deadline_s, waits.grace_s) if waits else (None, None)
    config = consortium_of(hosting, admitted, deadline_s=times[0], grace_s=times[1])
    config = config.model_copy(update={"receipt_key": Folder(host.folder).receipt_key})
    public = None if resume else hosting.run.parent
    prepared = prepare(place, agreed, config, resume=resume, public=public)
    print(f"run {agreed.name}, {agreed.rounds} rounds, sites {', '.join(config.sites)}")
    print(f"run hash    {prepared.run_hash}")
    print(f"bundle hash {prepared.bundle_hash}")
    measured = f" (measured: {waits.slowest_s:.0f} s at most)" if waits else ""
    times_text = f"deadline {config.deadline_s:.0f} s, grace {config.grace_s:.0f} s"
    print(f"quorum {config.quorum}, {times_text}{measured}", flush=True)
    for text in kit_problems(host.folder / "kits", admitted, prepared):
        print(f"warning: {text}", file=sys.stderr)
    return prepared


def kit_problems(kits: Path, admitted: Mapping[str, str], prepared: Prepared) -> list[str]:
    """Return a line for every site whose kit names another run or bundle: it will refuse."""
    lines = []
    for name in sorted(admitted):
        try:
            kit = json.loads((kits / name / "kit.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        wrong = [
            what
            for what, field, own in (
                ("run", "run_hash", prepared.run_hash),
                ("bundle", "bundle_hash", prepared.bundle_hash),
            )
            if kit.get(field) not in (None, own)
        ]
        if wrong:
            words = " and ".join(wrong)
            lines.append(f"the kit of {name} names another {words}; give the site a new kit")
    return lines


def _follow(prepared: Prepared, host: Host, *, resume: bool) -> None:
    """Submit a run and follow it; one that another process follows already is only watched.

    Raises:
        ConfigError: another process is about to submit it.
    """
    with Followed(prepared.folder) as mark:
        follower, number = _follower(prepared, host, mark), last_flower_run(prepared.folder)
        if mark.take():
            prune_apps(host.home)
            _until_told(prepared, lambda: follower.start(resume=resume))
        elif number is not None:
            _until_told(prepared, lambda: follower.follow(number))
        else:
            reason = "another mfm-server command is submitting this run; `resume` watches it"
            raise ConfigError(str(prepared.folder), [reason])


def _watch(prepared: Prepared, host: Host, number: int) -> None:
    with Followed(prepared.folder) as mark:
        follower = _follower(prepared, host, mark)
        _until_told(prepared, lambda: follower.follow(number))


def _follower(prepared: Prepared, host: Host, mark: Followed) -> Follower:
    follower = Follower(
        prepared,
        host.flower,
        tell_progress,
        lambda: find_supervisor(host) is not None,
        lambda: any(process.name == SERVER_APP for process in find_started(host)),
    )
    follower.mends = mark.take
    return follower


def _until_told(prepared: Prepared, work: Callable[[], Ending]) -> None:
    try:
        ending = work()
    except KeyboardInterrupt:
        print("\nno longer watching; the run goes on (`mfm-server resume` watches again)")
        return
    _tell_ending(prepared.folder, ending)


def tell_progress(line: dict[str, Any] | None, progress: Mapping[str, Any]) -> None:
    """Print a finished exchange, or what is going on."""
    now = time.strftime("%H:%M:%S")
    if line is None:
        where = f"{progress.get('phase')} {progress.get('round') or ''}".strip()
        step = f"{progress['step']} of {progress['steps']} done; " if "step" in progress else ""
        print(f"{now} {step}{where}: {progress.get('message', '')}", flush=True)
        return
    where = f"{line['phase']} {line['round'] or ''}".strip()
    wrong = [f"{site} {outcome}" for site, outcome in line["sites"].items() if outcome != "ok"]
    answers = f"{len(line['sites']) - len(wrong)} of {len(line['sites'])} sites"
    said = f"; {', '.join(wrong)}" if wrong else ""
    size = sum(line.get("bytes", {}).values()) / 2**20
    print(f"{now} {where}: {line['seconds']:.1f} s, {answers}, {size:.1f} MB{said}", flush=True)


def _tell_ending(place: Path, ending: Ending) -> None:
    """Print how a run ended.

    Raises:
        RunFailed: it failed; the exit code is 3.
    """
    if ending.status == "failed":
        raise RunFailed(f"{place.name} failed: {ending.message}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{place.name} is {ending.status}: {place}")
    for key in ("macro_auc", "reconstruction_ssim", "final_hash"):
        if key in ending.results:
            console.print(f"  {key}: {ending.results[key]}")
    for site, why in sorted(ending.missing.items()):
        shown = ", ".join(why[:5]) + (f" and {len(why) - 5} more" if len(why) > 5 else "")
        console.print(f"  missing: {site} ({shown})")
