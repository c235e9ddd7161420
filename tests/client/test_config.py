"""A site's file: all problems at once, paths from its own folder, limits that must be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.config import load_site_config, load_site_run
from mfm_core.errors import ConfigError

GOOD = """
name: north
data: {root: images, manifest: images/manifest.csv}
state_folder: state
limits: {accepted_runs: [any]}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "site.yaml"
    path.write_text(text)
    return path


def test_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    config = load_site_config(write(tmp_path, GOOD))
    assert config.data.root == tmp_path / "images"
    assert config.data.manifest == tmp_path / "images" / "manifest.csv"
    assert config.state_folder == tmp_path / "state"
    assert config.limits.min_cell_count == 10


def test_all_problems_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("north", "a/b").replace("[any]", "[short]") + "colour: blue\n"
    with pytest.raises(ConfigError) as caught:
        load_site_config(write(tmp_path, text))
    assert {line.split(":")[0] for line in caught.value.problems} == {
        "name", "limits.accepted_runs", "colour"
    }  # fmt: skip


def test_runs_are_accepted_only_in_writing(tmp_path: Path) -> None:
    for limits in ("{}", "{accepted_runs: []}"):
        text = GOOD.replace("{accepted_runs: [any]}", limits)
        with pytest.raises(ConfigError, match="accepted_runs"):
            load_site_config(write(tmp_path, text))


def test_a_missing_run_says_where_to_name_it(tmp_path: Path) -> None:
    config = load_site_config(write(tmp_path, GOOD + "run: nowhere.yaml\n"))
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_site_run(config)
