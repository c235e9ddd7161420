"""What the coordinator's supervisor shows to Prometheus: processes, sites, certificates, runs.

Everything is read when Prometheus asks, from what lies in the folder anyway: processes.json,
sites/, nodes.json, the SuperLink's database, the certificates and each run's files; a run that did
not change is not read twice. Sites are the only label that grows: names that are not in sites/
are counted together as "other". Neither torch nor Flower is loaded.
What crosses a hospital's boundary: nothing; site names and counts stay on the coordinator's
machine.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client.core import Metric

from server.certificates import read_certificate
from server.register import ADMITTED, read_nodes
from server.run_files import (
    PROGRESS,
    RESULTS,
    ROUNDS,
    read_ending,
    read_lines,
    read_object,
    read_submission,
)
from server.superlink import Host, read_processes
from strategies.exposition import Parts, counter, gauge
from strategies.processes import read_process

STATES = ("running", "complete", "degraded", "failed")
OUTCOMES = (
    "ok", "rejected", "refused", "error", "no-reply", "not-sent", "offline", "left-out",
)  # fmt: skip
OTHER = "other"
DAY_S = 86_400.0
P = "mfm_server"


@dataclass(frozen=True)
class RunFigures:
    """What one run folder says.

    Attributes:
        state: of STATES.
        submitted: ISO 8601, empty when it is not known.
        progress: progress.json.
        moved: when that was written, seconds since 1970.
        answers: (site, outcome) to exchanges.
        received: site to bytes that were taken in.
        seconds: of the last exchange; "train" of the last training round.
    """

    state: str
    submitted: str
    progress: Mapping[str, Any]
    moved: float
    answers: Mapping[tuple[str, str], int]
    received: Mapping[str, int]
    seconds: Mapping[str, float]


def read_run(folder: Path) -> RunFigures:
    """Return the figures of one run folder."""
    ending, lines = read_ending(folder), read_lines(folder)
    answers: Counter[tuple[str, str]] = Counter()
    received: Counter[str] = Counter()
    seconds: dict[str, float] = {}
    for line in lines:
        answers.update((site, outcome_of(text)) for site, text in line["sites"].items())
        received.update({site: int(size) for site, size in line["bytes"].items()})
        seconds["exchange"] = float(line["seconds"])
        if line["phase"] == "train":
            seconds["round"] = float(line["seconds"])
    return RunFigures(
        state=ending.status if ending else "running",
        submitted=str(read_submission(folder).get("submitted_at") or ""),
        progress=read_object(folder / PROGRESS),
        moved=(folder / PROGRESS).stat().st_mtime,
        answers=answers,
        received=received,
        seconds=seconds,
    )


def outcome_of(text: str) -> str:
    """Return the kind of an outcome without its reason, of OUTCOMES; "error" for what is none."""
    kind = text.partition(":")[0]
    return kind if kind in OUTCOMES else "error"


class ServerFigures:
    """Reads a consortium folder; `parts` are for `Parts`."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._runs: dict[Path, tuple[tuple[int, ...], RunFigures]] = {}
        self._most_answers: dict[tuple[str, str], float] = {}
        self._most_received: dict[str, float] = {}

    @property
    def collector(self) -> Parts:
        """Return what Prometheus' library asks."""
        parts = {
            "processes": self.processes,
            "sites": self.sites,
            "certificates": self.certificates,
            "runs": self.runs,
            "disk": self.disk,
        }
        return Parts(P, parts)

    def processes(self) -> Iterator[Metric]:
        """Yield how the supervised processes are."""
        content = read_processes(self.host)
        rows = content.get("services", [])
        alive = {row["name"]: float(_alive(row)) for row in rows}
        asked = {
            row["name"]: float(bool(row["answers"]))
            for row in rows
            if row.get("answers") is not None
        }
        again = {row["name"]: float(max(0, int(row["starts"]) - 1)) for row in rows}
        label = ("process",)
        yield gauge(f"{P}_ready", "1 once all processes came up.", float(bool(content["ready"])))
        yield gauge(f"{P}_process_up", "1 while a process runs.", alive, label)
        text = "1 while a process answers its health check; absent where it was not asked."
        yield gauge(f"{P}_process_answers", text, asked, label)
        text = "Times a process was started again since the supervisor began."
        yield counter(f"{P}_process_restarts_total", text, again, label)
        text = "Problems of the register of keys, see `mfm-server status`."
        yield gauge(f"{P}_problems", text, float(len(content.get("problems", []))))

    def sites(self) -> Iterator[Metric]:
        """Yield how many sites there are, and which are connected."""
        found = self._statuses()
        kinds = (ADMITTED, "suspended", "damaged")
        count = Counter(status if status in kinds else "damaged" for status in found.values())
        states = {kind: float(count[kind]) for kind in kinds}
        online = _online(self.host.database)
        nodes = read_nodes(self.host.nodes)
        here = {
            name: float(_signed(int(nodes.get(name, {}).get("node_id", 0))) in online)
            for name, status in found.items()
            if status == ADMITTED
        }
        yield gauge(f"{P}_sites", "Sites by status.", states, ("status",))
        text = "1 while an admitted site's node is connected."
        yield gauge(f"{P}_site_online", text, here, ("site",))
        yield gauge(f"{P}_sites_online", "Admitted sites that are connected.", sum(here.values()))

    def _statuses(self) -> dict[str, str]:
        paths = sorted((self.host.folder / "sites").glob("*.json"))
        return {path.stem: str(read_object(path).get("status", "damaged")) for path in paths}

    def certificates(self) -> Iterator[Metric]:
        """Yield how long the certificates last."""
        left = {
            name: read_certificate(self.host.authority / f"{name}.crt").days_left() * DAY_S
            for name in ("ca", "server")
        }
        text = "Time until a certificate ends."
        yield gauge(f"{P}_certificate_left_seconds", text, left, ("certificate",))

    def disk(self) -> Iterator[Metric]:
        """Yield the room that is left where the folder lies."""
        free = shutil.disk_usage(self.host.folder).free
        yield gauge(f"{P}_disk_free_bytes", "Free space of the consortium's folder.", float(free))

    def runs(self) -> Iterator[Metric]:
        """Yield the states of all runs, the answers of all sites, and the current run."""
        found = self._read_runs()
        states = Counter(run.state for run in found)
        rows = {state: float(states[state]) for state in STATES}
        yield gauge(f"{P}_runs", "Runs by state.", rows, ("state",))
        known = set(self._statuses())
        answers: Counter[tuple[str, str]] = Counter()
        received: Counter[str] = Counter()
        for run in found:
            for (site, outcome), number in run.answers.items():
                answers[site if site in known else OTHER, outcome] += number
            for site, size in run.received.items():
                received[site if site in known else OTHER] += size
        text = "Exchanges by site and outcome, over all runs."
        yield counter(
            f"{P}_answers_total", text, _grown(self._most_answers, answers), ("site", "outcome")
        )
        text = "Bytes of replies that were taken in, by site, over all runs."
        yield counter(
            f"{P}_received_bytes_total", text, _grown(self._most_received, received), ("site",)
        )
        if found:
            yield from _current(max(found, key=lambda run: (run.state == "running", run.submitted)))

    def _read_runs(self) -> list[RunFigures]:
        found: dict[Path, tuple[tuple[int, ...], RunFigures]] = {}
        for path in sorted((self.host.folder / "runs").glob(f"*/{PROGRESS}")):
            stamp = _stamp(path.parent)
            kept = self._runs.get(path.parent)
            with contextlib.suppress(FileNotFoundError):
                fresh = kept if kept and kept[0] == stamp else (stamp, read_run(path.parent))
                found[path.parent] = fresh
        self._runs = found
        return [run for _, run in found.values()]


K = TypeVar("K")


def _grown(most: dict[K, float], rows: Mapping[K, int]) -> dict[K, float]:
    """Return counts that never fall: a run that goes on cuts its ledger back by an exchange."""
    for key, value in rows.items():
        most[key] = max(most.get(key, 0.0), float(value))
    return {key: most[key] for key in rows}


def _current(run: RunFigures) -> Iterator[Metric]:
    progress, running = run.progress, run.state == "running"
    yield gauge(f"{P}_run_active", "1 while the newest run is under way.", float(running))
    phase = {str(progress.get("phase", "unknown")): 1.0}
    yield gauge(f"{P}_run_phase", "1 for the phase of the newest run.", phase, ("phase",))
    for name in ("round", "rounds", "step", "steps"):
        text = f"Field {name} of the newest run's progress."
        yield gauge(f"{P}_run_{name}", text, float(progress.get(name, 0)))
    idle = max(0.0, time.time() - run.moved) if running else 0.0
    text = "Time since the newest run moved; 0 once it has ended."
    yield gauge(f"{P}_run_idle_seconds", text, idle)
    for name, what in (("exchange", "exchange"), ("round", "training round")):
        if name in run.seconds:
            text = f"Duration of the newest run's last {what}."
            yield gauge(f"{P}_last_{name}_seconds", text, run.seconds[name])


def _alive(row: Mapping[str, Any]) -> bool:
    process = read_process(row)
    return process is not None and process.alive


def _stamp(folder: Path) -> tuple[int, ...]:
    """Return what changes whenever one of a run's files does."""
    found: list[int] = []
    for name in (PROGRESS, ROUNDS, RESULTS):
        with contextlib.suppress(OSError):
            stat = (folder / name).stat()
            found += (stat.st_mtime_ns, stat.st_size)
    return tuple(found)


def _signed(node_id: int) -> int:
    """Return a node's id as SQLite holds it."""
    return node_id - 2**64 if node_id >= 2**63 else node_id


def _online(database: Path) -> set[int]:
    """Return the ids of the nodes whose last sign of life still counts (flwr 1.41's table).

    `flwr supernode list` says the same and takes two seconds of a processor each time.
    """
    if not database.is_file():
        return set()
    link = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=2.0)
    with contextlib.closing(link):
        rows = link.execute(
            "SELECT node_id FROM node WHERE status = 'online' AND online_until > ?", (time.time(),)
        )
        return {int(row[0]) for row in rows}
