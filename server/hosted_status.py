"""What a consortium folder shows: processes, gateway, certificates, sites and runs.

What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mfm_core.errors import MfmError, RunFailed
from server.certificates import certificate_problems, read_certificate
from server.flower import Flower
from server.register import read_nodes
from server.run_files import PROGRESS, missing_sites, read_ending, read_submission
from server.superlink import Host, find_supervisor, is_healthy, read_processes
from strategies.health import read_ills


def is_consortium(folder: Path) -> bool:
    """Tell whether a folder is a coordinator's, and not that of one run."""
    return (folder / "consortium.yaml").is_file() and (folder / "authority").is_dir()


def read_hosted(host: Host, name: str) -> dict[str, Any]:
    """Return everything that `mfm-server status` shows of a consortium, JSON-ready."""
    running = find_supervisor(host) is not None
    content = read_processes(host) if running else {}
    ready = bool(content.get("ready"))
    healthy = ready and is_healthy(host.listen, host.authority / "ca.crt")
    return {
        "consortium": name,
        "state": _state(running, ready, healthy),
        "listen": host.listen,
        "gateway": content.get("gateway"),
        "since": content.get("started_at"),
        "healthy": not read_ills(host.processes),
        "metrics": content.get("metrics"),
        "services": [
            {key: row.get(key) for key in ("name", "pid", "alive", "starts", "answers")}
            for row in content.get("services", [])
        ],
        "problems": [*content.get("problems", []), *_certificate_problems(host)],
        "certificates": _certificates(host),
        "sites": _sites(host, ready),
        "runs": read_runs(host.folder / "runs"),
    }


def _state(running: bool, ready: bool, healthy: bool) -> str:
    if not running:
        return "stopped"
    if not ready:
        return "starting"
    return "running" if healthy else "not answering"


def _certificate_problems(host: Host) -> list[str]:
    try:
        return certificate_problems(host.authority)
    except MfmError as error:
        return [str(error)]


def _certificates(host: Host) -> list[dict[str, Any]]:
    rows = []
    for name in ("ca.crt", "server.crt"):
        try:
            found = read_certificate(host.authority / name)
        except MfmError:
            continue
        ends = found.not_after.date().isoformat()
        rows.append({"file": name, "ends": ends, "days_left": int(found.days_left())})
    return rows


def _sites(host: Host, ready: bool) -> list[dict[str, Any]]:
    """Return a row per site: its status here and its node's status at Flower."""
    nodes = read_nodes(host.nodes)
    found = _ask(host.flower) if ready else {}
    rows = []
    for path in sorted((host.folder / "sites").glob("*.json")):
        try:
            status = str(json.loads(path.read_text(encoding="utf-8"))["status"])
        except (OSError, ValueError, KeyError, TypeError):
            status = "damaged"
        node = found.get(int(nodes.get(path.stem, {}).get("node_id", 0)), ("unknown", ""))
        rows.append({"name": path.stem, "status": status, "node": node[0], "since": node[1]})
    return rows


def _ask(flower: Flower) -> dict[int, tuple[str, str]]:
    try:
        return {node.node_id: (node.status, node.since) for node in flower.nodes()}
    except RunFailed:
        return {}


def read_runs(runs: Path) -> list[dict[str, Any]]:
    """Return a row per run folder, the newest submission last."""
    rows = []
    for folder in (path.parent for path in runs.glob(f"*/{PROGRESS}")):
        ending = read_ending(folder)
        try:
            progress = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
            step = {key: progress[key] for key in ("phase", "step", "steps", "message")}
        except (OSError, ValueError, KeyError, TypeError):
            step = {"phase": "damaged", "step": 0, "steps": 0, "message": "progress.json"}
        rows.append(
            {
                "name": folder.name,
                "status": ending.status if ending else "running",
                "submitted_at": read_submission(folder).get("submitted_at"),
                "missing": {name: list(why) for name, why in missing_sites(folder).items()},
                **step,
            }
        )
    return sorted(rows, key=lambda row: (row["submitted_at"] or "", row["name"]))


def show_hosted(found: dict[str, Any]) -> None:
    """Print a consortium's status for people."""
    console = Console(highlight=False)
    door = f" ({found['gateway']})" if found["gateway"] else ""
    console.print(f"{found['consortium']}: {found['state']}; sites reach {found['listen']}{door}")
    for row in found["services"]:
        again = f", started {row['starts']} times" if row["starts"] > 1 else ""
        how = "runs" if row["alive"] else "is down"
        how += " but does not answer" if row["alive"] and row["answers"] is False else ""
        console.print(f"  {row['name']} {how} (process {row['pid']}{again})")
    for row in found["certificates"]:
        console.print(f"  {row['file']} ends {row['ends']} ({row['days_left']} days left)")
    for text in found["problems"]:
        console.print(f"  warning: {text}")
    _show_table(console, ("site", "status", "node", "since"), found["sites"])
    columns = ("run", "status", "phase", "step", "message")
    rows = [
        {**row, "run": row["name"], "step": f"{row['step']} of {row['steps']}"}
        for row in found["runs"]
    ]
    _show_table(console, columns, rows)


def _show_table(console: Console, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*(str(row.get(name, row.get("name", ""))) for name in columns))
    console.print(table)
