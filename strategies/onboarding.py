"""The two small files of joining: a hospital's request, and the coordinator's kit in return.

Both ends read the same shapes from here, so neither can drift. A request holds a *public* key and
nothing secret; a kit holds what every site may know. What crosses the hospital's boundary: its
name in the consortium, its node's public key and a contact, carried by people.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import json
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator

from mfm_core.config import Part, problems_of
from mfm_core.errors import ConfigError
from strategies.wire import SITE_NAME

REQUEST, KIT, KIT_AUTHORITY, KIT_RUN, KIT_SITE = (
    *("request.json", "kit.json", "ca.crt", "run.yaml"),
    "site.yaml",
)
"""File names: the hospital's request; in a kit: what it is, the authority, the run, a template.

A kit whose run names public pictures holds `mfm_core.public_pictures.PUBLIC_FILE` as well.
"""

KEY_TYPE, CURVE, POINT_BYTES = b"ecdsa-sha2-nistp384", b"nistp384", 97
"""The one kind of node key: ECDSA on P-384, its point not compressed."""

LARGEST_FILE = 65_536
"""Bytes; a request or kit.json has about 500."""

PRIVATE_MARKS = (b"PRIVATE KEY", base64.b64encode(b"openssh-key-v1\0")[:19])
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*")


def name_problem(name: str) -> str | None:
    """Return what is wrong with a site's name, or None.

    The name is a node's name, a word in every ledger and a file name at the coordinator.
    """
    if not SITE_NAME.fullmatch(name):
        return (
            f"{name!r:.80} is no site name; use 1 to 64 letters, digits, dots, hyphens or "
            "underscores, the first a letter or digit"
        )
    if name.lower().endswith((".zip", ".json", ".")):
        return f"{name!r} ends like a file name; leave the ending out"
    return None


def address_problem(address: str) -> str | None:
    """Return what is wrong with a host:port, or None."""
    host, colon, port = address.rpartition(":")
    if not (colon and re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65_536):
        return f"{address!r:.80} has no port; write host:port, e.g. fl.example.org:8443"
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return f"{address!r:.80}: write host:port without https://, an IPv6 address in [ ]"
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not HOST.fullmatch(host) or len(host) > 253:
            return f"{host!r:.80} is no host name or IP address"
    return None


def key_blob(public_key: str) -> bytes:
    """Return the bytes of an OpenSSH public key; the comment behind it is left out.

    Raises:
        ValueError: it is not an ECDSA P-384 key in one line. The text is never repeated.
    """
    words = public_key.split()
    if len(words) < 2 or words[0].encode() != KEY_TYPE:
        raise ValueError(
            f"is not one line that begins with {KEY_TYPE.decode()}; send the public half of the "
            "key that `mfm-client init` made (keys/node.pub)"
        )
    head = b"".join(len(part).to_bytes(4, "big") + part for part in (KEY_TYPE, CURVE))
    head += POINT_BYTES.to_bytes(4, "big") + b"\x04"
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        blob = b""
    if not blob.startswith(head) or len(blob) != len(head) - 1 + POINT_BYTES:
        raise ValueError("is damaged or no ECDSA P-384 key; copy keys/node.pub again, whole")
    return blob


def fingerprint(public_key: str) -> str:
    """Return the key's fingerprint as `ssh-keygen -l` prints it: SHA256 and 43 characters.

    Two people compare it over the telephone: a request may have been changed on its way.
    """
    digest = base64.b64encode(hashlib.sha256(key_blob(public_key)).digest())
    return f"SHA256:{digest.decode().rstrip('=')}"


class _Named(Part):
    """What a request and a kit have in common: text that people and terminals will see."""

    @field_validator("*", mode="after")
    @classmethod
    def _can_be_printed(cls, value: Any) -> Any:
        if isinstance(value, str) and not value.isprintable():
            raise ValueError("holds line breaks or control characters; write it in one plain line")
        return value


class SiteRequest(_Named):
    """request.json: what a hospital asks the coordinator to admit."""

    name: str = Field(description="Name of the site in the consortium.")
    public_key: str = Field(description="OpenSSH public key of its node, ECDSA P-384.")
    contact: str = Field("", description="Whom to call there; stays with the coordinator.")

    @field_validator("name")
    @classmethod
    def _name_can_be_used(cls, value: str) -> str:
        if problem := name_problem(value):
            raise ValueError(problem)
        return value

    @field_validator("public_key")
    @classmethod
    def _key_without_comment(cls, value: str) -> str:
        key_blob(value)
        return " ".join(value.split()[:2])

    @field_validator("contact")
    @classmethod
    def _contact_is_short(cls, value: str) -> str:
        if len(value) > 200:
            raise ValueError(f"has {len(value)} characters, allowed are 200")
        return value


class Kit(_Named):
    """kit.json: what the coordinator hands to one site; nothing in a kit is secret."""

    consortium: str = Field(description="Name of the consortium.")
    address: str = Field(description="host:port of the gateway that the site's node calls.")
    site: str = Field(description="Name under which the site is admitted.")
    run_hash: str = Field(description="Hash of the agreed run.yaml.")
    bundle_hash: str = Field(description="Hash of the app bundle of that run.")
    receipt_key: str = Field(description="Public Ed25519 key of the coordinator's receipts, hex.")

    @field_validator("address")
    @classmethod
    def _address_can_be_called(cls, value: str) -> str:
        if problem := address_problem(value):
            raise ValueError(problem)
        return value

    @field_validator("site")
    @classmethod
    def _site_can_be_used(cls, value: str) -> str:
        if problem := name_problem(value):
            raise ValueError(problem)
        return value

    @field_validator("run_hash", "bundle_hash", "receipt_key")
    @classmethod
    def _is_a_hash(cls, value: str) -> str:
        if not re.fullmatch("[0-9a-f]{64}", value):
            raise ValueError("expected 64 hexadecimal digits; ask for a new kit")
        return value


AnyPart = TypeVar("AnyPart", bound=BaseModel)


def read_json(path: Path, part: type[AnyPart], source: str) -> AnyPart:
    """Return a small JSON file that came from elsewhere.

    Args:
        path: the file.
        part: what it must hold, and nothing else.
        source: how to get a good one, for the error.

    Raises:
        ConfigError: missing, too large, not JSON, wrong fields, or it holds a private key; the
            content is never repeated then.
    """
    content = _read_small(path, source)
    try:
        found = json.loads(content.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        reason = f"is not JSON with every key once; {source}"
        raise ConfigError(str(path), [reason]) from None
    try:
        return part.model_validate(found)
    except ValidationError as error:
        raise ConfigError(str(path), [*problems_of(error), source]) from None


def _read_small(path: Path, source: str) -> bytes:
    if not path.is_file():
        raise ConfigError(str(path), [f"no such file; {source}"])
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read ({error.strerror}); {source}"]) from None
    if any(mark in content for mark in PRIVATE_MARKS):
        raise ConfigError(
            str(path),
            [
                "holds a PRIVATE key, which must never leave the hospital; whoever has seen it can "
                "act as that site. Delete this file and every copy; the hospital removes its "
                "keys/, runs `mfm-client init` again and sends the new request.json"
            ],
        )
    if len(content) > LARGEST_FILE:
        raise ConfigError(str(path), [f"has more than {LARGEST_FILE} bytes; {source}"])
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found
