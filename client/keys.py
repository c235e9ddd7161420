"""The site's key pair, made at the hospital, and the request that carries its public half.

Elliptic curve P-384 in OpenSSH's format, which is what a SuperNode signs with (flwr 1.41). The
private key is written once, readable by its owner only, and nothing here ever copies it.
What crosses the hospital's boundary: the public key, when a person sends request.json.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from client.folder import Folder
from mfm_core.config import problems_of
from mfm_core.errors import ConfigError
from mfm_core.whole_file import write_whole
from strategies.onboarding import SiteRequest, key_blob, name_problem, read_json


def create_site(root: Path, name: str, contact: str = "") -> Folder:
    """Make a hospital's folder: key pair and request.json; return it.

    Args:
        root: made when absent; may hold other files.
        name: the site's name in the consortium.
        contact: whom the coordinator may call; goes into the request.

    Raises:
        ConfigError: the name cannot be used, or a key is already there.
    """
    folder = Folder(root.resolve())
    problems = [text for text in (name_problem(name),) if text]
    if folder.key.exists() or folder.public_key.exists():
        problems.append(
            f"{folder.key.parent} already holds a key, which the coordinator may have admitted; "
            "take another folder, or move the old keys away to start anew"
        )
    if problems:
        raise ConfigError(str(root), problems)
    key = ec.generate_private_key(ec.SECP384R1())
    request = _request(name, public_text(key), contact)
    folder.key.parent.mkdir(parents=True, exist_ok=True)
    folder.key.parent.chmod(0o700)
    write_private(folder.key, _private_text(key))
    write_whole(folder.public_key, public_text(key).encode() + b"\n")
    write_whole(folder.request, (request.model_dump_json(indent=2) + "\n").encode())
    return folder


def _request(name: str, public_key: str, contact: str) -> SiteRequest:
    try:
        return SiteRequest(name=name, public_key=public_key, contact=contact)
    except ValidationError as error:
        raise ConfigError("request", problems_of(error)) from None


def read_key(folder: Folder) -> ec.EllipticCurvePrivateKey:
    """Return the private key.

    Raises:
        ConfigError: missing, damaged or of another kind.
    """
    return read_key_file(folder.key)


def read_key_file(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the private key of a file.

    Raises:
        ConfigError: as for `read_key`.
    """
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); run as the user who made it, or `init` anew"
        raise ConfigError(str(path), [reason]) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        reason = "is damaged or protected by a passphrase; restore the file that `init` wrote"
        raise ConfigError(str(path), [reason]) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        reason = "is of another kind; expected the ECDSA P-384 key that `init` wrote"
        raise ConfigError(str(path), [reason])
    return key


def read_request(folder: Folder) -> SiteRequest:
    """Return name, public key and contact of request.json.

    Raises:
        ConfigError: missing or damaged.
    """
    return read_json(folder.request, SiteRequest, "restore the file that `mfm-client init` wrote")


def public_text(key: ec.EllipticCurvePrivateKey) -> str:
    """Return the public half in OpenSSH's one-line form."""
    return public_text_of(key.public_key())


def public_text_of(key: ec.EllipticCurvePublicKey) -> str:
    """Return a public key in OpenSSH's one-line form."""
    encoded = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return encoded.decode("ascii")


def key_problems(folder: Folder) -> list[str]:
    """Return what is wrong with the keys of a folder: rights, damage, another request."""
    try:
        key, request = read_key(folder), read_request(folder)
    except ConfigError as error:
        return [f"{error.subject}: {problem}" for problem in error.problems]
    problems = []
    rights = stat.S_IMODE(folder.key.stat().st_mode)
    if rights & 0o077:
        problems.append(
            f"{folder.key} has rights {rights:o}, others can read it; "
            f"`chmod 600 {folder.key}`, and make a new key if somebody may have"
        )
    if key_blob(request.public_key) != key_blob(public_text(key)):
        problems.append(
            f"{folder.request.name} holds another public key than keys/node; the coordinator "
            "may have admitted a key that this site does not have. Send a new request"
        )
    return problems


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read; never over another one.

    Raises:
        FileExistsError: there is one.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _private_text(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
