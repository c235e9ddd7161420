"""The identity of the code that runs: one SHA-256 over the four packages of the app bundle.

The hash reads the files of the packages *as imported*, so a bundle unpacked by Flower, a checkout
and an installed hospital give the same value when their code is the same. It stands in every
message; a site refuses code other than its own and the server rejects replies of other code.
What crosses the hospital's boundary: the hash.
"""

from __future__ import annotations

import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path

from mfm_core.errors import ConfigError

PACKAGES = ("mfm_core", "strategies", "server", "client")


def hash_folder(root: Path, packages: tuple[str, ...] = PACKAGES) -> str:
    """Return the SHA-256 (hex) of sorted relative paths and bytes of every `*.py` of packages."""
    digest = hashlib.sha256()
    files = (path for name in packages for path in (root / name).rglob("*.py"))
    for path in sorted(files, key=lambda path: path.relative_to(root).as_posix()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


@lru_cache(maxsize=1)
def bundle_folder() -> Path:
    """Return the one folder that all four packages are imported from.

    Flower puts a bundle on the import path beside whatever lies there already; with packages of
    such general names another checkout's code would run silently.

    Raises:
        ConfigError: the packages come from different folders.
    """
    parents: dict[str, Path] = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ConfigError("app bundle", [f"package {name} is missing"])
        parents[name] = Path(spec.origin).resolve().parents[1]
    home = parents["strategies"]
    strangers = [f"{name} comes from {at}" for name, at in parents.items() if at != home]
    if strangers:
        expected = f"expected every package in {home}; remove the other copy from the import path"
        raise ConfigError("app bundle", [*strangers, expected])
    return home


@lru_cache(maxsize=1)
def code_hash() -> str:
    """Return the hash of the code this process runs (read once, at the first call)."""
    return hash_folder(bundle_folder())
