"""The authority and the gateway's certificate: verified by OpenSSL's own handshake."""

from __future__ import annotations

import datetime
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest

from mfm_core.errors import ConfigError
from server.certificates import (
    certificate_problems,
    create_authority,
    issue_server_certificate,
    issued_by,
    read_certificate,
)
from tests.server.consortium import fill_the_disk


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_authority(tmp_path, "North Sea")
    issue_server_certificate(tmp_path, ["coordinator.example.org", "10.0.0.7"])
    return tmp_path


def shake_hands(folder: Path, authority: Path, name: str) -> str:
    """Return the TLS version of a real handshake between a server and a client."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.crt", folder / "server.key")
    client = ssl.create_default_context(cafile=str(authority))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    left, right = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(left, server_side=True) as connection:
                connection.recv(1)
        except OSError:
            left.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(right, server_hostname=name) as connection:
            return str(connection.version())
    finally:
        right.close()
        thread.join()


@pytest.mark.parametrize("name", ["coordinator.example.org", "10.0.0.7", "localhost", "127.0.0.1"])
def test_every_name_is_accepted_in_a_real_handshake(folder: Path, name: str) -> None:
    assert shake_hands(folder, folder / "ca.crt", name) == "TLSv1.3"


def test_another_name_or_another_authority_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(folder, folder / "ca.crt", "elsewhere.example.org")
    create_authority(tmp_path / "other", "Other")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(folder, tmp_path / "other" / "ca.crt", "localhost")


def test_keys_are_readable_by_their_owner_only(folder: Path) -> None:
    for name in ("ca.key", "server.key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_a_new_server_certificate_leaves_the_authority_as_it_is(folder: Path) -> None:
    authority = (folder / "ca.crt").read_bytes()
    first = read_certificate(folder / "server.crt")
    second = issue_server_certificate(folder, ["coordinator.example.org"])
    assert second.fingerprint != first.fingerprint
    assert (folder / "ca.crt").read_bytes() == authority
    assert shake_hands(folder, folder / "ca.crt", "coordinator.example.org") == "TLSv1.3"


def test_an_authority_is_never_replaced(folder: Path) -> None:
    with pytest.raises(ConfigError, match="never replaced"):
        create_authority(folder, "Again")


def test_the_end_is_announced_thirty_days_ahead(folder: Path) -> None:
    assert certificate_problems(folder) == []
    end = read_certificate(folder / "server.crt").not_after
    (soon,) = certificate_problems(folder, end - datetime.timedelta(days=29))
    assert "server.crt ends in 29 days" in soon and "mfm-server rotate" in soon
    (late,) = certificate_problems(folder, end + datetime.timedelta(days=2))
    assert "server.crt ended 2 days ago" in late


def test_every_wrong_name_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        issue_server_certificate(folder, ["https://x", "good.example", "host:8443"])
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("name", ["ca.crt", "ca.key"])
def test_a_damaged_authority_is_refused_in_words(folder: Path, name: str) -> None:
    (folder / name).write_text("nothing")
    with pytest.raises(ConfigError, match="restore"):
        issue_server_certificate(folder, ["a"])
    (folder / name).unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        issue_server_certificate(folder, ["a"])


def test_a_key_of_another_authority_is_refused(folder: Path, tmp_path: Path) -> None:
    create_authority(tmp_path / "other", "Other")
    (folder / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(ConfigError, match=r"does not belong to ca\.crt"):
        issue_server_certificate(folder, ["a"])


@pytest.mark.parametrize("after", [0, 1])
def test_a_full_disk_leaves_the_pair_that_was_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    fill_the_disk(monkeypatch, after)
    with pytest.raises(OSError, match="No space left"):
        issue_server_certificate(folder, ["a.example.org"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_who_issued_a_certificate_is_told(folder: Path, tmp_path: Path) -> None:
    own = (folder / "server.crt").read_bytes()
    assert issued_by(folder, own)
    create_authority(tmp_path / "other", "Other")
    assert not issued_by(tmp_path / "other", own)
    assert not issued_by(folder, (tmp_path / "other" / "ca.crt").read_bytes())
    assert not issued_by(folder, b"nothing")
