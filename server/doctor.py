"""`mfm-server check`: is this folder fit to host its consortium, and for how much longer?

Each part yields findings; none stops at the first problem, and nothing is changed. Ports are
looked at in `server.ports`. What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

from mfm_core.autoencoder import MAX_PARAMETERS, parameters_of
from mfm_core.errors import ConfigError, MfmError
from mfm_core.public_pictures import read_public
from server.certificates import WARN_DAYS, issued_by, read_certificate
from server.finding import Finding
from server.folder import Folder, missing_parts
from server.hosting import HostingConfig, default_quorum, load_hosted_run, load_hosting
from server.kits import Agreed, agreed_of, kit_problems
from server.membership import SiteRecord, sites_and_problems
from server.ports import check_ports
from server.start import released_start
from strategies.answers import latent_size
from strategies.config import RunConfig

SPARE_BYTES = 2**30
"""Room for Flower's database and logs, which grow to some hundred MiB."""

COPIES = 4
"""Messages of one site that lie on the disk at once: in, out, in a state and in one before."""

AUTHORITY_ADVICE = "make a new consortium folder and give every site a new kit"
ROTATE = "run `mfm-server rotate`; sites need nothing new"
RESTORE = "restore it from a copy of the folder"


def check_folder(folder: Folder, now: datetime.datetime | None = None) -> tuple[Finding, ...]:
    """Return everything there is to say about a coordinator's folder, the good included.

    Args:
        folder: may be incomplete or damaged.
        now: the time that certificates are judged by; None is the present.
    """
    return tuple(_findings(folder, now or datetime.datetime.now(datetime.UTC)))


def _findings(folder: Folder, now: datetime.datetime) -> Iterator[Finding]:
    missing = missing_parts(folder)
    for text in missing:
        what, _, advice = text.partition("; ")
        yield Finding("folder", "fail", what, advice)
    if not missing:
        yield Finding("folder", "ok", f"{folder.root} is complete")
    hosting = run = agreed = None
    try:
        hosting = load_hosting(folder)
        text = f"consortium {hosting.name!r}, sites call {hosting.address}"
        yield Finding("settings", "ok", text)
    except ConfigError as error:
        yield from _problems("settings", error, "correct consortium.yaml")
    yield from check_certificates(folder, hosting, now)
    yield from check_secrets(folder)
    if hosting is not None:
        try:
            run = load_hosted_run(hosting)
            agreed = agreed_of(run)
            yield from describe_run(agreed)
            yield from check_public(hosting, run)
            yield from check_start(hosting, run)
        except MfmError as error:
            yield from _problems("run", error, "correct the agreed run.yaml")
    yield from check_sites(folder, hosting, agreed)
    if hosting is not None:
        yield from check_ports(hosting, folder)
    yield check_disk(folder, run)


def _problems(part: str, error: MfmError, advice: str) -> Iterator[Finding]:
    if not isinstance(error, ConfigError):
        yield Finding(part, "fail", str(error), advice)
        return
    for text in error.problems:
        yield Finding(part, "fail", f"{Path(error.subject).name}: {text}", advice)


def check_certificates(
    folder: Folder, hosting: HostingConfig | None, now: datetime.datetime
) -> Iterator[Finding]:
    """Yield the days left of both certificates, and whether they fit their keys and the address."""
    good = True
    for name, advice in (("ca.crt", AUTHORITY_ADVICE), ("server.crt", ROTATE)):
        try:
            left = read_certificate(folder.authority / name).days_left(now)
        except ConfigError as error:
            good = False
            yield from _problems("certificates", error, RESTORE if name == "ca.crt" else ROTATE)
            continue
        if left < 0:
            yield Finding("certificates", "fail", f"{name} ended {-left:.0f} days ago", advice)
        elif left < WARN_DAYS:
            yield Finding("certificates", "warn", f"{name} ends in {left:.0f} days", advice)
        else:
            yield Finding("certificates", "ok", f"{name} is good for {left:.0f} more days")
    if good:
        yield from _pairs(folder.authority, hosting)


def _pairs(authority: Path, hosting: HostingConfig | None) -> Iterator[Finding]:
    for name, advice in (("ca", RESTORE), ("server", ROTATE)):
        if not _belong_together(authority, name):
            text = f"{name}.key does not belong to {name}.crt"
            yield Finding("certificates", "fail", text, advice)
    if not issued_by(authority, (authority / "server.crt").read_bytes()):
        text = "server.crt was not issued by ca.crt, so no site will accept it"
        yield Finding("certificates", "fail", text, ROTATE)
    if hosting is not None:
        names = read_certificate(authority / "server.crt").names
        if not _is_named(hosting.host, names):
            text = f"server.crt names {', '.join(names)}, but sites call {hosting.host}"
            yield Finding("certificates", "fail", text, ROTATE)


def _belong_together(authority: Path, name: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            authority / f"{name}.crt", authority / f"{name}.key"
        )
    except OSError:  # SSLError is one
        return False
    return True


def _is_named(host: str, names: tuple[str, ...]) -> bool:
    try:
        return str(ipaddress.ip_address(host)) in names
    except ValueError:
        return host.lower() in (name.lower() for name in names)


def check_secrets(folder: Folder) -> Iterator[Finding]:
    """Yield whether the private files are readable by their owner only, and not empty."""
    good = True
    for path in folder.private:
        if not path.is_file():
            good = False
            continue
        name, found = str(path.relative_to(folder.root)), path.stat()
        rights = stat.S_IMODE(found.st_mode)
        if rights & 0o077:
            good = False
            text = f"{name} can be reached by others (rights {rights:03o})"
            advice = f"`chmod 600 {path}`, and replace it if somebody may have read it"
            yield Finding("secrets", "fail", text, advice)
        if not found.st_size:
            good = False
            yield Finding("secrets", "fail", f"{name} is empty", RESTORE)
    if good:
        names = ", ".join(path.name for path in folder.private)
        yield Finding("secrets", "ok", f"only their owner can read {names}")


def describe_run(agreed: Agreed) -> Iterator[Finding]:
    """Yield what was agreed: name, rounds, size of the model and both hashes."""
    run = agreed.run
    count = parameters_of(run.model, run.image, len(run.ontology.classes))
    classes = ", ".join(run.ontology.classes)
    yield Finding("run", "ok", f"{run.name}: {run.rounds} rounds, classes {classes}")
    yield Finding("run", "ok", f"{count:,} parameters of at most {MAX_PARAMETERS:,}")
    yield Finding("run", "ok", f"run hash {agreed.run_hash}")
    yield Finding("run", "ok", f"bundle hash {agreed.bundle_hash}")


def check_public(hosting: HostingConfig, run: RunConfig) -> Iterator[Finding]:
    """Yield whether the public pictures beside run.yaml are those that it names, if it names any.

    Raises:
        ConfigError: missing, or others.
    """
    found = read_public(hosting.run.parent, run.privacy.public_pictures, run.image)
    if found is not None:
        text = f"{len(found)} public pictures, as run.yaml names them; every kit holds them"
        yield Finding("run", "ok", text)


def check_start(hosting: HostingConfig, run: RunConfig) -> Iterator[Finding]:
    """Yield whether the run can start from the released weights that it agreed on, if on any."""
    try:
        if released_start(run, hosting.pretrained) is not None:
            text = f"starts from the autoencoder of {hosting.pretrained}, as run.yaml names it"
            yield Finding("run", "ok", text)
    except MfmError as error:
        yield from _problems("run", error, "name the agreed file as pretrained in consortium.yaml")
    if run.pretrained is None and run.learning.trainable != "all":
        text = f"learning.trainable is {run.learning.trainable}, but no released weights are agreed"
        advice = "name them as pretrained in run.yaml, or almost nothing of a new model will learn"
        yield Finding("run", "warn", text, advice)


def check_sites(
    folder: Folder, hosting: HostingConfig | None, agreed: Agreed | None
) -> Iterator[Finding]:
    """Yield who is admitted, whether they suffice, and whose kit is out of date."""
    sites, problems = sites_and_problems(folder)
    for text in problems:
        what, _, advice = text.rpartition("; ")
        yield Finding("sites", "fail", what, advice)
    admitted = [site.name for site in sites if site.status == "admitted"]
    suspended = [site.name for site in sites if site.status == "suspended"]
    text = f"{len(admitted)} admitted: {', '.join(admitted)}" if admitted else "no site is admitted"
    text += f"; suspended: {', '.join(suspended)}" if suspended else ""
    quorum = (hosting.quorum if hosting else None) or default_quorum(len(admitted))
    if not admitted:
        advice = "run `mfm-server site add FOLDER REQUEST` for each hospital"
        yield Finding("sites", "warn", text, advice)
    elif quorum > len(admitted):
        advice = f"admit more, or lower quorum ({quorum}) in consortium.yaml"
        yield Finding("sites", "fail", text, advice)
    else:
        yield Finding("sites", "ok", f"{text}; a round needs {quorum}")
    if hosting is not None and agreed is not None:
        yield from _kits(folder, hosting, agreed, sites)


def _kits(
    folder: Folder, hosting: HostingConfig, agreed: Agreed, sites: tuple[SiteRecord, ...]
) -> Iterator[Finding]:
    admitted = [site.name for site in sites if site.status == "admitted"]
    try:
        found = [text for name in admitted for text in kit_problems(folder, hosting, name, agreed)]
    except ConfigError as error:
        yield from _problems("kits", error, RESTORE)
        return
    for text in found:
        what, _, advice = text.rpartition("; ")
        yield Finding("kits", "warn", what, advice)
    known = {site.name for site in sites}
    for place in sorted(path for path in folder.kits.glob("[!.]*") if path.is_dir()):
        if place.name not in known:
            text = f"kits/{place.name} belongs to no site"
            yield Finding("kits", "warn", text, f"add that site, or remove {place}")
    if admitted and not found:
        yield Finding("kits", "ok", f"{len(admitted)} up to date")


def check_disk(folder: Folder, run: RunConfig | None) -> Finding:
    """Return whether there is room for a run with as many sites as there are files."""
    free = shutil.disk_usage(folder.root).free
    sites = sum(1 for _ in folder.sites.glob("*.json"))
    needed = SPARE_BYTES + (COPIES * (sites + 2) * message_bytes(run) if run else 0)
    text = f"{free / 2**30:.1f} GiB free, a run needs about {needed / 2**30:.1f} GiB"
    if free < needed:
        return Finding("disk", "fail", text, "free some space, or move the folder to a larger disk")
    if free < 3 * needed:
        return Finding("disk", "warn", text, "free some space soon: runs and Flower's files grow")
    return Finding("disk", "ok", text)


def message_bytes(run: RunConfig) -> int:
    """Return the bytes of the largest message of a run: the weights, or the latent sums."""
    weights = 4 * parameters_of(run.model, run.image, len(run.ontology.classes))
    return max(weights, 8 * latent_size(run) ** 2)
