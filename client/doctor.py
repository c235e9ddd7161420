"""The doctor: everything a site should know before it joins, each line ok, warn or fail.

One unprivileged command. Parts can be asked for one by one, and without a network. A part that
needs one that failed says so instead of guessing.
What crosses the hospital's boundary: what `doctor_network` and `registration` say, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import httpx

from client import doctor_network, registration
from client.doctor_data import check_counts, read_images
from client.doctor_dicom import check_dicom
from client.doctor_forecast import check_forecast
from client.doctor_machine import check_machine
from client.doctor_sandbox import check_sandbox
from client.doctor_settings import (
    Settings,
    check_code,
    check_keys,
    check_settings,
    read_settings,
)
from client.finding import Finding
from client.folder import Folder
from client.keys import read_key
from mfm_core.dataset import ImageSet
from mfm_core.errors import MfmError

LOCAL = ("settings", "keys", "code", "data", "dicom", "machine", "sandbox")
REMOTE = ("network", "registration")
PARTS = (*LOCAL, *REMOTE)
"""data brings the counts with it; network: name, proxy, certificate, server and clock."""


@dataclass
class Visit:
    """One examination of a hospital's folder.

    Attributes:
        folder: where everything lies.
        settings: kit, settings and run, as far as they could be read.
        problems: findings about those that could not.
        images: the opened images, once the data part has run.
    """

    folder: Folder
    settings: Settings
    problems: list[Finding]
    images: ImageSet | None = None


def examine(
    folder: Folder, parts: Sequence[str] = PARTS, *, offline: bool = False
) -> Iterator[Finding]:
    """Yield findings part by part, as soon as each is known.

    Args:
        folder: the hospital's.
        parts: of PARTS, in any order.
        offline: leave the parts out that need the coordinator's server.
    """
    settings, problems = read_settings(folder)
    visit = Visit(folder, settings, problems)
    for part in PARTS:
        if part not in parts:
            continue
        if offline and part in REMOTE:
            yield Finding(part, "skip", "not looked at: --offline")
            continue
        yield from _PARTS[part](visit)


def _settings(visit: Visit) -> Iterator[Finding]:
    yield from visit.problems
    yield from check_settings(visit.folder, visit.settings)


def _keys(visit: Visit) -> Iterator[Finding]:
    yield check_keys(visit.folder)


def _code(visit: Visit) -> Iterator[Finding]:
    yield check_code(visit.settings.kit, visit.settings.run)


def _data(visit: Visit) -> Iterator[Finding]:
    config, run = visit.settings.config, visit.settings.run
    if config is None or run is None:
        yield Finding("data", "skip", "needs site.yaml and the run; correct the settings first")
        return
    found = read_images(config, run)
    yield from found.findings
    if found.images is not None:
        visit.images = found.images
        yield from check_counts(found.images, run.ontology, config.limits.min_cell_count)
        yield from check_forecast(config, run)


def _dicom(visit: Visit) -> Iterator[Finding]:
    config, run = visit.settings.config, visit.settings.run
    if config is None or run is None:
        yield Finding("dicom", "skip", "needs site.yaml and the run; correct the settings first")
        return
    yield from check_dicom(config, run)


def _machine(visit: Visit) -> Iterator[Finding]:
    config, run = visit.settings.config, visit.settings.run
    if config is None or run is None:
        yield Finding("machine", "skip", "needs site.yaml and the run; correct the settings first")
        return
    yield from check_machine(config, run, 0 if visit.images is None else len(visit.images))


def _sandbox(visit: Visit) -> Iterator[Finding]:
    if visit.settings.config is None:
        yield Finding("sandbox", "skip", "needs site.yaml; correct the settings first")
        return
    yield from check_sandbox(visit.settings.config)


def _network(visit: Visit) -> Iterator[Finding]:
    if visit.settings.kit is None:
        yield Finding("network", "skip", "needs a kit, which names the address")
        return
    yield from doctor_network.check_network(visit.settings.kit, visit.folder.authority)


def _registration(visit: Visit) -> Iterator[Finding]:
    kit = visit.settings.kit
    if kit is None:
        yield Finding("registration", "skip", "needs a kit, which names the address")
        return
    try:
        key = read_key(visit.folder)
        found = registration.ask_registration(kit.address, visit.folder.authority, key)
    except MfmError as error:
        yield Finding("registration", "skip", "needs the site's key", str(error))
    except (httpx.HTTPError, OSError) as error:
        yield Finding("registration", "skip", f"the server was not reached ({error})")
    else:
        yield registration.judge(found)


_PARTS: dict[str, Callable[[Visit], Iterator[Finding]]] = {
    "settings": _settings,
    "keys": _keys,
    "code": _code,
    "data": _data,
    "dicom": _dicom,
    "machine": _machine,
    "sandbox": _sandbox,
    "network": _network,
    "registration": _registration,
}
