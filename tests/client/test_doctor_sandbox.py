"""The doctor tries the sandbox in a child; what does not hold is named with what to do."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from client import doctor_sandbox
from client.doctor_sandbox import ADVICE, check_sandbox, try_sandbox
from client.sandbox import PARTS
from tests.client.hospital_folder import settings


def test_what_holds_in_a_child_is_said_and_this_process_stays_free(tmp_path: Path) -> None:
    config = settings(max_memory_gib=1.0)
    data = config.data.model_copy(update={"root": tmp_path})
    config = config.model_copy(update={"data": data})
    found = try_sandbox(config)
    assert tuple(found) == PARTS and found["memory limit"] and found["no new privileges"]
    (tmp_path / "still writable").write_text("x")
    lines = list(check_sandbox(config))
    missing = [name for name in PARTS if not found[name]]
    assert [line.level for line in lines] == ["ok"] + ["warn"] * len(missing)


def test_every_missing_part_has_its_line_and_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that cannot start confines nothing."""

    def refuse(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("child", 1.0)

    monkeypatch.setattr(doctor_sandbox.subprocess, "run", refuse)
    first, *warnings = check_sandbox(settings())
    assert "nothing" in first.text and len(warnings) == len(PARTS)
    assert [line.advice for line in warnings] == [ADVICE[name] for name in PARTS]


def test_without_a_limit_memory_is_not_limited(tmp_path: Path) -> None:
    data = settings().data.model_copy(update={"root": tmp_path})
    found = try_sandbox(settings().model_copy(update={"data": data}))
    assert not found["memory limit"]
