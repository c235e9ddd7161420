"""The site's own secret: bytes that never leave, for draws that nobody else can redo.

The bootstrap weighs patients at random. Whoever knows those weights and the weighted counts can
solve for single patients once there are no more patients than replicates, so the weights must
not follow from anything the coordinator knows. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

FILE, BYTES = "secret.key", 32


def keep_secret(folder: Path, content: bytes | None = None) -> bytes:
    """Return the secret of a state folder, made on first use and readable by its owner only.

    Args:
        folder: the site's state folder.
        content: what a new secret holds; random unless given. A simulation gives it, so that
            its intervals come out the same each time.
    """
    path = folder / FILE
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{FILE}.{os.getpid()}.part"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content or secrets.token_bytes(BYTES))
            file.flush()
            os.fsync(file.fileno())
        _place(part, path)
    return path.read_bytes()


def _place(part: Path, path: Path) -> None:
    """Move a finished file into place unless another process was faster."""
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    finally:
        part.unlink()


def secret_seed(folder: Path, purpose: str) -> int:
    """Return a seed in [0, 2**63) that only this site can know; the same at each call."""
    digest = hmac.new(keep_secret(folder), purpose.encode(), hashlib.sha256).digest()
    return int.from_bytes(digest[:8], "big") >> 1
