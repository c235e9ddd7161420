"""Deadline and grace follow measured rounds of comparable runs, and only those."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mfm_core.config import dump_yaml
from server.waiting import DEADLINE_TIMES, LEAST_DEADLINE_S, LEAST_GRACE_S, derive_waits
from strategies.config import RunConfig
from tests.server.hospitals import RUN


def line(seconds: float, outcome: str = "ok", **more: Any) -> dict[str, Any]:
    return {"seconds": seconds, "sites": {"north": "ok", "south": outcome}, **more}


def earlier(runs: Path, name: str, run: RunConfig, *lines: dict[str, Any]) -> None:
    (runs / name).mkdir(parents=True)
    dump_yaml(run, runs / name / "run.yaml")
    text = "".join(json.dumps(row) + "\n" for row in lines)
    (runs / name / "rounds.jsonl").write_text(text)


def test_nothing_measured_gives_nothing(tmp_path: Path) -> None:
    assert derive_waits(tmp_path / "runs", RUN) is None


def test_the_slowest_full_exchange_counts(tmp_path: Path) -> None:
    earlier(tmp_path, "a", RUN, line(200.0), line(150.0), line(900.0, "no-reply"))
    earlier(tmp_path, "b", RUN, line(800.0, attempts=2), line(10.0))
    found = derive_waits(tmp_path, RUN)
    assert found is not None and found.exchanges == 3
    assert (found.deadline_s, found.grace_s) == (200.0 * DEADLINE_TIMES, 200.0)


def test_quick_rounds_do_not_make_impatient(tmp_path: Path) -> None:
    earlier(tmp_path, "a", RUN, line(2.0))
    found = derive_waits(tmp_path, RUN)
    assert found is not None
    assert (found.deadline_s, found.grace_s) == (LEAST_DEADLINE_S, LEAST_GRACE_S)


def test_another_seed_or_length_is_comparable_and_another_model_is_not(tmp_path: Path) -> None:
    earlier(tmp_path, "a", RUN, line(200.0))
    longer = RUN.model_copy(update={"name": "x", "seed": 9, "rounds": 50})
    assert derive_waits(tmp_path, longer) == derive_waits(tmp_path, RUN) is not None
    image = RUN.image.model_copy(update={"size_px": 64})
    assert derive_waits(tmp_path, RUN.model_copy(update={"image": image})) is None


def test_damaged_folders_are_passed_over(tmp_path: Path) -> None:
    earlier(tmp_path, "a", RUN, line(200.0))
    earlier(tmp_path, "b", RUN)
    (tmp_path / "b" / "rounds.jsonl").write_text("{\n")
    earlier(tmp_path, "c", RUN)
    (tmp_path / "c" / "run.yaml").write_text("name: [")
    found = derive_waits(tmp_path, RUN)
    assert found is not None and found.exchanges == 1
