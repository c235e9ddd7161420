from pathlib import Path

import pytest

from client.folder import Folder, open_folder
from client.keys import create_site
from mfm_core.errors import ConfigError


def test_a_folder_that_nobody_made_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mfm-client init"):
        open_folder(tmp_path / "nowhere", joined=False)


def test_before_joining_everything_that_is_missing_is_told_at_once(tmp_path: Path) -> None:
    create_site(tmp_path, "north")
    assert open_folder(tmp_path, joined=False) == Folder(tmp_path.resolve())
    with pytest.raises(ConfigError) as refused:
        open_folder(tmp_path)
    assert len(refused.value.problems) == 2


def test_paths_are_absolute_whatever_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_site(tmp_path / "a", "north")
    monkeypatch.chdir(tmp_path)
    opened = open_folder(Path("a"), joined=False)
    paths = (opened.key, opened.secret, opened.authority, opened.site_file, opened.dry_run)
    assert all(path.is_absolute() and path.is_relative_to(tmp_path / "a") for path in paths)
