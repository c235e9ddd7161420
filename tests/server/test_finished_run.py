"""What may become a release: a run that ended, whose files belong together."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mfm_core.config import canonical_hash
from mfm_core.errors import ConfigError
from server.finished_run import find_run, read_finished
from tests.server.finished import finished_run
from tests.server.hospitals import RUN
from tests.server.test_leak_audit import ATTACK


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return finished_run(tmp_path)


def change(path: Path, with_it: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    with_it(content)
    path.write_text(json.dumps(content))


def test_a_finished_run_is_read_with_all_its_hashes(folder: Path) -> None:
    found = read_finished(folder)
    results = json.loads((folder / "server.json").read_text())
    assert found.recomputed and found.leak is None
    assert found.hashes["run_hash"] == canonical_hash(RUN)
    assert found.hashes["final_hash"] == results["final_hash"]
    assert found.hashes["bundle_hash"] is None
    assert set(found.files) == {"model.safetensors", "atlas.safetensors", "heads.safetensors"}
    (folder / "submission.json").write_text('{"bundle_hash": "abc"}')
    assert read_finished(folder).hashes["bundle_hash"] == "abc"


def test_figures_that_were_improved_by_hand_are_found(folder: Path) -> None:
    def better(results: dict[str, Any]) -> None:
        results["pooled"]["ssim"]["value"] = 0.99

    change(folder / "server.json", better)
    with pytest.raises(ConfigError, match="differs from the run's state in pooled"):
        read_finished(folder)


@pytest.mark.parametrize("way", ["audit", "privacy"])
def test_results_with_a_part_less_or_a_part_more_are_found(folder: Path, way: str) -> None:
    """An epsilon that no exchange reported cannot be written in by hand."""

    def altered(results: dict[str, Any]) -> None:
        if way in results:
            del results[way]
        else:
            results[way] = {"per_site": {"north": {"epsilon": 0.1}}}

    change(folder / "server.json", altered)
    with pytest.raises(ConfigError, match=f"lacks, or holds besides, {way}"):
        read_finished(folder)


def test_a_ledger_that_was_tidied_up_is_found(folder: Path) -> None:
    path = folder / "rounds.jsonl"
    path.write_text(path.read_text().replace('"ok"', '"no-reply"', 1))
    with pytest.raises(ConfigError, match=r"rounds\.jsonl was changed after the run"):
        read_finished(folder)


def test_without_its_state_a_run_is_read_and_said_not_to_be_recomputed(folder: Path) -> None:
    shutil.rmtree(folder / "state")
    assert not read_finished(folder).recomputed


def test_every_part_that_does_not_belong_is_named_at_once(folder: Path) -> None:
    path = folder / "run.yaml"
    path.write_text(path.read_text().replace("seed: 5", "seed: 6"))
    shutil.copy(folder / "final.safetensors", folder / "heads.safetensors")
    with pytest.raises(ConfigError) as refused:
        read_finished(folder)
    told = str(refused.value)
    assert "run.yaml is not the run that server.json tells of" in told
    assert "final.safetensors: config_hash is" in told


@pytest.mark.parametrize("name", ["final", "atlas", "heads"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / f"{name}.safetensors").unlink()
    with pytest.raises(ConfigError, match=rf"{name}\.safetensors: no such file"):
        read_finished(folder)


@pytest.mark.parametrize("name", ["run.yaml", "server.json", "rounds.jsonl"])
@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_damaged_file_is_named(folder: Path, name: str, text: str | None) -> None:
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        read_finished(folder)


@pytest.mark.parametrize(
    ("phase", "said"), [("failed", "the run failed"), ("train", "is under way"), (None, "progress")]
)
def test_a_run_that_has_not_ended_is_refused(folder: Path, phase: str | None, said: str) -> None:
    if phase is None:
        (folder / "progress.json").unlink()
    else:
        change(folder / "progress.json", lambda progress: progress.update(phase=phase))
    with pytest.raises(ConfigError, match=said):
        read_finished(folder)


def test_a_leak_audit_of_another_model_is_refused(folder: Path) -> None:
    content = {"attacks": [ATTACK]}
    (folder / "leak_audit.json").write_text(json.dumps(content))
    assert read_finished(folder).leak is not None
    (folder / "leak_audit.json").write_text(json.dumps({**content, "final_hash": "0" * 64}))
    with pytest.raises(ConfigError, match="another final_hash"):
        read_finished(folder)
    (folder / "leak_audit.json").write_text(json.dumps({**content, "weights_hash": "0" * 64}))
    with pytest.raises(ConfigError, match="another weights_hash"):
        read_finished(folder)


def test_the_newest_run_of_a_consortium_is_taken_or_the_named_one(tmp_path: Path) -> None:
    assert find_run(tmp_path, None) == tmp_path
    with pytest.raises(ConfigError, match="leave --name out"):
        find_run(tmp_path, "first")
    (tmp_path / "authority").mkdir()
    (tmp_path / "consortium.yaml").touch()
    with pytest.raises(ConfigError, match="runs here: none"):
        find_run(tmp_path, None)
    for age, name in ((200, "first"), (100, "second")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        path = tmp_path / "runs" / name / "run.yaml"
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    assert find_run(tmp_path, None).name == "second"
    assert find_run(tmp_path, "first").name == "first"
    with pytest.raises(ConfigError, match="first, second"):
        find_run(tmp_path, "../runs/first")
