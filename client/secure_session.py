"""A site's keys of the secure sum in hand, kept so that each serves once, whatever is killed.

One small file in the state folder, readable by its owner only: the secret of the session and what
it has been used for. A use is written down before anything is computed with it; so a repeated,
replayed or resumed exchange finds its keys spent and needs a new session, and two different
messages never lie under the same mask. What crosses the hospital's boundary: nothing here.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mfm_core.errors import UpdateRejected
from mfm_core.whole_file import sync_folder, write_whole
from strategies.secure_sum import KEY_BYTES, SiteKeys, Told

FILE = "secure_sum.json"


@dataclass(frozen=True)
class Session:
    """What a site keeps of one session.

    Attributes:
        keys: the session's name, the site's and its secret.
        first: position in the plan of the first exchange that it has keys for.
        roster: hash of the roster it has shared its secrets with; empty before.
        masked: participants of each exchange whose mask has been used.
        revealed: survivors of each exchange whose shares have been given.
    """

    keys: SiteKeys
    first: int
    roster: str = ""
    masked: dict[int, tuple[str, ...]] = field(default_factory=dict)
    revealed: dict[int, tuple[str, ...]] = field(default_factory=dict)


def begin_session(state: Path, session: str, site: str, first: int) -> SiteKeys:
    """Return the keys of a session that begins; an older session is forgotten with its secret.

    The same session may begin again until its roster is known, so that a lost reply can be asked
    for again.

    Raises:
        UpdateRejected: "session"; it is under way already.
    """
    with _locked(state):
        kept = _read(state, site)
        if kept is not None and kept.keys.session == session:
            if kept.roster or kept.masked or kept.first != first:
                raise UpdateRejected("session", "this session is under way; begin a new one")
            return kept.keys
        keys = SiteKeys(session, site, secrets.token_bytes(KEY_BYTES))
        _write(state, Session(keys, first))
        return keys


def fix_roster(state: Path, session: str, site: str, first: int, roster: str) -> SiteKeys:
    """Return the keys of a session once its roster is written down; it never changes afterwards.

    Raises:
        UpdateRejected: "session" or "roster".
    """
    with _locked(state):
        kept = _current(state, session, site)
        _check_first(kept, first)
        if kept.roster not in ("", roster):
            raise UpdateRejected("roster", "this session has another roster already")
        _write(state, replace(kept, roster=roster))
        return kept.keys


def check_session(state: Path, session: str, site: str, first: int, roster: str) -> None:
    """Return if this is the session in hand, from its own position and with its own roster.

    A session that may shift its position would mask one exchange twice, under two keys.

    Raises:
        UpdateRejected: "session" or "roster".
    """
    with _locked(state):
        kept = _current(state, session, site)
        _check_first(kept, first)
        if not roster or kept.roster != roster:
            raise UpdateRejected("roster", "this session has another roster, or none yet")


def spend_mask(
    state: Path, session: str, site: str, step: int, participants: tuple[str, ...]
) -> SiteKeys:
    """Return the keys for the masks of one exchange, once.

    Raises:
        UpdateRejected: "session", or "spent"; the exchange's masks have been used.
    """
    with _locked(state):
        kept = _current(state, session, site)
        if not kept.roster or step in kept.masked or step in kept.revealed:
            raise UpdateRejected("spent", f"the masks of exchange {step} have been used")
        _write(state, replace(kept, masked={**kept.masked, step: tuple(participants)}))
        return kept.keys


def spend_shares(state: Path, session: str, site: str, told: Told) -> SiteKeys:
    """Return the keys for the shares of one exchange, for the group it was masked in.

    The same survivors may be told again, when a reply was lost: they get the same shares. Other
    survivors never are: a site's two keys of one exchange must not both be opened.

    Raises:
        UpdateRejected: "session", "participants" or "spent".
    """
    with _locked(state):
        kept = _current(state, session, site)
        if kept.masked.get(told.step) != tuple(told.participants):
            raise UpdateRejected("participants", "these are not those of the masked exchange")
        survivors = tuple(told.survivors)
        if kept.revealed.get(told.step, survivors) != survivors:
            raise UpdateRejected("spent", f"the shares of exchange {told.step} have been given")
        _write(state, replace(kept, revealed={**kept.revealed, told.step: survivors}))
        return kept.keys


def _check_first(kept: Session, first: int) -> None:
    if kept.first != first:
        raise UpdateRejected("session", f"the session begins at {kept.first}, not at {first}")


def _current(state: Path, session: str, site: str) -> Session:
    kept = _read(state, site)
    if kept is None or kept.keys.session != session:
        raise UpdateRejected("session", "this site knows no such session; begin a new one")
    return kept


def _read(state: Path, site: str) -> Session | None:
    """Return the session of a state folder; a damaged file is as good as none."""
    path = state / FILE
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        keys = SiteKeys(found["session"], site, bytes.fromhex(found["master"]))
        masked, revealed = (
            {int(step): tuple(names) for step, names in found[use].items()}
            for use in ("masked", "revealed")
        )
        return Session(keys, int(found["first"]), found["roster"], masked, revealed)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(state: Path, session: Session) -> None:
    content = {
        "session": session.keys.session,
        "master": session.keys.master.hex(),
        "first": session.first,
        "roster": session.roster,
        "masked": {str(step): list(names) for step, names in session.masked.items()},
        "revealed": {str(step): list(names) for step, names in session.revealed.items()},
    }
    write_whole(state / FILE, json.dumps(content).encode(), mode=0o600)
    sync_folder(state)  # a key that was spent must not come back with the power


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    """Hold the file's lock: two processes of a site never spend the same key."""
    state.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(state / "secure_sum.lock", os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
