"""A study through real processes on this machine, held against the same study in simulation.

The hospitals of a study are prepared as `mfm-simulate run` does, then joined to a consortium of
their own (`simulation.consortium`): SuperLink, gateway, one node per hospital, TLS and keys. The
sites' ledgers are checked against the coordinator's, and the final hash against the simulation's.
What crosses a hospital's boundary: what its node sends, to a coordinator on the same machine.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from client.config import load_site_config
from client.secret import keep_secret
from mfm_core.config import load_yaml
from mfm_core.errors import RunFailed
from server.superlink import read_processes
from simulation.config import StudyConfig
from simulation.consortium import Consortium, Hospital
from simulation.engine import Federation
from simulation.hospitals import SITES, prepare
from simulation.progress import Display
from simulation.runner import RunFolder, hold, run_federation
from simulation.study import Order, count_workers, empty
from strategies.config import RunConfig

FOLDER = "consortium"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Choices:
    """How to run a study on loopback.

    Attributes:
        gateway: what stands before the SuperLink; auto is nginx where installed.
        compare: whether to run the simulation too.
        show: whether the coordinator's command prints its progress here.
    """

    gateway: Literal["auto", "nginx", "builtin"] = "auto"
    compare: bool = True
    show: bool = True


def run_loopback(order: Order, choices: Choices, display: Display, tell: Tell) -> dict[str, Any]:
    """Return what came of a study that ran over real processes.

    The keys: `status`, `gateway`, `seconds`, `rounds` (the coordinator's ledger), `ledgers` (per
    site: lines, bytes, problems), `final_hash` and `simulated_hash` (None without comparison).

    Raises:
        ConfigError, DataError: the study or its images cannot be used.
        RunFailed: the run ended without a model, a ledger is not whole, or the hashes differ.
    """
    study, folder = order.study, order.folder
    with hold(folder):
        if order.fresh:
            empty(folder)
        names = prepare(study, order.data, folder).names
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        hosting = hosting_of(study, len(names), choices.gateway)
        sites = hospitals_of(folder)
        begun = time.monotonic()
        run = load_yaml(folder / "run.yaml", RunConfig)
        with Consortium(folder / FOLDER, run, sites, hosting, public=folder) as consortium:
            found = _run(consortium, choices, tell)
        found["seconds"] = round(time.monotonic() - begun, 1)
        repeats = choices.compare and not study.run.privacy.private  # noise never does
        found["simulated_hash"] = _simulate(order, len(names), display) if repeats else None
    _refuse_difference(found)
    return found


def hosting_of(study: StudyConfig, sites: int, gateway: str) -> dict[str, object]:
    """Return what consortium.yaml says: every hospital is waited for, as in a simulation."""
    return {
        "gateway": gateway,
        "quorum": study.quorum or sites,
        "deadline_s": study.limits.phase_s,
        "grace_s": study.limits.phase_s,
    }


def hospitals_of(folder: Path) -> dict[str, Hospital]:
    """Return what the prepared hospitals of a run folder bring, by name."""
    found = {}
    for path in sorted((folder / SITES).glob("*.yaml"), key=lambda path: int(path.stem)):
        config = load_site_config(path)
        agreed = config.limits
        limits = {"min_cell_count": agreed.min_cell_count, "max_epsilon": agreed.max_epsilon}
        found[config.name] = Hospital(config.data, limits, keep_secret(config.state_folder))
    return found


def _run(consortium: Consortium, choices: Choices, tell: Tell) -> dict[str, Any]:
    tell(f"{len(consortium.names)} hospitals joined; starting the coordinator")
    consortium.start_server()
    host = consortium.host
    gateway = str(read_processes(host)["gateway"])
    tell(f"SuperLink at {host.superlink}, gateway ({gateway}) at {host.listen}; starting the nodes")
    consortium.start_sites(consortium.names)
    for name in consortium.names:
        tell(f"{name} is connected ({_shown(consortium.processes(name))})")
    code = consortium.run(show=choices.show)
    ending = consortium.ending()
    if code != 0 or ending is None:
        raise RunFailed(f"the run ended with code {code}; logs are in {consortium.folder}")
    read = {name: consortium.ledger(name) for name in consortium.names}
    return {
        "status": ending.status,
        "gateway": gateway,
        "final_hash": ending.results["final_hash"],
        "rounds": consortium.rounds(),
        "ledgers": {
            name: {"lines": r.lines, "bytes": r.bytes, "problems": list(r.problems)}
            for name, r in read.items()
        },
    }


def _shown(processes: dict[str, int]) -> str:
    return ", ".join(f"{role} {pid}" for role, pid in processes.items())


def _simulate(order: Order, sites: int, display: Display) -> str:
    folder = RunFolder(order.folder)
    if not folder.finished:
        federation = Federation(sites, count_workers(order.study, sites))
        run_federation(folder, federation, order.study.limits, display)
    return str(folder.server_results()["final_hash"])


def _refuse_difference(found: dict[str, Any]) -> None:
    problems = [
        f"{name}: {problem}"
        for name, ledger in found["ledgers"].items()
        for problem in ledger["problems"]
    ]
    if problems:
        raise RunFailed(f"a ledger is not whole: {'; '.join(problems)}")
    simulated = found["simulated_hash"]
    if simulated is not None and simulated != found["final_hash"]:
        raise RunFailed(
            f"the final hash over real processes is {found['final_hash']}, in simulation "
            f"{simulated}; expected the same bits"
        )


def lines_of(found: dict[str, Any]) -> list[str]:
    """Return the coordinator's rounds, each site's ledger and the hashes as lines of text."""
    rows = ["", "The coordinator's rounds:"]
    for line in found["rounds"]:
        where = f"{line['phase']} {line['round'] or ''}".strip()
        answers = ", ".join(f"{site} {outcome}" for site, outcome in line["sites"].items())
        size = sum(line["bytes"].values()) / 2**20
        images = f"{line['images']:6d} images" if line["images"] else " " * 13
        rows.append(f"  {where:14} {line['seconds']:5.1f} s {images} {size:6.2f} MiB  {answers}")
    rows += ["", "Each site's ledger of what left it, checked against the coordinator's:"]
    for name, ledger in found["ledgers"].items():
        state = "; ".join(ledger["problems"]) or "whole, every counted answer is in it"
        size = ledger["bytes"] / 2**20
        rows.append(f"  {name:14} {len(ledger['lines'])} records, {size:.2f} MiB: {state}")
    rows += ["", f"final hash over real processes ({found['gateway']}): {found['final_hash']}"]
    if found["simulated_hash"] is not None:
        rows.append(f"final hash in simulation:          {found['simulated_hash']}")
        rows.append("The two are equal.")
    return rows
