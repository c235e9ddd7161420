"""The site's half of a secure sum: shows keys, seals shares, masks its answers, opens its part.

The masks and keys are held by the process that holds the outbox, never by the one that computes.
What is agreed (`secure_sum` of the run) is done and nothing less: an exchange that should be masked
and comes without a session is refused, and so are keys in a run without a secure sum.
What crosses the hospital's boundary: public keys, sealed shares, masked answers, shares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from client.outbox import Seal
from client.secret import secret_seed
from client.secure_opened import check_open_for, note_open
from client.secure_peers import check_peers, sign_advert
from client.secure_session import (
    begin_session,
    check_session,
    fix_roster,
    spend_mask,
    spend_shares,
)
from client.site import Site
from mfm_core.errors import LimitRefusal, UpdateRejected
from mfm_core.whole_file import write_whole
from strategies.answers import Answer
from strategies.plan import KEYS, MASKED, Kind, Step, plan_of
from strategies.secure_layout import (
    SEALED_BYTES,
    pack_advert,
    pack_parts,
    pack_roster,
    pack_shares,
    request_hash,
    told_of,
    unpack_about,
    unpack_parts,
    unpack_roster,
)
from strategies.secure_payload import to_integers
from strategies.secure_rounds import form_of, steps_from
from strategies.secure_sum import (
    Roster,
    advertise,
    check_participants,
    check_told,
    mask,
    reveal,
    share_secrets,
)
from strategies.wire import Payload

ROSTER = "secure_roster.json"

SESSION = {"session": str, "first": int}
ABOUT: Mapping[str, Mapping[str, type]] = {
    "secure_keys": SESSION,
    "secure_shares": {**SESSION, "names": tuple},
    "secure_unmask": {**SESSION, "step": int, "participants": tuple, "survivors": tuple},
    "masked": {**SESSION, "participants": tuple, "norm": float, "largest": int},
}
"""What the header of a message says, by exchange."""


def check_agreed(site: Site, kind: Kind, about: str) -> None:
    """Refuse what the agreed run does not have: keys without a secure sum, or the reverse.

    Raises:
        UpdateRejected: "plan" or "secure".
        LimitRefusal: the site gives answers under masks only.
    """
    agreed = site.run.secure_sum.enabled
    if kind in KEYS and not agreed:
        raise UpdateRejected("plan", f"{kind} is no step of a run without a secure sum")
    if kind in MASKED and agreed != bool(about):
        raise UpdateRejected("secure", f"{kind}: a secure sum was agreed, or was not; see run.yaml")
    if kind in MASKED and not agreed and site.config.limits.require_secure_sum:
        raise LimitRefusal(f"{kind}: limits.require_secure_sum lets masked answers leave only")


def answer_keys(site: Site, kind: Kind, about: str, sealed: bytes) -> Payload:
    """Return what a site says in an exchange of keys.

    Raises:
        UpdateRejected: the message does not belong to the session, or asks for too much.
    """
    told = unpack_about(about, ABOUT[kind])
    makers = {"secure_keys": _keys, "secure_shares": _shares, "secure_unmask": _unmask}
    return Payload(sealed=makers[kind](site, told, sealed))


def seal_for(site: Site, step: Step, answer: Answer, asked: tuple[str, str]) -> Seal:
    """Return what masks the answer to one exchange; its keys are spent when it is called.

    Args:
        site: whose answer.
        step: the exchange.
        answer: what was agreed to leave.
        asked: what the header said of the secure sum, and the hash of the arrays that came.

    Raises:
        UpdateRejected: the exchange is none of the session's, its group is too small, or it was
            opened for another group before.
    """
    about, arrays = asked
    told = unpack_about(about, ABOUT["masked"])
    position = plan_of(site.run).index(step) - told["first"]
    roster = _roster(site, told)
    names, fewest = told["participants"], _fewest(site)
    check_participants(roster, site.config.name, names, fewest)
    check_open_for(site.config.state_folder, (site.config_hash, step), names)
    if not 0 <= position < len(roster.adverts[0].pairs):
        raise UpdateRejected("session", f"the session has no keys for {step.kind} {step.round}")
    most = site.run.aggregation.max_site_images
    if not (0 < told["norm"] < 1e9 and 1 <= told["largest"] <= most):
        raise UpdateRejected("secure", "norm or largest are outside what a run can have")
    model = site.update_schema if answer.update else None
    form = form_of(
        site.run.secure_sum,
        (model, answer.total),
        (site.config_hash, step),
        (told["norm"], told["largest"]),
    )
    state = site.config.state_folder
    request = request_hash((site.config_hash, step.kind, step.round), arrays, about)

    def seal(images: int, payload: Payload) -> Payload:
        rounding = np.random.default_rng(secret_seed(state, f"rounding {site.config_hash} {step}"))
        plain = to_integers(form, images, payload, rounding)
        keys = spend_mask(state, told["session"], site.config.name, position, names)
        return Payload(masked=mask(keys, roster, position, (names, request), plain))

    return seal


def _keys(site: Site, told: Mapping[str, Any], sealed: bytes) -> bytes:
    steps = steps_from(plan_of(site.run), told["first"])
    if steps < 1 or told["first"] < 0:
        raise UpdateRejected("session", "the session begins outside the plan of the run")
    state, name = site.config.state_folder, site.config.name
    keys = begin_session(state, told["session"], name, told["first"])
    return pack_advert(sign_advert(site, told["session"], advertise(keys, steps)))


def _shares(site: Site, told: Mapping[str, Any], sealed: bytes) -> bytes:
    name, state = site.config.name, site.config.state_folder
    steps = steps_from(plan_of(site.run), told["first"])
    roster = Roster(told["session"], unpack_roster(told["names"], steps, sealed))
    if name not in roster.names or len(roster.names) < _fewest(site):
        raise UpdateRejected("roster", f"{len(roster.names)} sites, or this one is not among them")
    check_peers(site, roster)
    keys = fix_roster(state, told["session"], name, told["first"], roster.hash)
    if advertise(keys, steps) != replace(roster.of(name), public=b"", signature=b""):
        raise UpdateRejected("roster", "the roster shows other keys for this site than its own")
    adverts = {advert.site: advert for advert in roster.adverts}
    content = {"names": list(roster.names), "adverts": pack_roster(adverts).hex()}
    write_whole(state / ROSTER, json.dumps(content).encode())
    return pack_shares(share_secrets(keys, roster))


def _unmask(site: Site, told: Mapping[str, Any], sealed: bytes) -> bytes:
    story, roster = told_of(told), _roster(site, told)
    inbox = unpack_parts(story.participants, sealed, SEALED_BYTES)
    name, state = site.config.name, site.config.state_folder
    check_told(roster, name, story, _fewest(site))
    keys = spend_shares(state, told["session"], name, story)
    step = plan_of(site.run)[told["first"] + story.step]
    note_open(state, (site.config_hash, step), story.survivors)
    return pack_parts(reveal(keys, roster, story, inbox, _fewest(site)))


def _roster(site: Site, told: Mapping[str, Any]) -> Roster:
    """Return the roster that this site shared its secrets with.

    Raises:
        UpdateRejected: "session" or "roster"; there is none of this session.
    """
    path: Path = site.config.state_folder / ROSTER
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        names, content = tuple(found["names"]), bytes.fromhex(found["adverts"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UpdateRejected("session", "this site has no roster; begin a new session") from None
    steps = steps_from(plan_of(site.run), told["first"])
    roster = Roster(told["session"], unpack_roster(names, steps, content))
    state, name = site.config.state_folder, site.config.name
    check_session(state, told["session"], name, told["first"], roster.hash)
    return roster


def _fewest(site: Site) -> int:
    return max(site.run.secure_sum.min_sites, site.config.limits.min_secure_sites)
