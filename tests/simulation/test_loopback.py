"""A study over real processes: what it takes from the study, and what it refuses at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mfm_core.errors import RunFailed
from simulation import loopback
from simulation.config import load_study
from simulation.consortium import Consortium
from simulation.hospitals import prepare
from simulation.loopback import Choices, hospitals_of, hosting_of, lines_of, run_loopback
from simulation.progress import SilentDisplay
from simulation.study import Order
from tests.simulation.samples import write_study


def found(**changed: Any) -> dict[str, Any]:
    line = {
        "phase": "train", "round": 1, "seconds": 4.2, "images": 60, "bytes": {"north": 2**20},
        "sites": {"north": "ok", "south": "no-reply"},
    }  # fmt: skip
    ledger = {"lines": [{}, {}], "bytes": 2**21, "problems": []}
    content = {"status": "degraded", "gateway": "builtin", "final_hash": "ab", "rounds": [line],
               "ledgers": {"north": ledger}}  # fmt: skip
    return {**content, "simulated_hash": "ab", **changed}


class Scripted(Consortium):
    """Starts nothing."""

    ended: bool = False

    def close(self) -> None:
        Scripted.ended = True


def test_the_hospitals_bring_the_images_limits_and_secrets_of_the_simulation(
    tmp_path: Path,
) -> None:
    study = load_study(write_study(tmp_path), {})
    prepare(study, tmp_path, tmp_path / "run")
    sites = hospitals_of(tmp_path / "run")
    assert list(sites) == ["north", "south"] and sites["north"].limits == {
        "min_cell_count": 1,
        "max_epsilon": 8.0,
    }
    assert sites["north"].secret != sites["south"].secret
    assert sites["south"].data.manifest is not None and sites["south"].data.manifest.is_file()
    assert hosting_of(study, 2, "builtin")["quorum"] == 2


def test_the_closing_text_names_everything() -> None:
    text = "\n".join(lines_of(found()))
    assert "train 1" in text and "60 images" in text and "south no-reply" in text
    assert "2 records, 2.00 MiB" in text and "(builtin): ab" in text and "equal" in text
    assert "equal" not in "\n".join(lines_of(found(simulated_hash=None)))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"simulated_hash": "cd"}, "in simulation cd"),
        (
            {"ledgers": {"north": {"problems": ["line 2: was changed"]}}},
            "north: line 2: was changed",
        ),
    ],
)
def test_another_hash_or_a_broken_ledger_is_a_failure_and_all_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], words: str
) -> None:
    other = {key: value for key, value in found(**changed).items() if key != "simulated_hash"}
    monkeypatch.setattr(loopback, "Consortium", Scripted)
    monkeypatch.setattr(loopback, "_run", lambda *_: other)
    monkeypatch.setattr(loopback, "_simulate", lambda *_: changed.get("simulated_hash", "ab"))
    order = Order(load_study(write_study(tmp_path), {}), tmp_path, tmp_path / "runs")
    Scripted.ended = False
    with pytest.raises(RunFailed, match=words):
        run_loopback(order, Choices(), SilentDisplay(), lambda _: None)
    assert Scripted.ended
