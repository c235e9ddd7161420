"""Requests and kits: what cannot be true is refused, and a private key is never repeated."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from mfm_core.errors import ConfigError
from strategies.onboarding import (
    LARGEST_FILE,
    Kit,
    SiteRequest,
    address_problem,
    fingerprint,
    key_blob,
    name_problem,
    read_json,
)

KEY = ec.generate_private_key(ec.SECP384R1())


def public(key: Any = KEY) -> str:
    encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return str(key.public_key().public_bytes(encoding, form).decode())


def private(encoding: str) -> str:
    form = {"OpenSSH": "OpenSSH", "PKCS8": "PKCS8", "SEC1": "TraditionalOpenSSL"}[encoding]
    return KEY.private_bytes(
        serialization.Encoding.PEM,
        getattr(serialization.PrivateFormat, form),
        serialization.NoEncryption(),
    ).decode()


def request(folder: Path, **changed: Any) -> Path:
    content = {"name": "north", "public_key": public(), "contact": "it@north.example"} | changed
    path = folder / "request.json"
    path.write_text(json.dumps(content))
    return path


def test_a_request_is_read_without_the_keys_comment(tmp_path: Path) -> None:
    path = request(tmp_path, public_key=f"{public()} jane@workstation\n".strip())
    found = read_json(path, SiteRequest, "ask again")
    assert found.name == "north" and found.public_key == public()


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen here")
def test_the_fingerprint_is_the_one_that_ssh_keygen_prints(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(public())
    command = ["ssh-keygen", "-l", "-f", str(tmp_path / "key.pub")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert fingerprint(public()) == printed.split()[1]


def test_the_bytes_of_a_key_lead_back_to_the_same_key() -> None:
    point = KEY.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    assert key_blob(public()).endswith(point) and len(point) == 97


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "-rf",
        "a b",
        "nörd",
        "x" * 65,
        "a\n",
        "n.zip",
        "n.JSON",
    ],
)
def test_a_name_that_is_no_name_is_refused(name: str, tmp_path: Path) -> None:
    assert name_problem(name)
    with pytest.raises(ConfigError, match="name: "):
        read_json(request(tmp_path, name=name), SiteRequest, "ask again")


def test_plain_names_are_names() -> None:
    assert [name_problem(name) for name in ("n", "St.Olav", "north-2", "a_b", "x" * 64)] == [
        None
    ] * 5


@pytest.mark.parametrize(
    "address",
    ["host", "host:", ":8443", "host:0", "host:65536", "https://host:1", "::1:80", "a b:1", "a_b:1",
     "host:٣", "-a.example:1"],
)  # fmt: skip
def test_an_address_that_cannot_be_called_is_refused(address: str) -> None:
    assert address_problem(address)


def test_names_and_both_kinds_of_ip_addresses_can_be_called() -> None:
    good = ("fl.example.org:8443", "localhost:1", "10.0.0.7:443", "[2001:db8::1]:8443")
    assert [address_problem(address) for address in good] == [None] * 4


@pytest.mark.parametrize("encoding", ["OpenSSH", "PKCS8", "SEC1"])
@pytest.mark.parametrize("where", ["key", "contact", "bare"])
def test_a_private_key_is_refused_and_never_repeated(
    encoding: str, where: str, tmp_path: Path
) -> None:
    secret = private(encoding)
    if where == "bare":
        path = tmp_path / "node"
        path.write_text(secret)
    else:
        path = request(tmp_path, **{"public_key" if where == "key" else "contact": secret})
    with pytest.raises(ConfigError, match="PRIVATE key, which must never leave") as caught:
        read_json(path, SiteRequest, "ask again")
    lines = [line for line in secret.splitlines() if "-----" not in line]
    assert not any(line[:16] in str(caught.value) for line in lines)


def test_a_private_key_without_its_banner_is_known_too(tmp_path: Path) -> None:
    body = "".join(line for line in private("OpenSSH").splitlines() if "-----" not in line)
    with pytest.raises(ConfigError, match="PRIVATE"):
        read_json(request(tmp_path, public_key=f"ecdsa-sha2-nistp384 {body}"), SiteRequest, "x")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "ssh-rsa AAAA",
        public(ed25519.Ed25519PrivateKey.generate()),
        public(ec.generate_private_key(ec.SECP256R1())),
        public()[:-20],
        "ecdsa-sha2-nistp384 ****",
        "ecdsa-sha2-nistp384 " + public().split()[1].replace("A", "é", 1),
    ],
    ids=["empty", "rsa", "ed25519", "p256", "cut off", "stars", "not ascii"],
)
def test_other_and_damaged_keys_are_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="public_key: ") as caught:
        read_json(request(tmp_path, public_key=key), SiteRequest, "ask the hospital again")
    assert "ask the hospital again" in caught.value.problems


@pytest.mark.parametrize(
    "changed",
    [{"status": "admitted"}, {"contact": "x\x1b[2J"}, {"contact": "a\nb"}, {"contact": "x" * 201}],
)
def test_what_a_request_must_not_hold_is_refused(changed: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_json(request(tmp_path, **changed), SiteRequest, "ask again")
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"\xff", b"{" * 30_000, b'{"name": "a", "name": "b"}', b"[" * 50_000],
)
def test_what_is_no_request_is_refused_in_words(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="ask again"):
        read_json(path, SiteRequest, "ask again")


def test_a_file_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    with path.open("wb") as file:
        file.truncate(LARGEST_FILE * 1_000_000)
    with pytest.raises(ConfigError, match=f"more than {LARGEST_FILE} bytes"):
        read_json(path, SiteRequest, "ask again")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="no such file"):
        read_json(tmp_path / "pipe", SiteRequest, "ask again")


def test_every_wrong_field_of_a_kit_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "kit.json"
    hashes = {"run_hash": "1", "bundle_hash": "2", "receipt_key": "3"}
    content = {"consortium": "c", "address": "x", "site": "..", **hashes}
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError) as caught:
        read_json(path, Kit, "ask the coordinator for a new kit")
    assert len(caught.value.problems) == 6
