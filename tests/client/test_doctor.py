"""The doctor goes part by part, goes on after a failure, and stays offline when told to."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from client.commands_check import PART_NAMES
from client.doctor import LOCAL, PARTS, REMOTE, examine
from client.folder import Folder
from server.certificates import issue_server_certificate
from tests.client.hospital_folder import make_hospital, make_kit
from tests.client.tls_server import gateway


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return make_hospital(tmp_path / "north", make_kit(tmp_path / "kit"))


def test_the_command_offers_the_same_parts() -> None:
    assert PART_NAMES == PARTS == LOCAL + REMOTE


def test_offline_opens_no_connection(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    found = list(examine(folder, offline=True))
    assert [finding.part for finding in found if finding.level == "skip"] == list(REMOTE)
    assert {"settings", "keys", "code", "data", "counts", "machine"} <= {f.part for f in found}


@pytest.mark.parametrize("part", LOCAL)
def test_one_part_alone(folder: Folder, part: str) -> None:
    allowed = {"data": {"data", "counts"}}.get(part, {part})
    found = list(examine(folder, (part,)))
    assert found and {finding.part for finding in found} <= allowed


def test_a_damaged_kit_hides_nothing_else(folder: Folder) -> None:
    (folder.kit / "kit.json").write_text("{")
    found = list(examine(folder))
    levels = {finding.part: finding.level for finding in found}
    assert levels["settings"] == "fail" and levels["keys"] == levels["data"] == "ok"
    assert levels["code"] == levels["network"] == levels["registration"] == "skip"


def test_damaged_settings_hide_nothing_else(folder: Folder) -> None:
    folder.site_file.write_text("name: [")
    levels = {finding.part: finding.level for finding in examine(folder, offline=True)}
    assert levels["settings"] == "fail" and levels["keys"] == "ok"
    assert levels["data"] == levels["dicom"] == levels["machine"] == "skip"


def test_what_answers_but_is_no_superlink_is_no_registration(tmp_path: Path) -> None:
    kit = make_kit(tmp_path / "kit")
    authority = tmp_path / "kit-authority"
    issue_server_certificate(authority, ["127.0.0.1"])
    with gateway(authority) as port:
        make_kit(kit, address=f"127.0.0.1:{port}")
        shutil.copyfile(authority / "ca.crt", kit / "ca.crt")
        folder = make_hospital(tmp_path / "north", kit, images=4)
        found = {f.part: f.level for f in examine(folder, REMOTE)}
    assert found["server"] == "ok" and found["registration"] == "warn"


def test_registration_needs_a_key_and_a_server(folder: Folder) -> None:
    assert [f.level for f in examine(folder, ("registration",))] == ["skip"]
    folder.key.write_text("damaged")
    found = next(iter(examine(folder, ("registration",))))
    assert found.level == "skip" and "key" in found.text
