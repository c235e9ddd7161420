"""The private key is made here, is readable by its owner only, and stands in one file only."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from client.keys import create_site, key_problems, public_text, read_key, read_request
from mfm_core.errors import ConfigError
from strategies.onboarding import SiteRequest


def test_the_private_key_stands_in_one_file_that_others_cannot_read(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = create_site(tmp_path, "north", "it@north.example")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.key.parent.stat().st_mode) == 0o700
    number = read_key(folder).private_numbers().private_value.to_bytes(48, "big")
    body = b"".join(folder.key.read_bytes().splitlines()[1:-1])
    holding = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file()
        and (number in path.read_bytes() or body[100:160] in path.read_bytes().replace(b"\n", b""))
    ]
    assert holding == [folder.key]
    assert key_problems(folder) == []


def test_the_request_holds_name_public_key_and_contact_and_nothing_else(tmp_path: Path) -> None:
    folder = create_site(tmp_path, "north", "it@north.example")
    content = json.loads(folder.request.read_text())
    assert set(content) == {"name", "public_key", "contact"}
    assert SiteRequest.model_validate(content).name == "north"
    assert content["public_key"] == folder.public_key.read_text().strip()
    assert content["public_key"].startswith("ecdsa-sha2-nistp384 ")


def test_flower_reads_both_halves_as_one_pair(tmp_path: Path) -> None:
    """As `flower-supernode` and `flwr supernode register` read them (flwr 1.41)."""
    folder = create_site(tmp_path, "north")
    key = serialization.load_ssh_private_key(folder.key.read_bytes(), None)
    public = serialization.load_ssh_public_key(folder.public_key.read_bytes())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public_key_to_bytes(key.public_key()) == public_key_to_bytes(public)


def test_two_sites_never_share_a_key(tmp_path: Path) -> None:
    one, two = (create_site(tmp_path / name, name) for name in ("a", "b"))
    assert public_text(read_key(one)) != public_text(read_key(two))


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    folder = create_site(tmp_path, "north")
    kept = folder.key.read_bytes()
    with pytest.raises(ConfigError, match="already holds a key"):
        create_site(tmp_path, "north")
    assert folder.key.read_bytes() == kept


@pytest.mark.parametrize("name", ["", "a b", "../up", "x" * 65, "-dash", "a\nb"])
def test_a_name_that_cannot_be_used_makes_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        create_site(tmp_path / "new", name)
    assert not (tmp_path / "new").exists()


def test_a_contact_that_cannot_be_sent_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="contact"):
        create_site(tmp_path / "new", "north", "x" * 201)
    assert not (tmp_path / "new").exists()


def test_rights_damage_and_a_foreign_request_are_found(tmp_path: Path) -> None:
    folder = create_site(tmp_path / "a", "north")
    folder.key.chmod(0o640)
    assert "640" in key_problems(folder)[0]
    folder.key.chmod(0o600)
    other = create_site(tmp_path / "b", "north")
    folder.request.write_bytes(other.request.read_bytes())
    assert "another public key" in key_problems(folder)[0]
    folder.key.write_text("damaged")
    assert "damaged" in key_problems(folder)[0]
    folder.key.unlink()
    assert "cannot be read" in key_problems(folder)[0]


def test_a_key_of_another_curve_is_refused(tmp_path: Path) -> None:
    folder = create_site(tmp_path, "north")
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    folder.key.write_bytes(other)
    with pytest.raises(ConfigError, match="P-384"):
        read_key(folder)


def test_a_damaged_request_is_refused(tmp_path: Path) -> None:
    folder = create_site(tmp_path, "north")
    folder.request.write_text("{")
    with pytest.raises(ConfigError):
        read_request(folder)
