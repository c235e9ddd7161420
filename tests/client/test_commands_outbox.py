"""Approving and rejecting through the real commands while another thread waits."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from client.__main__ import call
from client.held import wait_for_person
from mfm_core.config import dump_yaml
from mfm_core.errors import OutboxRefusal
from tests.client.test_held import FACTS, first_held
from tests.server.hospitals import site_config


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    (tmp_path / "sites").mkdir()
    path = tmp_path / "sites" / "site.yaml"
    dump_yaml(site_config("north", manual=True), path)
    return path


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_a_person_decides(
    settings: Path, tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state, outcome = tmp_path / "state" / "north", []
    facts = {**FACTS, "images": 9, "bytes": 1234, "arrays": [
        {"name": "model", "shape": [6], "norm": 2.0}]}  # fmt: skip

    def wait() -> None:
        try:
            outcome.append(wait_for_person(state, facts, {"model": np.ones(6)}, 30.0))
        except OutboxRefusal as error:
            outcome.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    name = first_held(state).name
    assert call(["outbox", "list", "--config", str(settings)]) == 0
    assert "model" in capsys.readouterr().out
    assert call(["outbox", "list", "--json", "--config", str(settings)]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == name
    assert call(["outbox", verb, name, "--config", str(settings)]) == 0
    thread.join(20)
    assert isinstance(outcome[0], OutboxRefusal) == (verb == "reject")
    assert call(["outbox", verb, name, "--config", str(settings)]) == 1


def test_nothing_waits(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["outbox", "list", "--config", str(settings)]) == 0
    assert "Nothing waits" in capsys.readouterr().out
