"""A release is whole or not there, of one piece, and says everything it knows."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mfm_core.atlas import load_atlas
from mfm_core.checkpoint import load_model
from mfm_core.config import canonical_hash, load_yaml
from mfm_core.errors import ConfigError
from mfm_core.head_files import load_heads
from server.card_config import CardConfig
from server.finished_run import FinishedRun, read_finished
from server.judging import holding
from server.release import release_run
from server.release_check import check_release
from strategies.config import RunConfig
from tests.server.finished import finished_run, release_of
from tests.server.hospitals import RUN
from tests.server.test_leak_audit import ATTACK


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("released"))


@pytest.fixture(scope="module")
def finished(run_folder: Path) -> FinishedRun:
    return read_finished(run_folder)


def asking(finished: FinishedRun, **gates: Any) -> FinishedRun:
    """Return the run as if these limits had been agreed; it can be judged, not released."""
    run = RunConfig.model_validate({**finished.run.model_dump(), "gates": gates})
    return FinishedRun(**{**vars(finished), "run": run})


def test_everything_in_a_release_belongs_together(run_folder: Path, tmp_path: Path) -> None:
    done = release_of(run_folder, tmp_path)
    assert done.folder is not None and done.release_id is not None
    assert done.folder.name == f"tiny-{done.release_id[:12]}"
    model, metadata = load_model(done.folder / "model.safetensors", canonical_hash(RUN))
    encoder = metadata["encoder_hash"]
    load_atlas(done.folder / "atlas.safetensors", encoder)
    load_heads(done.folder / "heads.safetensors", encoder)
    assert load_yaml(done.folder / "run.yaml", RunConfig) == RUN
    release = json.loads((done.folder / "release.json").read_text())
    card = json.loads((done.folder / "model_card.json").read_text())
    assert release["facts"] == card["release"] and release["gates"] == card["gates"]
    results = json.loads((run_folder / "server.json").read_text())
    assert release["facts"]["final_hash"] == results["final_hash"]
    assert release["facts"]["code_hash"] == results["code_hash"]
    assert model.latent_size and check_release(done.folder).problems == ()


def test_no_site_is_named_unless_the_card_asks_for_it(run_folder: Path, tmp_path: Path) -> None:
    def texts(people: CardConfig, place: Path) -> str:
        folder = release_of(run_folder, place, people).folder
        assert folder is not None and check_release(folder).problems == ()
        return "".join(path.read_bytes().decode(errors="replace") for path in folder.iterdir())

    hidden = texts(CardConfig(), tmp_path / "hidden")
    assert "north" not in hidden and "south" not in hidden and "site 2" in hidden
    named = texts(CardConfig(name_sites=True), tmp_path / "named")
    assert "north" in named and '"sites_named": true' in named


def test_a_gate_that_holds_back_leaves_nothing(finished: FinishedRun, tmp_path: Path) -> None:
    done = release_run(asking(finished, min_ssim=0.99), CardConfig(), tmp_path / "out", {})
    assert done.folder is None and done.release_id is None
    assert [verdict.gate for verdict in holding(done.verdicts)] == ["ssim"]
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_not_agreed_cannot_be_slipped_in(
    finished: FinishedRun, tmp_path: Path
) -> None:
    """The folder is verified before it gets its name: this one does not hold together."""
    with pytest.raises(ConfigError, match=r"run\.yaml: has run hash"):
        release_run(asking(finished, min_ssim=0.1), CardConfig(), tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_a_reason_stands_everywhere(run_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    leaky = {**ATTACK, "auc": 0.9, "auc_interval": [0.85, 0.95]}
    (folder / "leak_audit.json").write_text(json.dumps({"attacks": [leaky]}))
    found = read_finished(folder)
    held = release_run(found, CardConfig(), tmp_path / "out", {})
    assert held.folder is None and [v.gate for v in holding(held.verdicts)] == ["leak_auc"]
    reason = "kept inside <the> consortium"
    done = release_run(found, CardConfig(), tmp_path / "out", {"leak_auc": reason})
    assert done.folder is not None and check_release(done.folder).problems == ()
    rows = json.loads((done.folder / "release.json").read_text())["gates"]
    row = next(row for row in rows if row["gate"] == "leak_auc")
    assert row["state"] == "fail" and row["accepted"] == reason
    for name in ("MODEL_CARD.md", "model_card.html"):
        text = (done.folder / name).read_text()
        assert "kept inside &lt;the&gt; consortium" in text and "fail" in text


def test_a_place_that_is_taken_is_left_alone(finished: FinishedRun, tmp_path: Path) -> None:
    place = tmp_path / "out"
    done = release_run(finished, CardConfig(), place, {}, exact=True)
    assert done.folder == place
    before = (place / "release.json").read_bytes()
    with pytest.raises(ConfigError, match="already there"):
        release_run(finished, CardConfig(), place, {}, exact=True)
    assert (place / "release.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="already there"):
        release_run(finished, CardConfig(), tmp_path / "link", {}, exact=True)


def test_a_full_disk_leaves_nothing(
    finished: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Path.write_text

    def full(self: Path, *args: Any, **settings: Any) -> int:
        if self.name == "model_card.html":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return written(self, *args, **settings)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        release_run(finished, CardConfig(), tmp_path / "out", {})
    assert list((tmp_path / "out").iterdir()) == []


KILLED = """
import os, sys
from pathlib import Path
import server.release as module
from server.card_config import CardConfig
from server.finished_run import read_finished
real = module._write
def dying(path, text):
    if path.name == "release.json":
        os.kill(os.getpid(), 9)
    return real(path, text)
module._write = dying
finished = read_finished(Path(sys.argv[1]))
module.release_run(finished, CardConfig(), Path(sys.argv[2]), {}, exact=True)
"""


def test_a_kill_leaves_no_release(run_folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(run_folder), str(place)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == -9 and not place.exists()
    release = release_run(read_finished(run_folder), CardConfig(), place, {}, exact=True)
    assert release.folder == place and check_release(place).problems == ()
