"""Writes a file whole or not at all: temporary name, sync, rename.

What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes, mode: int = 0o666) -> Path:
    """Write `content`; a full disk or a kill leaves the old file or none, never a part.

    Args:
        path: the file; its folder is made where it is missing.
        content: all of it.
        mode: who may read and write it, before the process's umask; 0o600 for a secret.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # a full disk names no file
        raise
    finally:
        part.unlink(missing_ok=True)
    return path


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last through a power cut; raise OSError where that fails."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
