"""`mfm-server site ...`, called as on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.folder import Folder
from strategies.onboarding import fingerprint
from tests.server.consortium import contents, make_consortium, new_key, write_request
from tests.server.test_commands_folder import call


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return make_consortium(tmp_path / "c")


def test_a_site_is_added_listed_suspended_admitted_and_removed(
    folder: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key = new_key()
    request = write_request(tmp_path, "north", key, contact="[red]Ann[/red]")
    assert call(monkeypatch, "site", "add", folder.root, request) == 0
    out = capsys.readouterr().out
    assert fingerprint(key) in out and "telephone" in out
    assert f"{folder.kits / 'north.zip'}:" in out

    def listed() -> dict[str, str]:
        assert call(monkeypatch, "site", "list", folder.root, "--json") == 0
        (row,) = json.loads(capsys.readouterr().out)["sites"]
        return dict(row)

    assert listed()["status"] == "admitted" and listed()["fingerprint"] == fingerprint(key)
    assert call(monkeypatch, "site", "suspend", folder.root, "north") == 0
    capsys.readouterr()
    assert listed()["status"] == "suspended"
    assert call(monkeypatch, "site", "list", folder.root) == 0
    assert "[red]Ann[/red]" in capsys.readouterr().out.replace("\n", "")
    assert call(monkeypatch, "site", "admit", folder.root, "north") == 0
    capsys.readouterr()
    assert listed()["status"] == "admitted"
    assert call(monkeypatch, "site", "remove", folder.root, "north") == 0
    capsys.readouterr()
    assert call(monkeypatch, "site", "list", folder.root) == 0
    assert "no sites yet" in capsys.readouterr().out


def test_added_again_says_so_for_programs(
    folder: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    request = write_request(tmp_path, "north")
    for known in (False, True):
        assert call(monkeypatch, "site", "add", folder.root, request, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["known"] is known and found["status"] == "admitted"
        assert Path(found["kit"]).is_dir()


def test_a_lie_ends_with_1_and_changes_nothing(
    folder: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key = new_key()
    assert call(monkeypatch, "site", "add", folder.root, write_request(tmp_path, "a", key)) == 0
    before = contents(folder.root)
    assert call(monkeypatch, "site", "add", folder.root, write_request(tmp_path, "b", key)) == 1
    assert "belongs to a already" in capsys.readouterr().err
    assert call(monkeypatch, "site", "add", folder.root, folder.authority / "ca.key") == 1
    assert "PRIVATE key" in capsys.readouterr().err
    assert call(monkeypatch, "site", "suspend", folder.root, "nobody") == 1
    assert "its sites: a" in capsys.readouterr().err
    assert contents(folder.root) == before


def test_a_damaged_file_is_shown_and_ends_with_1(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder.sites / "north.json").write_text("{")
    assert call(monkeypatch, "site", "list", folder.root) == 1
    assert "damaged: north.json" in capsys.readouterr().out


def test_kits_of_all_or_of_some_are_renewed(
    folder: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("north", "south"):
        assert call(monkeypatch, "site", "add", folder.root, write_request(tmp_path, name)) == 0
    capsys.readouterr()
    before = contents(folder.kits, without="south")
    assert call(monkeypatch, "site", "kit", folder.root, "south") == 0
    assert capsys.readouterr().out.split() == [str(folder.kits / "south.zip")]
    assert contents(folder.kits, without="south") == before
    assert call(monkeypatch, "site", "kit", folder.root) == 0
    assert len(capsys.readouterr().out.split()) == 2
    assert call(monkeypatch, "site", "kit", folder.root, "nobody") == 1
