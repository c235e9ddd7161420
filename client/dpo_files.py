"""Which files of a site hold what, how long they stay and how to delete them.

Paths start at the site's folder (that of site.yaml). No folder's contents are listed by name: the
names of images and manifests may be names of patients.
What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from client.config import SiteConfig
from client.dpo_facts import LEAK_AUDIT
from client.held import FOLDER as HELD
from client.own_parts import FILE as OWN_PARTS
from client.receipts import FILE as RECEIPTS
from client.secret import FILE as SECRET
from client.secure_opened import FILE as OPENED
from client.secure_peers import FILE as PEERS
from client.secure_session import FILE as SECURE
from client.secure_site import ROSTER
from client.site import ATLAS, CACHE, FINAL, HEADS_FILE, LEDGER, LOG, OWN_HEAD, PRIVACY_LEDGER


@dataclass(frozen=True)
class Kept:
    """One file or folder of a site.

    Attributes:
        path: relative to the site's folder; {state} stands for the state folder. May have a *.
        holds: what.
        patients: whether it holds anything about single patients.
        stays: how long, and what takes it away.
        after: what deleting it means.
    """

    path: str
    holds: str
    patients: bool
    stays: str
    after: str


FOREVER = "until somebody deletes it"
KEPT = (
    Kept(
        f"{{state}}/{CACHE}",
        "decoded pixels of the images and what the manifest says of them",
        True,
        FOREVER,
        "the images are decoded again at the next message",
    ),
    Kept(
        f"{{state}}/{LEDGER}",
        "the list of everything that left: sums, shapes, norms; no patient",
        False,
        "for good, it is the proof",
        "the proof is lost; the next release starts a list that no longer agrees with receipts",
    ),
    Kept(
        f"{{state}}/{PRIVACY_LEDGER}",
        "what private training has spent",
        False,
        "for good, epsilon adds up over all runs",
        "no private step is taken any more; do not delete it to regain a budget",
    ),
    Kept(
        f"{{state}}/{RECEIPTS}",
        "what the coordinator signed to have received",
        False,
        "for good, it is the proof",
        "the coordinator's word is lost",
    ),
    Kept(
        f"{{state}}/{LOG}",
        "the site's own log; may name files and lines of the manifest",
        True,
        FOREVER,
        "nothing else changes",
    ),
    Kept(
        f"{{state}}/{OWN_PARTS}",
        "the site's own version of agreed parts of the model, or its mean gradient (SCAFFOLD), of "
        "the two newest rounds; numbers as many as weights",
        False,
        "until a run with such parts starts anew",
        "the site goes on from the global weights",
    ),
    Kept(
        f"{{state}}/{SECRET}",
        "the secret of pseudonyms and of random draws",
        True,
        "as long as pseudonyms shall stay the same",
        "a new intake gives other pseudonyms; nobody can link old ones to patients any more",
    ),
    Kept(
        f"{{state}}/{SECURE}",
        "keys of the masks of a secure sum that is not finished",
        False,
        "until the next secure sum",
        "answers that wait for it are lost",
    ),
    Kept(
        f"{{state}}/{ROSTER}",
        "names and public keys of the sites of a secure sum",
        False,
        "until the next secure sum",
        "likewise",
    ),
    Kept(
        f"{{state}}/{OPENED}",
        "which sums this site has helped to open, by run, exchange and group of sites",
        False,
        "for good: no sum is opened twice for different groups",
        "masked runs are refused until the state folder is new",
    ),
    Kept(
        f"{{state}}/{PEERS}",
        "fingerprints of the other sites' keys, as first seen",
        False,
        "as long as the consortium lasts",
        "the keys that are seen next are believed",
    ),
    Kept(
        "{state}/cohort-*.json",
        "hashes of labels, patients and splits of a run",
        False,
        "until the next run from its beginning",
        "a run in progress no longer notices changed images",
    ),
    Kept(
        f"{{state}}/{FINAL}",
        "the final model of the last run",
        False,
        "until the next run",
        "no explanations and audits until the next run",
    ),
    Kept(
        f"{{state}}/{ATLAS}",
        "the atlas: class means over all sites",
        False,
        "until the next run",
        "likewise",
    ),
    Kept(
        f"{{state}}/{HEADS_FILE}",
        "heads of the mitigation",
        False,
        "until the next run",
        "likewise",
    ),
    Kept(
        f"{{state}}/{OWN_HEAD}",
        "the final model with a head that learned from this site's patients alone",
        True,
        "until the next choice of a head or the next run",
        "the common head is used",
    ),
    Kept(
        f"{{state}}/{HELD}",
        "messages that wait for a person's approval",
        False,
        "until decided, at most limits.manual_minutes",
        "they are refused",
    ),
    Kept(
        "{state}/report",
        "this hospital's page with its patients' images",
        True,
        FOREVER,
        "it can be made again",
    ),
    Kept(
        "{state}/audit",
        "audit of the model on single images of this site",
        True,
        FOREVER,
        "it can be made again",
    ),
    Kept(
        "{state}/dpo",
        "this page and its JSON",
        False,
        FOREVER,
        "it can be made again",
    ),
    Kept(
        f"{{state}}/{LEAK_AUDIT}",
        "figures of attacks on the model",
        False,
        "until the next leak audit",
        "it can be made again",
    ),
    Kept(
        "dry-run",
        "what would leave, from `mfm-client check --dry-run`",
        False,
        "until the next dry run",
        "it can be made again",
    ),
    Kept(
        "node/logs",
        "logs of SuperNode and runner; may name files",
        True,
        FOREVER,
        "nothing else changes",
    ),
    Kept(
        "keys/node",
        "the private key of this site's connection",
        False,
        "as long as the site takes part",
        "the site cannot connect; it needs a new key and the coordinator's admission",
    ),
    Kept("kit", "the coordinator's kit: run, address, certificate", False, "likewise", "likewise"),
    Kept("site.yaml", "settings and limits; paths may name patients", True, "likewise", "likewise"),
)


def files_of(config: SiteConfig, root: Path) -> list[dict[str, Any]]:
    """Return every known file with its real path, size and readers.

    Args:
        config: the settings, paths resolved.
        root: the site's folder.

    Returns:
        Rows of path, holds, patients, stays, after, present, bytes and readers.
    """
    state = os.path.relpath(config.state_folder.resolve(), root.resolve())
    rows = []
    for kept in KEPT:
        path = kept.path.format(state=state)
        found = sorted(root.glob(path)) if "*" in path else [root / path]
        there = [each for each in found if each.exists()]
        rows.append(
            {
                **asdict(kept),
                "path": path,
                "present": bool(there),
                "bytes": sum(_sizes(there)),
                "readers": _readers(there),
            }
        )
    return rows


def unlisted(config: SiteConfig) -> int:
    """Return how many entries of the state folder stand in no row, locks and heads left out."""
    folder = config.state_folder
    if not folder.is_dir():
        return 0
    patterns = [kept.path.removeprefix("{state}/") for kept in KEPT if "{state}" in kept.path]
    beside = [Path(name).with_suffix(end).name for name in patterns for end in (".head", ".lock")]
    known = {path.name for name in (*patterns, *beside) for path in folder.glob(name)}
    return sum(path.name not in known for path in folder.iterdir())


def _sizes(paths: list[Path]) -> Iterator[int]:
    for path in paths:
        below = [path] if path.is_file() else list(path.rglob("*"))
        yield from (each.lstat().st_size for each in below if each.is_file())


def _readers(paths: list[Path]) -> str:
    """Return who on this machine may read: "owner", "group" or "everyone"; "" for nothing."""
    modes = [path.stat().st_mode for path in paths]
    if not modes:
        return ""
    if any(mode & stat.S_IROTH for mode in modes):
        return "everyone"
    return "group" if any(mode & stat.S_IRGRP for mode in modes) else "owner"
