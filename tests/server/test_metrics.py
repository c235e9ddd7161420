"""The coordinator's figures: read from the folder at the time of asking, with bounded labels."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from server.metrics import OTHER, ServerFigures, outcome_of
from server.run_files import PROGRESS, RESULTS, ROUNDS, SUBMISSION
from server.superlink import Host
from strategies.processes import observe
from tests.server.test_supervisor import make_host, write_site

Figures = dict[str, float]


def scrape(figures: ServerFigures) -> Figures:
    """Return the figures as `name value,value` of the labels."""
    return {
        " ".join([sample.name, *([",".join(sample.labels.values())] if sample.labels else [])]):
        sample.value
        for family in figures.collector.collect()
        for sample in family.samples
    }  # fmt: skip


def write_run(host: Host, name: str, lines: list[dict[str, Any]], **progress: Any) -> Path:
    folder = host.folder / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    content = {"phase": "train", "round": 2, "rounds": 4, "step": 3, "steps": 9, "message": "m"}
    (folder / PROGRESS).write_text(json.dumps({**content, **progress}))
    (folder / ROUNDS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / SUBMISSION).write_text(json.dumps({"submitted_at": f"2026-01-0{len(name)}"}))
    return folder


def line(phase: str, seconds: float, **sites: str) -> dict[str, Any]:
    sent = {site: 100 for site, outcome in sites.items() if outcome == "ok"}
    return {"phase": phase, "round": 1, "seconds": seconds, "sites": sites, "bytes": sent}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A folder as a running consortium of two admitted sites leaves it; north is connected."""
    made = make_host(tmp_path)
    for name, status in (("north", "admitted"), ("south", "admitted"), ("west", "suspended")):
        write_site(made, name, status, f"key-{name}")
    made.link.mkdir()
    own = observe("superlink", os.getpid())
    assert own is not None
    rows = [
        {**own.to_dict(), "starts": 3, "answers": True},
        {**own.to_dict(), "name": "gateway", "starts": 1, "answers": None, "started": 1},
    ]
    made.processes.write_text(json.dumps({"ready": True, "services": rows, "problems": ["x"]}))
    large = 2**64 - 5
    nodes = {"north": large, "south": 12}
    content = {name: {"node_id": number, "public_key": "k"} for name, number in nodes.items()}
    made.nodes.write_text(json.dumps(content))
    with sqlite3.connect(made.database) as link:
        link.execute("CREATE TABLE node (node_id INTEGER, status TEXT, online_until REAL)")
        soon, gone = time.time() + 60, time.time() - 1
        rows_ = [(-5, "online", soon), (12, "online", gone), (13, "offline", soon)]
        link.executemany("INSERT INTO node VALUES (?, ?, ?)", rows_)
    return made


def test_processes_and_sites_are_as_they_are_now(host: Host) -> None:
    found = scrape(ServerFigures(host))
    assert found["mfm_server_process_up superlink"] == 1.0
    assert found["mfm_server_process_up gateway"] == 0.0, "that process has ended"
    assert found["mfm_server_process_restarts_total superlink"] == 2.0
    assert found["mfm_server_process_answers superlink"] == 1.0
    assert "mfm_server_process_answers gateway" not in found
    assert found["mfm_server_sites admitted"] == 2.0 and found["mfm_server_sites suspended"] == 1.0
    assert found["mfm_server_site_online north"] == 1.0, "a node id above 2^63"
    assert found["mfm_server_site_online south"] == 0.0, "its last sign of life is over"
    assert "mfm_server_site_online west" not in found and found["mfm_server_sites_online"] == 1.0
    assert found["mfm_server_disk_free_bytes"] > 0 and found["mfm_server_problems"] == 1.0
    assert 0 < found["mfm_server_certificate_left_seconds server"] / 86_400 < 400
    assert not any(value for name, value in found.items() if "unreadable" in name)


def test_the_current_run_is_the_one_under_way(host: Host) -> None:
    old = write_run(host, "older", [line("train", 9.0, north="ok")], phase="done", step=9)
    (old / RESULTS).write_text(json.dumps({"status": "degraded"}))
    lines = [line("train", 5.0, north="ok"), line("heads", 2.0, north="ok", south="refused:limit")]
    path = write_run(host, "new", lines) / PROGRESS
    os.utime(path, (time.time() - 500, time.time() - 500))
    found = scrape(ServerFigures(host))
    assert found["mfm_server_runs running"] == found["mfm_server_runs degraded"] == 1.0
    assert found["mfm_server_run_active"] == 1.0 and found["mfm_server_run_phase train"] == 1.0
    assert found["mfm_server_run_step"] == 3.0 and found["mfm_server_run_steps"] == 9.0
    assert 499 < found["mfm_server_run_idle_seconds"] < 520
    assert found["mfm_server_last_exchange_seconds"] == 2.0
    assert found["mfm_server_last_round_seconds"] == 5.0
    assert found["mfm_server_answers_total north,ok"] == 3.0
    assert found["mfm_server_answers_total south,refused"] == 1.0
    assert found["mfm_server_received_bytes_total north"] == 300.0


def test_names_that_are_no_site_are_counted_together(host: Host) -> None:
    sites = {f"node-{number}": "no-reply" for number in range(50)}
    write_run(host, "new", [line("train", 1.0, **sites)])
    found = scrape(ServerFigures(host))
    assert found[f"mfm_server_answers_total {OTHER},no-reply"] == 50.0
    assert sum("answers_total" in name for name in found) == 1
    assert outcome_of("rejected:nan") == "rejected" and outcome_of("anything") == "error"


def test_a_resumed_run_takes_no_count_back_and_a_changed_one_is_read_again(host: Host) -> None:
    """A counter that falls is a restart to Prometheus, and counts everything twice."""
    figures, lines = ServerFigures(host), [line("train", 1.0, north="ok")] * 3
    name = "mfm_server_answers_total north,ok"
    write_run(host, "new", lines)
    assert scrape(figures)[name] == 3.0
    write_run(host, "new", lines[:2], step=2)
    assert scrape(figures)[name] == 3.0
    write_run(host, "new", lines * 2, step=5)
    assert scrape(figures)[name] == 6.0


def test_a_damaged_ledger_hides_the_runs_only(host: Host) -> None:
    write_run(host, "new", [{"phase": "train"}])
    found = scrape(ServerFigures(host))
    assert found["mfm_server_unreadable runs"] == 1.0
    assert found["mfm_server_unreadable sites"] == 0.0 and "mfm_server_sites_online" in found


def test_a_folder_that_never_ran_gives_what_there_is(tmp_path: Path) -> None:
    found = scrape(ServerFigures(make_host(tmp_path)))
    assert found["mfm_server_unreadable processes"] == 1.0
    assert found["mfm_server_sites admitted"] == 0.0 and found["mfm_server_runs running"] == 0.0
