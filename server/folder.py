"""The coordinator's folder: where everything of one consortium lies, and the lock that guards it.

    consortium.yaml, run.yaml   settings of this machine; the agreed run
    card.yaml                   what people say about the model; goes into its releases
    authority/                  ca.crt, ca.key, server.crt, server.key, receipt.key
    superexec.secret            shared by SuperLink and SuperExec, on this machine only
    sites/<name>.json           one admitted or suspended site each
    kits/<name>/, <name>.zip    what that site was given; nothing secret
    superlink/                  Flower's home, database, logs, processes
    runs/<run>/                 ledger, states, results of a run
    releases/<run>-<id>/        models that are handed on, with card and hashes

`init` makes it whole or not at all. What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mfm_core.errors import ConfigError
from mfm_core.whole_file import write_whole
from server.card_config import CARD, CARD_FILE
from server.certificates import create_authority, issue_server_certificate, write_secret
from server.receipt_key import create_receipt_key

LOCK_WAIT_S = 5.0
"""A change takes about a second; who waits longer is told who holds the folder."""

SECRET_BYTES = 32


@dataclass(frozen=True)
class Folder:
    """The paths of one coordinator's folder."""

    root: Path

    @property
    def consortium(self) -> Path:
        """Return the settings of this machine."""
        return self.root / "consortium.yaml"

    @property
    def run(self) -> Path:
        """Return the agreed run that `init` writes; consortium.yaml may name another."""
        return self.root / "run.yaml"

    @property
    def authority(self) -> Path:
        """Return the folder of the certificates and their keys."""
        return self.root / "authority"

    @property
    def receipt_key(self) -> Path:
        """Return the key that receipts are signed with."""
        return self.authority / "receipt.key"

    @property
    def secret(self) -> Path:
        """Return the secret of SuperLink and SuperExec."""
        return self.root / "superexec.secret"

    @property
    def sites(self) -> Path:
        """Return the folder with one file per site."""
        return self.root / "sites"

    @property
    def kits(self) -> Path:
        """Return the folder of the kits."""
        return self.root / "kits"

    @property
    def superlink(self) -> Path:
        """Return the folder of Flower's own files."""
        return self.root / "superlink"

    @property
    def runs(self) -> Path:
        """Return the folder of the runs."""
        return self.root / "runs"

    @property
    def private(self) -> tuple[Path, ...]:
        """Return the files that only the coordinator's own user may read."""
        keys = tuple(self.authority / f"{name}.key" for name in ("ca", "server"))
        return (*keys, self.receipt_key, self.secret)

    @property
    def needed(self) -> tuple[Path, ...]:
        """Return the files without which nothing can be done."""
        public = (self.authority / "ca.crt", self.authority / "server.crt")
        return (self.consortium, *public, *self.private)


def open_folder(root: Path) -> Folder:
    """Return the folder of a consortium.

    Raises:
        ConfigError: it is none, or a part is missing; every missing part is named.
    """
    folder = Folder(root.resolve())
    missing = missing_parts(folder)
    if len(missing) == len(folder.needed):
        reason = "is no consortium's folder; make one with `mfm-server init FOLDER`"
        raise ConfigError(str(root), [reason])
    if missing:
        raise ConfigError(str(root), missing)
    return folder


def missing_parts(folder: Folder) -> list[str]:
    """Return a line for every file that is missing, with what to do."""
    return [
        f"{path.relative_to(folder.root)} is missing; restore it from a copy of the folder"
        for path in folder.needed
        if not path.is_file()
    ]


def create_folder(root: Path, consortium: str, run: str, names: tuple[str, ...]) -> Folder:
    """Make a consortium's folder with its own authority, keys and secret.

    It is made beside its place and moved there when it is whole, so a kill or a full disk leaves
    no folder at all.

    Args:
        root: must not exist, or be empty.
        consortium: text of consortium.yaml.
        run: text of run.yaml.
        names: the consortium's name, then every host name or address of the server certificate.

    Raises:
        ConfigError: the place is taken or a name cannot stand in a certificate.
        OSError: it cannot be written.
    """
    root = root.resolve()
    _refuse_taken(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{root.name}.", suffix=".part", dir=root.parent))
    try:
        _fill(Folder(fresh), consortium, run, names)
        fresh.rename(root)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            _refuse_taken(root)
        error.filename, error.filename2 = str(root), None
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Folder(root)


def _refuse_taken(root: Path) -> None:
    if root.is_dir() and not any(root.iterdir()):
        return
    if root.exists() or root.is_symlink():
        reason = "is already there and not an empty folder; take another, nothing was changed"
        raise ConfigError(str(root), [reason])


def _fill(folder: Folder, consortium: str, run: str, names: tuple[str, ...]) -> None:
    for place in (folder.authority, folder.sites, folder.kits, folder.superlink, folder.runs):
        place.mkdir(mode=0o700)
    create_authority(folder.authority, names[0])
    issue_server_certificate(folder.authority, names[1:])
    create_receipt_key(folder.receipt_key)
    write_secret(folder.secret, secrets.token_bytes(SECRET_BYTES))
    write_whole(folder.consortium, consortium.encode())
    write_whole(folder.run, run.encode())
    write_whole(folder.root / CARD_FILE, CARD.encode())


@contextlib.contextmanager
def locked(folder: Folder) -> Iterator[None]:
    """Hold the folder for one change; the kernel frees it when this process ends, however.

    Raises:
        ConfigError: somebody else still holds it after `LOCK_WAIT_S` seconds.
    """
    with (folder.root / ".lock").open("a+", encoding="utf-8") as file:
        stop_at = time.monotonic() + LOCK_WAIT_S
        while not _take(file.fileno()):
            if time.monotonic() >= stop_at:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                reason = (
                    f"another mfm-server command is changing it (process {holder}); nothing was "
                    "done, wait for it to end and try again"
                )
                raise ConfigError(str(folder.root), [reason])
            time.sleep(0.05)
        file.truncate(0)
        with contextlib.suppress(OSError):  # a full disk must not keep people from making room
            os.write(file.fileno(), str(os.getpid()).encode())
        yield


def _take(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
