"""What a person reads of the privacy ledger: per run, in all, what is left, and whether whole."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from client.__main__ import call
from client.config import load_site_config
from client.site import privacy_ledger_of
from mfm_core.config import dump_yaml
from tests.client.test_privacy_ledger import ROUND
from tests.server.hospitals import site_config


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "sites" / "north.yaml"
    path.parent.mkdir()
    dump_yaml(site_config("north"), path)
    return path


def shown(site: Path, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, object]:
    assert call(["privacy", str(site), "--json"]) == code
    return dict(json.loads(capsys.readouterr().out))


def test_spending_is_shown_per_run_and_adds_up(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(site, capsys)["left"] == 8.0
    ledger = privacy_ledger_of(load_site_config(site))
    small = replace(ROUND, steps=4)
    for spend in (small, small, replace(small, run="b" * 64, noise="simulated")):
        ledger.spend(spend)
    found = shown(site, capsys)
    runs = found["runs"]
    assert isinstance(runs, list) and found["whole"] is True
    assert [(row["rounds"], row["payments"], row["noise"]) for row in runs] == [
        (1, 2, "secret"), (1, 1, "simulated"),
    ]  # fmt: skip
    assert runs[0]["epsilon"] < float(str(found["epsilon"])) < 8.0
    assert call(["privacy", str(site)]) == 0
    text = capsys.readouterr().out
    assert "not private" in text and "left" in text and "the ledger is whole" in text


def test_a_copy_is_refused_until_it_is_taken_over(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = privacy_ledger_of(load_site_config(site))
    ledger.spend(replace(ROUND, steps=4))
    shutil.copy(ledger.path, ledger.path.with_suffix(".kept"))
    ledger.path.with_suffix(".kept").replace(ledger.path)
    assert shown(site, capsys, code=1)["whole"] is False
    assert call(["privacy", str(site), "--adopt"]) == 0
    assert "the ledger is whole" in capsys.readouterr().out
