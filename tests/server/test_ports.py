"""Whose port it is, told by real listeners."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server import ports
from server.certificates import issue_server_certificate
from server.folder import Folder
from server.hosting import load_hosting
from server.ports import check_port, check_ports, why_taken
from tests.server.consortium import make_consortium


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return make_consortium(tmp_path_factory.mktemp("ports") / "consortium")


@contextlib.contextmanager
def listening(pair: Path | None) -> Iterator[str]:
    """Listen on a free port, with the server certificate of a folder or without TLS."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_serve, args=(server, pair), daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=10)


def _serve(server: socket.socket, pair: Path | None) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if pair is not None:
        context.load_cert_chain(pair / "server.crt", pair / "server.key")
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with contextlib.suppress(OSError), connection:
            if pair is None:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            else:
                context.wrap_socket(connection, server_side=True).close()


def test_a_free_port_is_free(folder: Folder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert why_taken(address)
    assert check_port("listen", address, folder).level == "ok"


def test_the_consortiums_own_listener_is_known(folder: Folder) -> None:
    with listening(folder.authority) as address:
        found = check_port("listen", address, folder)
    assert found.level == "ok" and "by this consortium" in found.text


def test_an_earlier_certificate_of_the_consortium_is_known(folder: Folder, tmp_path: Path) -> None:
    for name in ("ca.crt", "ca.key"):
        (tmp_path / name).write_bytes((folder.authority / name).read_bytes())
    issue_server_certificate(tmp_path, ["fl.example.org"])
    with listening(tmp_path) as address:
        found = check_port("listen", address, folder)
    assert found.level == "warn" and "earlier certificate" in found.text and found.advice


@pytest.mark.parametrize("kind", ["another authority", "no TLS"])
def test_a_stranger_is_a_failure(folder: Folder, tmp_path: Path, kind: str) -> None:
    other = None if kind == "no TLS" else make_consortium(tmp_path / "other").authority
    with listening(other) as address:
        found = check_port("listen", address, folder)
    assert found.level == "fail" and "stop what listens there" in found.advice


def test_an_address_of_another_machine_is_a_failure(folder: Folder) -> None:
    found = check_port("listen", "192.0.2.1:8443", folder)
    assert found.level == "fail" and "cannot be used" in found.text


def test_both_ports_are_looked_at(folder: Folder) -> None:
    found = list(check_ports(load_hosting(folder), folder))
    assert [finding.text.split()[0] for finding in found] == ["listen", "superlink", "gateway:"]


@pytest.mark.parametrize(
    ("wanted", "nginx", "level", "text"),
    [
        ("nginx", None, "fail", "gateway: nginx is not installed"),
        ("auto", None, "ok", "gateway: builtin"),
        ("auto", "/usr/sbin/nginx", "ok", "gateway: /usr/sbin/nginx"),
        ("builtin", "/usr/sbin/nginx", "ok", "gateway: builtin"),
    ],
)
def test_the_gateway_that_was_asked_for_must_be_there(
    wanted: Any, nginx: str | None, level: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "find_nginx", lambda: nginx)
    found = ports.check_gateway(wanted)
    assert (found.level, found.text) == (level, text) and bool(found.advice) == (level == "fail")
