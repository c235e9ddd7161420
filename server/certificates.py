"""The consortium's own certificate authority and the certificate of its gateway.

Elliptic curve P-384 throughout. The authority's key stays on the coordinator's machine; hospitals
hold its certificate and nothing else. A new server certificate needs nothing from them, because
they trust the authority. What crosses a hospital's boundary: towards it, the public certificate.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mfm_core.errors import ConfigError

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397
"""Longest life of a server certificate that common clients accept."""

WARN_DAYS = 30
"""A certificate with fewer days left is shown as a warning."""

_BACKDATED = datetime.timedelta(minutes=10)
"""A clock that is a little slow must not find a new certificate not yet valid."""


@dataclass(frozen=True)
class Certificate:
    """What people need to know of a certificate.

    Attributes:
        subject: its name.
        names: the host names and addresses it is good for; empty for an authority.
        not_after: end of its life, UTC.
        fingerprint: SHA-256 (hex) of its DER bytes.
    """

    subject: str
    names: tuple[str, ...]
    not_after: datetime.datetime
    fingerprint: str

    def days_left(self, now: datetime.datetime | None = None) -> float:
        """Return the days until it ends; negative when it has ended."""
        left = self.not_after - (now or datetime.datetime.now(datetime.UTC))
        return left.total_seconds() / 86_400


def create_authority(folder: Path, consortium: str, days: int = AUTHORITY_DAYS) -> Certificate:
    """Write ca.crt and ca.key (readable by its owner only) into `folder`.

    Raises:
        ConfigError: one is already there; a new authority would shut out every site.
    """
    problems = [
        f"{folder / name} is already there; every site trusts it, so it is never replaced"
        for name in ("ca.crt", "ca.key")
        if (folder / name).exists()
    ]
    if problems:
        raise ConfigError("certificate authority", problems)
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"{consortium} authority")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    _write_pair(folder, "ca", key, builder.sign(key, hashes.SHA384()))
    return read_certificate(folder / "ca.crt")


def issue_server_certificate(
    folder: Path, names: Iterable[str], days: int = SERVER_DAYS
) -> Certificate:
    """Write server.crt and server.key, signed by the authority of `folder`; old ones are replaced.

    Args:
        folder: holds ca.crt and ca.key.
        names: every host name and IP address that sites may use; loopback is always added.
        days: life of the certificate.

    Raises:
        ConfigError: the authority is missing or damaged, or a name cannot stand in a certificate.
    """
    authority, signer = _read_authority(folder)
    wanted = tuple(dict.fromkeys([*names, "localhost", "127.0.0.1"]))
    problems = [text for name in wanted if (text := _name_problem(name))]
    if problems:
        raise ConfigError("server certificate", problems)
    key = ec.generate_private_key(ec.SECP384R1())
    now = datetime.datetime.now(datetime.UTC)
    end = min(now + datetime.timedelta(days=days), authority.not_valid_after_utc)
    builder = (
        x509.CertificateBuilder(
            authority.subject,
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wanted[0][:64])]),
            key.public_key(),
            x509.random_serial_number(),
        )
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([_general(n) for n in wanted]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    _write_pair(folder, "server", key, builder.sign(signer, hashes.SHA384()))
    return read_certificate(folder / "server.crt")


def read_certificate(path: Path) -> Certificate:
    """Return what a PEM certificate says.

    Raises:
        ConfigError: missing or damaged.
    """
    found = _load(path)
    try:
        named = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = tuple(str(entry.value) for entry in named)
    except x509.ExtensionNotFound:
        names = ()
    return Certificate(
        subject=found.subject.rfc4514_string(),
        names=names,
        not_after=found.not_valid_after_utc,
        fingerprint=found.fingerprint(hashes.SHA256()).hex(),
    )


def issued_by(folder: Path, certificate: bytes) -> bool:
    """Tell whether the authority of `folder` has signed a PEM certificate.

    Raises:
        ConfigError: the authority's certificate is missing or damaged.
    """
    try:
        x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(
            _load(folder / "ca.crt")
        )
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def certificate_problems(folder: Path, now: datetime.datetime | None = None) -> list[str]:
    """Return what is wrong, or soon will be, with the two certificates of a folder."""
    problems = []
    for name, advice in (
        ("ca.crt", "make a new consortium folder and give every site a new kit"),
        ("server.crt", "run `mfm-server rotate`; sites need nothing new"),
    ):
        left = read_certificate(folder / name).days_left(now)
        if left < 0:
            problems.append(f"{name} ended {-left:.0f} days ago; {advice}")
        elif left < WARN_DAYS:
            problems.append(f"{name} ends in {left:.0f} days; {advice}")
    return problems


def _load(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); run `mfm-server init`, or restore a copy"
        raise ConfigError(str(path), [reason]) from None
    except ValueError:
        raise ConfigError(str(path), ["is no PEM certificate; restore it from a copy"]) from None


def _read_authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate, path = _load(folder / "ca.crt"), folder / "ca.key"
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read ({error.strerror})"]) from None
    except ValueError:
        raise ConfigError(str(path), ["is no private key; restore it from a copy"]) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or (
        certificate.public_key() != key.public_key()
    ):
        raise ConfigError(str(path), ["does not belong to ca.crt; restore both from one copy"])
    return certificate, key


def _name_problem(name: str) -> str | None:
    try:
        ipaddress.ip_address(name)
        return None
    except ValueError:
        pass
    label = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    if len(name) <= 253 and re.fullmatch(rf"{label}(\.{label})*", name):
        return None
    return f"{name!r} is no host name or IP address; write it without https:// and port"


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=sign, crl_sign=sign, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _write_pair(
    folder: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> None:
    """Write <name>.key and <name>.crt; a full disk leaves the pair before, never half of each."""
    folder.mkdir(parents=True, exist_ok=True)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    parts = [folder / f".{name}.{ending}.part" for ending in ("key", "crt")]
    try:
        for part, content, rights in zip(parts, (secret, public), (0o600, 0o644), strict=True):
            _write_synced(part, content, rights)
        for part, ending in zip(parts, ("key", "crt"), strict=True):
            part.replace(folder / f"{name}.{ending}")
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        _write_synced(part, content, 0o600)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _write_synced(path: Path, content: bytes, rights: int) -> None:
    path.unlink(missing_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, rights)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path.parent)  # a full disk names no file
        raise
