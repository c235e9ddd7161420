"""The kit of one site: what a hospital needs to join, and nothing secret.

A folder and the same as a zip: kit.json (address, site, hashes of run and bundle), the
authority's certificate, the agreed run.yaml and a commented site.yaml to start from, and the public
pictures where the run names some. Equal kits have equal bytes.
What crosses a hospital's boundary: towards it, these files.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from mfm_core.config import canonical_hash
from mfm_core.errors import ConfigError
from mfm_core.public_pictures import PUBLIC_FILE, read_public
from mfm_core.whole_file import write_whole
from server.folder import Folder
from server.hosting import HostingConfig
from server.receipt_key import public_half
from server.templates import site_text
from strategies.bundle import bundle_hash, stage_bundle
from strategies.config import RunConfig
from strategies.onboarding import KIT, KIT_AUTHORITY, KIT_RUN, KIT_SITE, Kit, read_json

RENEW = "run `mfm-server site kit` for this site and send it the new one"
_NO_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Agreed:
    """The agreed run and its two hashes.

    Attributes:
        run: the run.
        run_hash: of its settings.
        bundle_hash: of the app bundle that Flower carries to the sites.
    """

    run: RunConfig
    run_hash: str
    bundle_hash: str


def agreed_of(run: RunConfig) -> Agreed:
    """Return a run with its hashes; the bundle is built from the installed code."""
    with tempfile.TemporaryDirectory(prefix="mfm-bundle-") as place:
        return Agreed(run, canonical_hash(run), bundle_hash(stage_bundle(run, Path(place))))


def kit_files(
    folder: Folder, hosting: HostingConfig, site: str, agreed: Agreed
) -> dict[str, bytes]:
    """Return the content of a site's kit by file name.

    Raises:
        ConfigError: the authority's certificate, the run or its pictures cannot be read.
    """
    kit = Kit(
        consortium=hosting.name,
        address=hosting.address,
        site=site,
        run_hash=agreed.run_hash,
        bundle_hash=agreed.bundle_hash,
        receipt_key=public_half(folder.receipt_key),
    )
    files = {
        KIT: (kit.model_dump_json(indent=1) + "\n").encode(),
        KIT_AUTHORITY: _read(folder.authority / "ca.crt"),
        KIT_RUN: _read(hosting.run),
        KIT_SITE: site_text(kit, agreed.run).encode(),
    }
    if (wanted := agreed.run.privacy.public_pictures) is not None:
        read_public(hosting.run.parent, wanted, agreed.run.image)
        files[PUBLIC_FILE] = _read(hosting.run.parent / PUBLIC_FILE)
    return files


def write_kit(folder: Folder, hosting: HostingConfig, site: str, agreed: Agreed) -> Path:
    """Write a site's kit, folder and zip, and return the folder; no other site's is touched.

    Raises:
        ConfigError: as for `kit_files`.
        OSError: it cannot be written; the kit before is then still there.
    """
    files = kit_files(folder, hosting, site, agreed)
    place = folder.kits / site
    fresh, old = (folder.kits / f".{site}.{word}" for word in ("new", "old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        for name, content in files.items():
            write_whole(fresh / name, content)
        packed = _pack(site, files)
        if place.exists():
            place.rename(old)
        fresh.rename(place)
        write_whole(folder.kits / f"{site}.zip", packed)
    finally:
        if old.exists() and not place.exists():
            old.rename(place)
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
    return place


def remove_kit(folder: Folder, site: str) -> None:
    """Remove a site's kit if there is one."""
    shutil.rmtree(folder.kits / site, ignore_errors=True)
    (folder.kits / f"{site}.zip").unlink(missing_ok=True)


def kit_problems(folder: Folder, hosting: HostingConfig, site: str, agreed: Agreed) -> list[str]:
    """Return what is out of date or wrong with a site's kit; site.yaml is a template only."""
    place, zipped = folder.kits / site, folder.kits / f"{site}.zip"
    if not place.is_dir() or not zipped.is_file():
        return [f"the kit of {site} is missing; {RENEW}"]
    expected = kit_files(folder, hosting, site, agreed)
    try:
        kit = read_json(place / KIT, Kit, RENEW)
        found = {name: _read(place / name) for name in expected}
    except ConfigError as error:
        return [f"the kit of {site} is damaged ({Path(error.subject).name}); {RENEW}"]
    wanted = Kit.model_validate_json(expected[KIT])
    stale = [name for name in Kit.model_fields if getattr(kit, name) != getattr(wanted, name)]
    fixed = [name for name in expected if name not in (KIT, KIT_SITE)]
    stale += [name for name in fixed if found[name] != expected[name]]
    if not stale and zipped.read_bytes() != _pack(site, found):
        stale = [zipped.name]
    return [f"the kit of {site} is out of date ({', '.join(stale)}); {RENEW}"] if stale else []


def _pack(site: str, files: dict[str, bytes]) -> bytes:
    """Return a zip of the files in one folder `<site>`, the same bytes for the same files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{site}/{name}", _NO_DATE)
            entry.external_attr = 0o644 << 16
            packed.writestr(entry, files[name], zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); restore it from a copy"
        raise ConfigError(str(path), [reason]) from None
