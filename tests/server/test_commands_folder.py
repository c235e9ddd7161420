"""`init`, `check`, `pictures` and `rotate`, called as on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mfm_core.config import ImageConfig
from mfm_core.public_basis import smooth_pictures
from mfm_core.public_pictures import read_public
from server import __main__ as commands
from server import doctor
from server.certificates import issue_server_certificate, read_certificate
from server.folder import locked, open_folder
from server.hosting import load_hosted_run, load_hosting
from server.membership import admit
from tests.server.consortium import contents, fill_the_disk, make_consortium, write_request


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["mfm-server", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    return int(ended.value.code or 0)


def test_init_makes_a_folder_that_check_finds_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "check_ports", lambda hosting, folder: ())
    place = tmp_path / "c"
    words = ("--name", "North Sea", "--address", "fl.example.org:8443", "--host", "10.0.0.7")
    assert call(monkeypatch, "init", place, *words) == 0
    assert "mfm-server site add" in capsys.readouterr().out
    folder = open_folder(place)
    hosting = load_hosting(folder)
    assert hosting.name == "North Sea" and load_hosted_run(hosting).name == "chest-findings"
    names = read_certificate(folder.authority / "server.crt").names
    assert {"fl.example.org", "10.0.0.7", "localhost"} <= set(names)
    assert call(monkeypatch, "check", place, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["level"] == "warn"
    parts = {row["part"] for row in found["findings"] if row["level"] != "ok"}
    assert parts == {"sites"}


def test_init_takes_an_agreed_run_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agreed = tmp_path / "agreed.yaml"
    agreed.write_text("# our words\nname: ours\nontology: {classes: [a, b]}\n")
    words = ("--name", "c", "--address", "h:1", "--run", agreed)
    assert call(monkeypatch, "init", tmp_path / "c", *words) == 0
    assert (tmp_path / "c" / "run.yaml").read_text() == agreed.read_text()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"--address": "https://x"}, "--address"),
        ({"--address": "fl.example.org"}, "no port"),
        ({"--name": "../up"}, "--name"),
        ({"--host": "a b"}, "no host name"),
        ({"--run": "missing.yaml"}, "cannot be read"),
    ],
)
def test_a_wrong_word_makes_no_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, str],
    expected: str,
) -> None:
    words = {"--name": "c", "--address": "h:1"} | changed
    flat = [word for pair in words.items() for word in pair]
    assert call(monkeypatch, "init", tmp_path / "c", *flat) == 1
    told = capsys.readouterr().err
    assert expected in told and "--listen" not in told and list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_the_disk(monkeypatch, 2)
    assert call(monkeypatch, "init", tmp_path / "c", "--name", "c", "--address", "h:1") == 3
    assert "free some space" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_check_ends_with_1_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "check_ports", lambda hosting, folder: ())
    folder = make_consortium(tmp_path / "c")
    folder.secret.chmod(0o640)
    assert call(monkeypatch, "check", folder.root) == 1
    out = capsys.readouterr().out
    assert "fail secrets" in out and f"-> `chmod 600 {folder.secret}`" in out
    (folder.authority / "ca.key").unlink()
    assert call(monkeypatch, "check", folder.root) == 1
    assert "ca.key is missing" in capsys.readouterr().out


def test_check_of_another_folder_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "check", tmp_path) == 1
    assert "mfm-server init" in capsys.readouterr().err


def test_rotate_renews_the_server_and_touches_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_consortium(tmp_path / "c")
    issue_server_certificate(folder.authority, ["fl.example.org", "kept.example.org"])
    admit(folder, write_request(tmp_path, "north"))
    before, old = contents(folder.root), read_certificate(folder.authority / "server.crt")
    assert call(monkeypatch, "rotate", folder.root, "--host", "10.0.0.7") == 0
    new, after = read_certificate(folder.authority / "server.crt"), contents(folder.root)
    assert {n for n in before if after[n] != before[n]} == {
        "authority/server.crt",
        "authority/server.key",
    }
    assert new.fingerprint != old.fingerprint
    assert {"fl.example.org", "kept.example.org", "10.0.0.7"} <= set(new.names)


def test_rotate_mends_a_damaged_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_consortium(tmp_path / "c")
    (folder.authority / "server.crt").write_text("nothing")
    assert call(monkeypatch, "rotate", folder.root) == 0
    assert "cannot be read, its names are not kept" in capsys.readouterr().out
    assert "fl.example.org" in read_certificate(folder.authority / "server.crt").names


def test_rotate_waits_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_consortium(tmp_path / "c")
    monkeypatch.setattr("server.folder.LOCK_WAIT_S", 0.0)
    before = contents(folder.root)
    with locked(folder):
        assert call(monkeypatch, "rotate", folder.root) == 1
    assert "another mfm-server command" in capsys.readouterr().err
    assert contents(folder.root) == before


def test_pictures_makes_the_file_and_says_the_line_for_run_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_consortium(tmp_path / "c")
    for index, film in enumerate(smooth_pictures((1, 48), 64, 0)):
        path = tmp_path / "films" / str(index % 2) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * film[0]).astype(np.uint8)).save(path)
    assert call(monkeypatch, "pictures", folder.root, tmp_path / "films") == 0
    named = capsys.readouterr().out.strip().rpartition(" ")[2]
    found = read_public(folder.root, named, ImageConfig(size_px=32))
    assert found is not None and found.shape == (64, 1, 32, 32)
    (tmp_path / "films" / "0" / "words.txt").write_text("no film")
    assert call(monkeypatch, "pictures", folder.root, tmp_path / "films") != 0
    assert "words.txt" in capsys.readouterr().err
    assert call(monkeypatch, "pictures", folder.root, tmp_path / "nowhere") == 1
    assert "nowhere" in (told := capsys.readouterr().err) and "holds no file" in told
    read_public(folder.root, named, ImageConfig(size_px=32))
