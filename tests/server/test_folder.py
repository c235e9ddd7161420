"""The coordinator's folder: whole or absent, its secrets private, one change at a time."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mfm_core.errors import ConfigError
from server.certificates import read_certificate
from server.folder import locked, open_folder
from tests.server.consortium import contents, fill_the_disk, make_consortium

HOLD = """
import sys, time
from pathlib import Path
from server.folder import Folder, locked
with locked(Folder(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_new_folder_is_whole_and_only_its_owner_enters(tmp_path: Path) -> None:
    folder = make_consortium(tmp_path / "new" / "consortium")
    assert open_folder(folder.root) == folder
    assert stat.S_IMODE(folder.root.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.private} == {0o600}
    assert len(folder.secret.read_bytes()) == 32
    assert "fl.example.org" in read_certificate(folder.authority / "server.crt").names


def test_two_folders_share_no_secret(tmp_path: Path) -> None:
    one, two = make_consortium(tmp_path / "one"), make_consortium(tmp_path / "two")
    assert not {p.read_bytes() for p in one.private} & {p.read_bytes() for p in two.private}


def test_a_folder_that_holds_anything_is_never_written_to(tmp_path: Path) -> None:
    folder = make_consortium(tmp_path / "consortium")
    before = contents(folder.root)
    with pytest.raises(ConfigError, match="already there"):
        make_consortium(folder.root)
    assert contents(folder.root) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="already there"):
        make_consortium(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert open_folder(make_consortium(tmp_path / "empty").root)


def test_a_disk_that_is_full_at_any_moment_leaves_nothing_behind(tmp_path: Path) -> None:
    failed = 0
    for after in range(20):
        with pytest.MonkeyPatch.context() as patch:
            fill_the_disk(patch, after)
            try:
                make_consortium(tmp_path / "consortium")
            except OSError as error:
                failed += 1
                assert "consortium" in str(error.filename)
                assert list(tmp_path.iterdir()) == []
                continue
        break
    assert failed >= 5
    assert open_folder(tmp_path / "consortium")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("the kernel lets this user mount no small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_really_full_leaves_nothing_behind(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        make_consortium(small_disk / "consortium")
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["consortium.yaml", "authority/ca.key", "authority/server.crt", "superexec.secret"]
)
def test_a_half_written_folder_is_refused_with_what_is_missing(tmp_path: Path, name: str) -> None:
    folder = make_consortium(tmp_path / "consortium")
    (folder.root / name).unlink()
    with pytest.raises(ConfigError, match=f"{name} is missing; restore") as caught:
        open_folder(folder.root)
    assert len(caught.value.problems) == 1


def test_a_folder_of_something_else_is_told_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mfm-server init"):
        open_folder(tmp_path)


def test_two_changes_never_meet_and_a_killed_one_frees_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.folder.LOCK_WAIT_S", 0.2)
    folder = make_consortium(tmp_path / "consortium")
    command = [sys.executable, "-c", HOLD, str(folder.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        began = time.monotonic()
        with pytest.raises(ConfigError, match=f"process {other.pid}"), locked(folder):
            pytest.fail("two hold one folder")
        assert time.monotonic() - began < 5
        other.send_signal(signal.SIGKILL)
        other.wait()
        with locked(folder):
            pass


def test_a_change_frees_the_folder_for_the_next(tmp_path: Path) -> None:
    folder = make_consortium(tmp_path / "consortium")
    with locked(folder):
        pass
    with locked(folder):
        pass
