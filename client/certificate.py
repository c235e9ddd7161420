"""What a certificate says, for people: its name, its end, its fingerprint.

What crosses the hospital's boundary: nothing; certificates are public and only read here.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from mfm_core.errors import ConfigError

WARN_DAYS = 30.0
"""A certificate with fewer days left is shown as a warning."""


@dataclass(frozen=True)
class Certificate:
    """One certificate.

    Attributes:
        subject, issuer: names.
        not_before, not_after: its life, UTC.
        fingerprint: SHA-256 (hex) of its DER bytes.
        authority: whether it may sign others.
    """

    subject: str
    issuer: str
    not_before: datetime.datetime
    not_after: datetime.datetime
    fingerprint: str
    authority: bool

    def days_left(self, now: datetime.datetime | None = None) -> float:
        """Return the days until it ends; negative when it has ended."""
        left = self.not_after - (now or datetime.datetime.now(datetime.UTC))
        return left.total_seconds() / 86_400


def certificate_of(der: bytes) -> Certificate:
    """Return what the DER bytes of a certificate say.

    Raises:
        ValueError: it is none.
    """
    return _described(x509.load_der_x509_certificate(der))


def read_authority(path: Path) -> Certificate:
    """Return the authority's certificate of a PEM file.

    Raises:
        ConfigError: missing, damaged, or not the certificate of an authority.
    """
    try:
        found = _described(x509.load_pem_x509_certificate(path.read_bytes()))
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); join the kit again"
        raise ConfigError(str(path), [reason]) from None
    except ValueError:
        raise ConfigError(str(path), ["is no PEM certificate; get the kit again"]) from None
    if not found.authority:
        reason = "is not the certificate of an authority; get the kit again"
        raise ConfigError(str(path), [reason])
    return found


def _described(found: x509.Certificate) -> Certificate:
    try:
        rules = found.extensions.get_extension_for_class(x509.BasicConstraints).value
        authority = bool(rules.ca)
    except x509.ExtensionNotFound:
        authority = False
    return Certificate(
        subject=found.subject.rfc4514_string(),
        issuer=found.issuer.rfc4514_string(),
        not_before=found.not_valid_before_utc,
        not_after=found.not_valid_after_utc,
        fingerprint=found.fingerprint(hashes.SHA256()).hex(),
        authority=authority,
    )
