"""The kit a coordinator gives one hospital: read, checked whole, then placed at once.

A kit is a folder or a zip of kit.json, ca.crt, run.yaml, a commented site.yaml and the public
pictures where the run names some. Nothing of it is executed. A kit that is damaged, made for
another site, or whose run is not the one it names is refused before a file is changed.
What crosses the hospital's boundary: nothing; a kit comes in.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from client.certificate import Certificate, read_authority
from client.config import SiteConfig
from client.folder import Folder
from client.keys import read_request
from mfm_core.config import canonical_hash, load_yaml
from mfm_core.errors import ConfigError
from mfm_core.public_pictures import LARGEST_FILE as LARGEST_PICTURES
from mfm_core.public_pictures import PUBLIC_FILE, read_public
from mfm_core.whole_file import write_whole
from strategies.config import RunConfig
from strategies.onboarding import KIT, KIT_AUTHORITY, KIT_RUN, KIT_SITE, Kit, read_json
from strategies.processes import split_address

FILES = (KIT, KIT_AUTHORITY, KIT_RUN, KIT_SITE)
OLD = "kit.old"
LARGEST_FILE = 1_000_000
"""Bytes; no file of a kit but the public pictures comes near."""


def host_and_port(kit: Kit) -> tuple[str, int]:
    """Return host and port of the kit's address."""
    return split_address(kit.address)


@dataclass(frozen=True)
class Joined:
    """What `join` did.

    Attributes:
        kit: the accepted kit.
        authority: its certificate.
        changes: in words, what differs from the kit before; empty for a first one.
        wrote_settings: whether site.yaml was written.
    """

    kit: Kit
    authority: Certificate
    changes: tuple[str, ...]
    wrote_settings: bool


def read_kit(folder: Path) -> Kit:
    """Return kit.json of an accepted kit or of one that is about to be.

    Raises:
        ConfigError: missing, damaged or incomplete.
    """
    return read_json(folder / KIT, Kit, "get the kit again from the coordinator")


def join_kit(folder: Folder, source: Path, *, replace: bool = False) -> Joined:
    """Check a kit and place it; site.yaml is written only where there is none.

    Args:
        folder: the hospital's.
        source: the kit, a folder or a zip.
        replace: accept another certificate authority than the one accepted before.

    Raises:
        ConfigError: the kit cannot be accepted, every reason listed; nothing was changed.
    """
    name = read_request(folder).name
    _finish_interrupted(folder.kit)
    with tempfile.TemporaryDirectory(prefix=".kit-", dir=folder.root) as place:
        fresh = Path(place) / "kit"
        fresh.mkdir()
        _copy_in(source, fresh)
        kit, authority = _checked(fresh, name, source)
        changes = _changes(folder, kit, authority)
        if not replace and any("certificate authority" in change for change in changes):
            raise ConfigError(
                str(source),
                [
                    f"{changes[0]}; whoever holds its key can pose as the coordinator. Compare "
                    f"the fingerprint {authority.fingerprint} with the coordinator by telephone, "
                    "then join with --replace"
                ],
            )
        settings = (fresh / KIT_SITE).read_bytes()
        (fresh / KIT_SITE).unlink()
        _place(fresh, folder.kit)
    wrote = not folder.site_file.exists()
    if wrote:
        write_whole(folder.site_file, settings)
    return Joined(kit, authority, tuple(changes), wrote)


def _copy_in(source: Path, fresh: Path) -> None:
    """Copy the files of a kit into an empty folder.

    Raises:
        ConfigError: no kit, incomplete, or a file of an unlikely size.
    """
    if source.is_dir():
        sizes = {
            name: (source / name).stat().st_size
            for name in (*FILES, PUBLIC_FILE)
            if (source / name).is_file()
        }
        _refuse_incomplete(source, sizes)
        for name in sizes:
            shutil.copyfile(source / name, fresh / name)
        return
    try:
        with zipfile.ZipFile(source) as packed:
            _unpack(packed, source, fresh)
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); check the path"
        raise ConfigError(str(source), [reason]) from None
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError):
        reason = "is neither a kit's folder nor an undamaged zip of one; get it again"
        raise ConfigError(str(source), [reason]) from None


def _unpack(packed: zipfile.ZipFile, source: Path, fresh: Path) -> None:
    """Write the files of a zip by their own names, whatever paths it holds."""
    found = {}
    for entry in packed.infolist():
        name = entry.filename.rpartition("/")[2]
        if name in (*FILES, PUBLIC_FILE) and name not in found:
            found[name] = entry
    _refuse_incomplete(source, {name: entry.file_size for name, entry in found.items()})
    for name, entry in found.items():
        (fresh / name).write_bytes(packed.read(entry))


def _refuse_incomplete(source: Path, sizes: Mapping[str, int]) -> None:
    """Refuse a kit without a needed file, or with one of an unlikely size in bytes."""
    missing = [name for name in FILES if name not in sizes]
    problems = [f"{name} is missing; the kit is incomplete, get it again" for name in missing]
    for name, size in sizes.items():
        most = LARGEST_PICTURES if name == PUBLIC_FILE else LARGEST_FILE
        if size > most:
            problems.append(f"{name} is larger than {most} bytes; this is no kit")
    if problems:
        raise ConfigError(str(source), problems)


def _checked(fresh: Path, name: str, source: Path) -> tuple[Kit, Certificate]:
    """Return kit and authority of a complete kit, or raise with everything that is wrong."""
    problems: list[str] = []
    kit = authority = None
    try:
        kit = read_kit(fresh)
        if kit.site != name:
            problems.append(
                f"was made for site {kit.site!r}, this is {name!r}; ask for this site's own kit"
            )
    except ConfigError as error:
        problems += [f"{KIT}: {problem}" for problem in error.problems]
    try:
        authority = read_authority(fresh / KIT_AUTHORITY)
        if authority.days_left() < 0:
            problems.append(
                f"{KIT_AUTHORITY} ended on {authority.not_after:%Y-%m-%d}; get a new kit"
            )
    except ConfigError as error:
        problems += [f"{KIT_AUTHORITY} {problem}" for problem in error.problems]
    problems += _run_problems(fresh, kit) + _settings_problems(fresh, name)
    if problems or kit is None or authority is None:
        raise ConfigError(str(source), problems)
    return kit, authority


def _run_problems(fresh: Path, kit: Kit | None) -> list[str]:
    try:
        run = load_yaml(fresh / KIT_RUN, RunConfig)
        found = canonical_hash(run)
        read_public(fresh, run.privacy.public_pictures, run.image)
    except ConfigError as error:
        return [f"{Path(error.subject).name}: {problem}" for problem in error.problems]
    if kit is not None and found != kit.run_hash:
        return [
            f"{KIT_RUN} has hash {found}, {KIT} names {kit.run_hash}; the kit was changed on its "
            "way or made by another version of this software. Ask the coordinator"
        ]
    return []


def _settings_problems(fresh: Path, name: str) -> list[str]:
    try:
        found = load_yaml(fresh / KIT_SITE, SiteConfig)
    except ConfigError as error:
        return [f"{KIT_SITE}: {problem}" for problem in error.problems]
    if found.name != name:
        return [f"{KIT_SITE} is for site {found.name!r}, this is {name!r}"]
    return []


def _changes(folder: Folder, kit: Kit, authority: Certificate) -> list[str]:
    """Return what differs from the kit that is in place, the authority first."""
    if not folder.kit.is_dir():
        return []
    changes = []
    try:
        if read_authority(folder.authority).fingerprint != authority.fingerprint:
            changes.append("it brings another certificate authority than the one accepted before")
    except ConfigError:
        changes.append("the certificate authority accepted before cannot be read and compared")
    try:
        before = read_kit(folder.kit)
    except ConfigError:
        return [*changes, "the kit accepted before cannot be read"]
    for name in ("consortium", "address", "run_hash", "bundle_hash", "receipt_key"):
        old, new = getattr(before, name), getattr(kit, name)
        if old != new:
            changes.append(f"{name}: {old} is now {new}")
    return changes


def _finish_interrupted(target: Path) -> None:
    """Bring the old kit back, or clear it away, after a kill in the middle of `_place`."""
    old = target.with_name(OLD)
    if old.is_dir() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _place(fresh: Path, target: Path) -> None:
    """Put a checked kit where the old one was; a kill in between leaves it in kit.old."""
    old = target.with_name(OLD)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
