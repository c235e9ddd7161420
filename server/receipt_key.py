"""The Ed25519 key that the coordinator signs receipts with; its public half is in every kit.

What crosses a hospital's boundary: towards it, the public key and signed receipts.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mfm_core.errors import ConfigError
from server.certificates import write_secret
from strategies.receipts import Sign, unsigned

RESTORE = "restore it from a copy of the folder; a new key needs new kits at every site"


def create_receipt_key(path: Path) -> None:
    """Write a new key, readable by its owner only."""
    key = Ed25519PrivateKey.generate()
    write_secret(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def read_receipt_key(path: Path) -> Ed25519PrivateKey:
    """Return the key of a file.

    Raises:
        ConfigError: missing, damaged or of another kind.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(str(path), [f"cannot be read as a receipt key; {RESTORE}"]) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(str(path), [f"is no Ed25519 key; {RESTORE}"])
    return key


def public_half(path: Path) -> str:
    """Return the public key (64 hex digits) of a key file.

    Raises:
        ConfigError: as for `read_receipt_key`.
    """
    raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
    return read_receipt_key(path).public_key().public_bytes(*raw).hex()


def signer_of(path: Path | None) -> Sign:
    """Return what signs receipts; without a key (simulation) they stay unsigned.

    Raises:
        ConfigError: as for `read_receipt_key`.
    """
    if path is None:
        return unsigned
    key = read_receipt_key(path)
    return lambda content: key.sign(content).hex()
