"""Who is in the consortium: one small file per site, changed only under the folder's lock.

The file's status decides. `admitted`: the site's key is registered at the SuperLink under its
name, and runs ask it. `suspended`: the file and the kit stay, the key is no longer registered and
no run asks. No file: as if it had never been. Only files change here: `server.register` reads them
when the SuperLink starts and whenever they change, and makes Flower's list of keys equal to them.
A run that has begun keeps the sites it began with, but one that is no longer registered cannot be
reached. What crosses a hospital's boundary: towards it, its kit; the request came from it, carried
by people.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from pydantic import Field

from mfm_core.errors import ConfigError
from mfm_core.whole_file import write_whole
from server.folder import Folder, locked
from server.hosting import load_hosted_run, load_hosting
from server.kits import agreed_of, remove_kit, write_kit
from strategies.onboarding import SiteRequest, fingerprint, name_problem, read_json

ASK_AGAIN = "ask the hospital for the request.json that `mfm-client init` wrote"
RESTORE = "restore it from a copy, or remove the site and add it again"


class SiteRecord(SiteRequest):
    """sites/<name>.json: one site as the coordinator knows it."""

    admitted_at: datetime.datetime = Field(description="When it was first admitted, UTC.")
    status: Literal["admitted", "suspended"] = Field(description="Whether runs ask it.")

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of its key, as `ssh-keygen -l` prints it."""
        return fingerprint(self.public_key)


@dataclass(frozen=True)
class Admission:
    """What `admit` did.

    Attributes:
        site: as it stands now.
        known: it was there before, with the same key.
        kit: the folder of its kit; the zip lies beside it.
    """

    site: SiteRecord
    known: bool
    kit: Path


def read_sites(folder: Folder) -> tuple[SiteRecord, ...]:
    """Return every site, by name.

    Raises:
        ConfigError: a file is damaged, bears another site's name, or two sites have one key.
    """
    found, problems = sites_and_problems(folder)
    if problems:
        raise ConfigError(str(folder.sites), problems)
    return found


def sites_and_problems(folder: Folder) -> tuple[tuple[SiteRecord, ...], list[str]]:
    """Return the sites whose files are good, and a line for everything that is wrong."""
    sites, problems = [], []
    for path in sorted(folder.sites.glob("*.json")):
        if path.name.startswith("."):
            continue
        try:
            site = read_json(path, SiteRecord, RESTORE)
        except ConfigError as error:
            problems.append(f"{path.name}: {'; '.join(error.problems)}")
            continue
        if site.name != path.stem:
            problems.append(f"{path.name} is the file of {site.name!r}; {RESTORE}")
        sites.append(site)
    owners: dict[str, str] = {}
    for site in sites:
        if (owner := owners.setdefault(site.public_key, site.name)) != site.name:
            problems.append(
                f"{owner} and {site.name} have one key ({site.fingerprint}); remove one of them"
            )
    return tuple(sites), problems


def find_site(folder: Folder, name: str) -> SiteRecord:
    """Return one site.

    Raises:
        ConfigError: there is none of this name, or its file is damaged or another site's.
    """
    path = _path_of(folder, name)
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in folder.sites.glob("*.json"))) or "none"
        raise ConfigError(name, [f"is no site of this consortium; its sites: {known}"])
    site = read_json(path, SiteRecord, RESTORE)
    if site.name != name:
        raise ConfigError(str(path), [f"is the file of {site.name!r}; {RESTORE}"])
    return site


def admitted_names(folder: Folder) -> tuple[str, ...]:
    """Return the names of the sites that runs ask."""
    return tuple(site.name for site in read_sites(folder) if site.status == "admitted")


def admit(folder: Folder, request: Path) -> Admission:
    """Admit the site of a request file, or renew one that is known with the same key.

    The kit is written first and the site's file last, so that a site is admitted only if it has a
    kit. No file of another site is touched.

    Raises:
        ConfigError: the request cannot be true, or folder or run are wrong; nothing was changed.
        OSError: it cannot be written; nothing was changed but, at most, this site's kit.
    """
    wanted = read_json(request, SiteRequest, ASK_AGAIN)
    with locked(folder):
        sites = read_sites(folder)
        _refuse_untrue(wanted, sites, request)
        hosting = load_hosting(folder)
        known = next((site for site in sites if site.name == wanted.name), None)
        record = SiteRecord(
            **wanted.model_dump(),
            admitted_at=known.admitted_at if known else _now(),
            status="admitted",
        )
        kit = write_kit(folder, hosting, record.name, agreed_of(load_hosted_run(hosting)))
        _write(folder, record)
    return Admission(record, known is not None, kit)


def suspend(folder: Folder, name: str) -> SiteRecord:
    """Keep a site out of coming rounds; its file, key and kit stay.

    Raises:
        ConfigError: there is no such site.
    """
    return _change(folder, name, status="suspended")


def readmit(folder: Folder, name: str) -> SiteRecord:
    """End a suspension.

    Raises:
        ConfigError: there is no such site.
    """
    return _change(folder, name, status="admitted")


def remove(folder: Folder, name: str) -> None:
    """Forget a site: its file and kit go; the ledgers of past runs stay.

    Works on a damaged file too, because it is the way out of one.

    Raises:
        ConfigError: there is no such site.
    """
    with locked(folder):
        path = _path_of(folder, name)
        if not path.is_file():
            find_site(folder, name)
        path.unlink()
        remove_kit(folder, name)


def renew_kits(folder: Folder, names: tuple[str, ...] = ()) -> tuple[Path, ...]:
    """Write kits anew from the agreed run and return their folders.

    Args:
        folder: the coordinator's.
        names: whose; none means every admitted site.

    Raises:
        ConfigError: a name is unknown, or folder or run are wrong; nothing was changed.
    """
    with locked(folder):
        chosen = tuple(find_site(folder, name).name for name in names) or admitted_names(folder)
        hosting = load_hosting(folder)
        agreed = agreed_of(load_hosted_run(hosting))
        return tuple(write_kit(folder, hosting, name, agreed) for name in chosen)


def _refuse_untrue(wanted: SiteRequest, sites: tuple[SiteRecord, ...], request: Path) -> None:
    """Raise with everything in a request that contradicts what is known."""
    problems = []
    try:
        load_ssh_public_key(wanted.public_key.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm):
        problems.append(f"public_key: is no point on the curve P-384; {ASK_AGAIN}")
    for site in sites:
        same_name = site.name.casefold() == wanted.name.casefold()
        if site.public_key == wanted.public_key and site.name != wanted.name:
            problems.append(
                f"public_key: belongs to {site.name} already; every site makes a key of its own "
                "with `mfm-client init`, in a folder of its own"
            )
        elif same_name and site.name != wanted.name:
            problems.append(f"name: {site.name} is taken and differs only in capital letters")
        elif same_name and site.public_key != wanted.public_key:
            problems.append(
                f"name: {site.name} is {site.status} with another key ({site.fingerprint}); call "
                f"{site.contact or 'its contact'}, and if the hospital did make a new key, run "
                f"`mfm-server site remove` for {site.name} first"
            )
    if problems:
        raise ConfigError(str(request), problems)


def _change(folder: Folder, name: str, **changed: object) -> SiteRecord:
    with locked(folder):
        record = find_site(folder, name).model_copy(update=changed)
        _write(folder, record)
    return record


def _path_of(folder: Folder, name: str) -> Path:
    if problem := name_problem(name):
        raise ConfigError("site", [problem])
    return folder.sites / f"{name}.json"


def _write(folder: Folder, record: SiteRecord) -> None:
    write_whole(_path_of(folder, record.name), (record.model_dump_json(indent=1) + "\n").encode())


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)
