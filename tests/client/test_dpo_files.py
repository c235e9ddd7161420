"""The list of files is the site's: nothing of a state folder is left out, no name is quoted."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.config import load_site_config
from client.dpo_files import KEPT, files_of, unlisted
from server.app import run_federation
from strategies.config import RunConfig
from tests.server.hospitals import RUN, consortium, lay_out, make_grid

MASKED = RunConfig.model_validate(
    {
        **{**RUN.model_dump(), "rounds": 1, "mitigation": {}, "audit": {"enabled": False}},
        "secure_sum": {"enabled": True},
    }
)


@pytest.mark.parametrize("run", [RUN, MASKED], ids=["plain", "secure sum"])
def test_after_a_run_every_file_of_the_state_folder_stands_in_a_row(
    run: RunConfig, tmp_path: Path
) -> None:
    folder = lay_out(tmp_path, ("north", "south", "west"), run)
    settings = consortium(folder, "out", simulated_sites=3)
    run_federation(make_grid(folder, 3), settings, resume=False)
    config = load_site_config(folder / "sites" / "0.yaml")
    assert unlisted(config) == 0
    rows = {row["path"]: row for row in files_of(config, folder / "sites")}
    assert len(rows) == len(KEPT)
    there = {path for path, row in rows.items() if row["present"]}
    state = "../state/north"
    assert {f"{state}/{name}" for name in ("outbox.jsonl", "secret.key", "cache")} <= there
    assert f"{state}/cohort-*.json" in there and "keys/node" not in there
    assert rows[f"{state}/secret.key"]["readers"] == "owner"
    assert rows[f"{state}/secret.key"]["bytes"] == 32
    assert all(row["after"] and row["stays"] and row["holds"] for row in rows.values())
    for path in there:
        assert list((folder / "sites").glob(path)) if "*" in path else True


def test_a_file_that_nobody_planned_is_counted_and_not_named(tmp_path: Path) -> None:
    config = load_site_config(lay_out(tmp_path) / "sites" / "0.yaml")
    assert unlisted(config) == 0
    config.state_folder.mkdir(parents=True)
    (config.state_folder / "Anna-Müller.txt").write_text("x")
    assert unlisted(config) == 1
    assert "Anna" not in str(files_of(config, tmp_path))
