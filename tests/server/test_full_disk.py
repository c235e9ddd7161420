"""A run whose disk is full ends in words and goes on once there is space."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from mfm_core.whole_file import write_whole
from server.app import final_hash, run_federation
from server.journal import RunFolder
from tests.server.hospitals import consortium, lay_out, make_grid


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("disk"))


@pytest.fixture(scope="module")
def unbroken(folder: Path) -> dict[str, Any]:
    state = run_federation(make_grid(folder), consortium(folder, "unbroken"), resume=False)
    return {"final_hash": final_hash(state)}


@pytest.mark.parametrize("what", ["write", "keep"])
def test_a_full_disk_ends_the_run_in_words_and_it_goes_on_when_there_is_space(
    folder: Path, unbroken: dict[str, Any], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    calls, settings, real = [0], consortium(folder, f"full-{what}"), getattr(RunFolder, what)

    def refuse_when_full(path: Path) -> None:
        if calls[0] >= 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def act(self: RunFolder, content: Any) -> Any:
        calls[0] += 1
        refuse_when_full(self.folder)
        return real(self, content)

    def whole(path: Path, content: bytes, mode: int = 0o666) -> Path:
        refuse_when_full(path)
        return write_whole(path, content, mode)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, what, act)
        patch.setattr("server.journal.write_whole", whole)
        with pytest.raises(OSError, match="No space left"):
            run_federation(make_grid(folder), settings, resume=False)
    said = json.loads((settings.output / "progress.json").read_text())
    assert said["phase"] == "failed" and "free some space, then resume" in said["message"]
    assert (
        final_hash(run_federation(make_grid(folder), settings, resume=True))
        == unbroken["final_hash"]
    )
