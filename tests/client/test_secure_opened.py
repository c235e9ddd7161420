"""An exchange is opened for one group of sites, over sessions, resumes and damaged files."""

from __future__ import annotations

import pytest

from client.secure_opened import FILE, check_open_for, note_open
from client.site import LEDGER
from mfm_core.errors import UpdateRejected
from strategies import chain
from strategies.plan import Step

FOUR, THREE = ("a", "b", "c", "d"), ("a", "b", "c")
RUN = "f" * 64
FIRST = (RUN, Step("train", 1))


def refused(call, *arguments):
    with pytest.raises(UpdateRejected) as caught:
        call(*arguments)
    assert caught.value.reason == "opened"
    return str(caught.value)


def test_the_same_group_may_be_opened_again_and_no_other(tmp_path):
    check_open_for(tmp_path, FIRST, THREE)
    note_open(tmp_path, FIRST, FOUR)
    note_open(tmp_path, FIRST, FOUR[::-1])
    check_open_for(tmp_path, FIRST, FOUR)
    for group in (THREE, (*FOUR, "e"), ("a", "b", "c", "e")):
        assert "opened for a, b, c, d" in refused(note_open, tmp_path, FIRST, group)
    assert "same sites" in refused(check_open_for, tmp_path, FIRST, THREE)
    assert len(chain.read(tmp_path / FILE)) == 2


def test_other_exchanges_and_runs_are_their_own(tmp_path):
    note_open(tmp_path, FIRST, FOUR)
    for other in ((RUN, Step("train", 2)), (RUN, Step("evaluate")), ("e" * 64, FIRST[1])):
        check_open_for(tmp_path, other, THREE)
        note_open(tmp_path, other, THREE)


@pytest.mark.parametrize("damage", ["edit", "cut", "head", "not json", "delete", "field"])
def test_a_file_that_cannot_be_relied_on_opens_nothing(tmp_path, damage):
    for _ in range(2):
        note_open(tmp_path, FIRST, FOUR)
        chain.append(tmp_path / LEDGER, {"kind": "secure_unmask"})
    path = tmp_path / FILE
    lines = path.read_text().splitlines(keepends=True)
    if damage == "edit":
        path.write_text("".join(lines).replace('"d"', '"e"'))
    elif damage == "cut":
        path.write_text(lines[0])
    elif damage == "head":
        path.with_suffix(".head").unlink()
    elif damage == "not json":
        path.write_text("{\n")
    elif damage == "field":
        path.unlink()
        path.with_suffix(".head").unlink()
        for _ in range(2):
            chain.append(path, {"run": RUN})
    else:
        path.unlink()
        path.with_suffix(".head").unlink()
    refused(note_open, tmp_path, FIRST, FOUR)
    refused(check_open_for, tmp_path, FIRST, FOUR)


def test_a_full_disk_gives_no_shares(tmp_path, monkeypatch):
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("strategies.chain._write_synced", full)
    refused(note_open, tmp_path, FIRST, FOUR)
