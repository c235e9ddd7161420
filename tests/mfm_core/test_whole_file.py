"""A file is there whole or not at all."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from mfm_core.whole_file import write_whole
from tests.server.consortium import fill_the_disk


def test_a_file_is_written_into_a_new_folder_and_replaced(tmp_path):
    path = tmp_path / "new" / "file.bin"
    assert write_whole(path, b"first") == path
    write_whole(path, b"second")
    assert path.read_bytes() == b"second"
    assert [each.name for each in path.parent.iterdir()] == ["file.bin"]


def test_a_full_disk_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    script = f"""
from pathlib import Path
from mfm_core.whole_file import write_whole
try:
    write_whole(Path({str(path)!r}), b"x" * 100_000)
except OSError as error:
    print(error.filename)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
    )
    assert done.stdout.strip() == str(path), "the refusal names the file that was wanted"
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file.bin"]


def test_a_failure_of_the_rename_leaves_no_part(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").write_text("here")
    with pytest.raises(OSError, match="taken"):
        write_whole(tmp_path / "taken", b"content")
    assert [each.name for each in Path(tmp_path).iterdir()] == ["taken"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_whole(tmp_path / "new" / "file", b"old")
    fill_the_disk(monkeypatch, 0)
    with pytest.raises(OSError, match="No space") as caught:
        write_whole(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"old")
    assert write_whole(tmp_path / "file", b"new").read_bytes() == b"new"


def test_a_secret_is_readable_by_its_owner_only_from_the_first_byte(tmp_path, monkeypatch):
    path, seen = tmp_path / "secret", []
    real = Path.replace
    monkeypatch.setattr(Path, "replace", lambda s, t: seen.append(s.stat().st_mode) or real(s, t))
    write_whole(path, b"x", mode=0o600)
    assert [mode & 0o777 for mode in seen] == [0o600]
    assert path.stat().st_mode & 0o777 == 0o600
