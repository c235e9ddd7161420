"""Every file is in one of two lists, whatever lies in the folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from client.source_files import list_files, name_reason
from mfm_core.errors import DataError


def test_files_links_and_pipes_are_told_apart(tmp_path: Path) -> None:
    deep = tmp_path / "b" / "c"
    deep.mkdir(parents=True)
    for name in ("z.dcm", ".hidden", "b/y", "b/c/x"):
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "link").symlink_to("z.dcm")
    (tmp_path / "folder-link").symlink_to("b")
    (tmp_path / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    found = list_files(tmp_path)
    assert found.names == (".hidden", "b/c/x", "b/y", "z.dcm")
    assert found.passed == (
        *(("broken", "link"), ("folder-link", "link"), ("link", "link"), ("pipe", "no_file")),
    )


def test_a_link_in_a_circle_ends(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to(tmp_path)
    assert list_files(tmp_path).passed == (("round", "link"),)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every folder")
def test_a_closed_folder_is_listed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0)
    try:
        assert list_files(tmp_path).passed == (("closed", "closed_folder"),)
    finally:
        closed.chmod(0o700)


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        list_files(tmp_path / "nowhere")


@pytest.mark.parametrize("name", [" a", "a ", "a\nb", "a\rb", "a\tb", "\udcff", "a\u2028b", "\x85"])
def test_names_a_manifest_cannot_hold(name: str) -> None:
    assert name_reason(name) == "bad_name"


@pytest.mark.parametrize("name", ["a.dcm", 'a,"b".dcm', "Müller/1;2", "a b", "-x", "=1+1"])
def test_names_a_manifest_can_hold(name: str) -> None:
    assert name_reason(name) == ""
