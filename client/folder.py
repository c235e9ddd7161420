"""The folder of one hospital: where keys, kit, settings, state and the node's files lie.

    keys/node, keys/node.pub   the site's key pair; the private half never leaves this folder
    request.json               name, public key, contact: for the coordinator
    kit/                       what the coordinator gave: kit.json, ca.crt, run.yaml
    site.yaml                  the hospital's own settings
    state/                     cache, ledger, log, received models
    node/                      home, logs, secret and processes of the node
    dry-run/                   what `check --dry-run` wrote

What crosses the hospital's boundary: nothing here; people carry request.json to the coordinator.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mfm_core.errors import ConfigError
from strategies.onboarding import KIT, KIT_AUTHORITY, KIT_SITE, REQUEST


@dataclass(frozen=True)
class Folder:
    """The paths of one hospital's folder."""

    root: Path

    @property
    def key(self) -> Path:
        """Return the private key."""
        return self.root / "keys" / "node"

    @property
    def public_key(self) -> Path:
        """Return the public key."""
        return self.root / "keys" / "node.pub"

    @property
    def request(self) -> Path:
        """Return the request for the coordinator."""
        return self.root / REQUEST

    @property
    def kit(self) -> Path:
        """Return the folder of the accepted kit."""
        return self.root / "kit"

    @property
    def authority(self) -> Path:
        """Return the certificate that the coordinator's server is checked against."""
        return self.kit / KIT_AUTHORITY

    @property
    def site_file(self) -> Path:
        """Return the settings."""
        return self.root / KIT_SITE

    @property
    def node(self) -> Path:
        """Return the folder of the node's own files."""
        return self.root / "node"

    @property
    def secret(self) -> Path:
        """Return the secret that SuperNode and runner share."""
        return self.node / "superexec.secret"

    @property
    def dry_run(self) -> Path:
        """Return where a dry run writes."""
        return self.root / "dry-run"


def open_folder(root: Path, *, joined: bool = True) -> Folder:
    """Return the folder of a hospital.

    Args:
        root: made by `mfm-client init`.
        joined: whether a kit and settings must be there as well.

    Raises:
        ConfigError: something is missing; says which command makes it.
    """
    folder = Folder(root.resolve())
    if not folder.key.is_file() and not folder.request.is_file():
        reason = "is no folder of a hospital; make one with `mfm-client init FOLDER --name NAME`"
        raise ConfigError(str(root), [reason])
    missing = []
    if joined and not (folder.kit / KIT).is_file():
        missing.append("no kit yet; ask the coordinator for one, then `mfm-client join KIT FOLDER`")
    if joined and not folder.site_file.is_file():
        missing.append(f"no {KIT_SITE}; `mfm-client join KIT FOLDER` writes a commented one")
    if missing:
        raise ConfigError(str(root), missing)
    return folder
