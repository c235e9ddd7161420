import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from client.certificate import certificate_of, read_authority
from mfm_core.errors import ConfigError
from server.certificates import create_authority, issue_server_certificate, read_certificate


def test_both_ends_read_the_same_from_one_certificate(tmp_path: Path) -> None:
    create_authority(tmp_path, "consortium")
    ours, theirs = read_authority(tmp_path / "ca.crt"), read_certificate(tmp_path / "ca.crt")
    assert (ours.fingerprint, ours.not_after) == (theirs.fingerprint, theirs.not_after)
    assert ours.authority and ours.subject == ours.issuer
    assert 3649 < ours.days_left() < 3651
    ended = ours.not_after + datetime.timedelta(days=2)
    assert ours.days_left(ended) == pytest.approx(-2)


def test_a_servers_certificate_is_no_authority(tmp_path: Path) -> None:
    create_authority(tmp_path, "consortium")
    issue_server_certificate(tmp_path, ["a.example"])
    with pytest.raises(ConfigError, match="authority"):
        read_authority(tmp_path / "server.crt")
    pem = x509.load_pem_x509_certificate((tmp_path / "server.crt").read_bytes())
    found = certificate_of(pem.public_bytes(serialization.Encoding.DER))
    assert not found.authority and "authority" in found.issuer


def test_missing_and_damaged_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="join the kit again"):
        read_authority(tmp_path / "ca.crt")
    (tmp_path / "ca.crt").write_text("no certificate")
    with pytest.raises(ConfigError, match="get the kit again"):
        read_authority(tmp_path / "ca.crt")
