"""A coordinator's folder and hospitals' requests, for tests of membership."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from server.folder import Folder, create_folder
from server.templates import consortium_text
from tests.server.hospitals import RUN

ADDRESS = "fl.example.org:18443"


def make_consortium(root: Path, settings: str | None = None) -> Folder:
    """Return a folder with the tiny run of `hospitals`."""
    run = yaml.safe_dump(RUN.model_dump(mode="json"))
    text = settings or consortium_text("North Sea", ADDRESS)
    return create_folder(root, text, run, ("North Sea", "fl.example.org"))


def new_key() -> str:
    """Return a fresh OpenSSH public key."""
    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return str(public.public_bytes(encoding, form).decode())


def write_request(folder: Path, name: str, key: str | None = None, contact: str = "it@x") -> Path:
    """Write the request of one hospital and return its path."""
    path = folder / f"{name}.request.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"name": name, "public_key": key or new_key(), "contact": contact}
    path.write_text(json.dumps(content))
    return path


def contents(root: Path, without: str = "") -> dict[str, tuple[str, int]]:
    """Return hash and time of change of every file below a folder, some names left out."""
    return {
        str(path.relative_to(root)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".lock" and (not without or without not in str(path))
    }


def fill_the_disk(patch: pytest.MonkeyPatch, after: int) -> list[int]:
    """Let every sync to disk fail once `after` of them went well; return a list that grows."""
    real, done = os.fsync, []

    def sync(handle: int) -> None:
        if len(done) >= after:
            raise OSError(errno.ENOSPC, "No space left on device")
        done.append(handle)
        real(handle)

    patch.setattr(os, "fsync", sync)
    return done
