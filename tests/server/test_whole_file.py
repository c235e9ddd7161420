"""A file is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.whole_file import write_whole
from tests.server.consortium import fill_the_disk


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
