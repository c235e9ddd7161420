"""The server's half of a secure sum: one session of keys, and exchanges whose answers stay masked.

    secure_keys    every site shows public keys for the next WINDOW exchanges of the plan
    secure_shares  every site gets all public keys and gives sealed shares
    (the exchange) every site answers under its masks; the server adds what it cannot read
    secure_unmask  the sites whose answers arrived give shares; the masks come off the sum

A site that drops out of an exchange is left out of its sum and comes back in the next. Where too
few are left, the exchange is repeated in a new session: no key serves twice.
What crosses the hospital's boundary: public keys, sealed shares, masked answers.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from mfm_core.errors import TooFewSites, UpdateRejected
from mfm_core.sums import Schema
from strategies import wire
from strategies.answers import Answer
from strategies.checks import check_audit, check_heads
from strategies.collector import Identity, Pooled, check_counts
from strategies.plan import Step
from strategies.quantise import Grain
from strategies.rounds import Exchange, RoundRules, Site
from strategies.secret_shares import SHARE_BYTES
from strategies.secure_layout import (
    SEALED_BYTES,
    pack_about,
    pack_parts,
    pack_roster,
    request_hash,
    sealed_for,
    unpack_advert,
    unpack_parts,
)
from strategies.secure_payload import (
    HEADROOM,
    Form,
    Opened,
    SecureSumConfig,
    from_integers,
)
from strategies.secure_replies import Gathering, Keys, MaskedSum
from strategies.secure_sum import Roster, Told, masks_left
from strategies.wire import model_size

WINDOW = 50
"""Exchanges that one session has keys for."""


@dataclass(frozen=True)
class Session:
    """One session as the server knows it.

    Attributes:
        name: random, never used twice.
        first: position in the plan of the first exchange that it has keys for.
        roster: the sites and their public keys.
        shares: packed sealed shares by the site that made them; who made none cannot take part.
    """

    name: str
    first: int
    roster: Roster
    shares: Mapping[str, bytes]

    @property
    def steps(self) -> int:
        """Return how many exchanges it has keys for."""
        return len(self.roster.adverts[0].pairs)


def steps_from(plan: Sequence[Step], first: int) -> int:
    """Return for how many exchanges a session that begins at `first` has keys."""
    return max(0, min(WINDOW, len(plan) - first))


def grain_of(size: int, norm: float, config_hash: str, step: Step) -> Grain:
    """Return how the updates of an exchange become integers; its rotation is public."""
    text = f"{config_hash} {step.kind} {step.round}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return Grain(size, norm, seed)


def form_of(
    settings: SecureSumConfig,
    shapes: tuple[Schema | None, Schema | None],
    key: tuple[str, Step],
    terms: tuple[float, int],
) -> Form:
    """Return how the answers of an exchange are laid out, the same at both ends.

    Args:
        settings: of the agreed run.
        shapes: schema of the weights where an update is asked for, and of the Sum.
        key: hash of the agreed run and the exchange.
        terms: longest update and images of the largest site, as the server says.
    """
    model, total = shapes
    size = 0 if model is None else model_size(model)
    if not size or settings.updates == "exact":
        return Form(size, total)
    return Form(size, total, grain_of(size, terms[0], *key), terms[1])


Content = Callable[[str], wire.Payload]
"""What a site is sent, by its name."""


@dataclass(frozen=True)
class Sent:
    """What all sites are sent in one exchange: a content each, and words of the secure sum."""

    content: Content
    about: str = ""


class Ask(Protocol):
    """One exchange with its ledger line; raises TooFewSites after writing it."""

    def __call__(
        self,
        step: Step,
        sites: Sequence[Site],
        sent: Sent,
        gather: Gathering,
        rules: RoundRules,
    ) -> Exchange:
        """Return how it went; the line of a secure sum's own exchange is not written yet."""


class Groups(Protocol):
    """Keeps, over a resume, of which sites the sum of an exchange may have been opened.

    A repeat over another group would show the difference, so that sites refuse to open it.
    """

    def hold(self, step: Step, names: tuple[str, ...]) -> None:
        """Write down whose sum is about to be opened."""

    def held(self, step: Step) -> tuple[str, ...] | None:
        """Return whose sum may have been opened; None where none was."""


class SecureRounds:
    """Runs the exchanges of a plan as secure sums.

    Args:
        settings: of the agreed run.
        identity: what messages carry.
        plan: the run's exchanges, in order.
        rules: quorum and times.
        groups: of which sites each exchange has been opened.
        norm: longest update of the next round; None for the agreed first one.
    """

    def __init__(
        self,
        settings: SecureSumConfig,
        identity: Identity,
        plan: Sequence[Step],
        rules: RoundRules,
        groups: Groups,
        norm: float | None = None,
    ) -> None:
        self._settings, self._identity, self._plan, self._rules = settings, identity, plan, rules
        self._norm, self._groups = settings.first_norm if norm is None else norm, groups
        self._session: Session | None = None

    def note_in(self, groups: Groups) -> None:
        """Note elsewhere of which sites exchanges have been opened."""
        self._groups = groups

    def exchange(
        self,
        ask: Ask,
        step: Step,
        sites: Sequence[Site],
        request: tuple[wire.Payload, Answer, int],
    ) -> tuple[Pooled, Exchange]:
        """Return what all sites' answers add up to; single ones stay masked.

        Args:
            ask: makes one exchange.
            step: which exchange of the plan.
            sites: who can be reached.
            request: what is sent, what comes back, images of the largest site.

        Raises:
            TooFewSites: after the last attempt.
            UpdateRejected: the sum of the answers cannot come from their images.
        """
        for attempt in range(1, self._rules.attempts + 1):
            try:
                session = self._session_for(ask, step, sites)
                return self._sum(ask, session, step, (sites, request))
            except TooFewSites:
                self._session = None  # no key serves twice
                if attempt == self._rules.attempts:
                    raise
        raise AssertionError("at least one attempt is made")

    def _session_for(self, ask: Ask, step: Step, sites: Sequence[Site]) -> Session:
        """Return the session in hand, or a new one where none has unused keys for this exchange."""
        position, held = self._plan.index(step), self._session
        if held is not None and position - held.first < held.steps:
            return held
        self._session = self._begin(ask, position, sites)
        return self._session

    def _begin(self, ask: Ask, first: int, sites: Sequence[Site]) -> Session:
        name, steps = secrets.token_hex(16), steps_from(self._plan, first)
        rules = self._rules.model_copy(update={"attempts": 1, "quorum": self._fewest})
        keys = Keys(
            self._identity, Step("secure_keys"), lambda site, got: unpack_advert(site, steps, got)
        )
        about = {"session": name, "first": first}
        ask(Step("secure_keys"), sites, Sent(_all(wire.Payload()), pack_about(about)), keys, rules)
        roster = Roster(name, tuple(keys.found.values()))
        size = len(roster.names) * steps * SEALED_BYTES
        shares = Keys(self._identity, Step("secure_shares"), lambda site, got: _of_size(got, size))
        content = _all(wire.Payload(sealed=pack_roster(keys.found)))
        about = {**about, "names": roster.names}
        there = tuple(site for site in sites if site.name in roster.names)
        rules = rules.model_copy(update={"quorum": max(roster.threshold, self._fewest)})
        ask(Step("secure_shares"), there, Sent(content, pack_about(about)), shares, rules)
        return Session(name, first, roster, shares.found)

    def _sum(
        self,
        ask: Ask,
        session: Session,
        step: Step,
        what: tuple[Sequence[Site], tuple[wire.Payload, Answer, int]],
    ) -> tuple[Pooled, Exchange]:
        sites, (payload, answer, largest) = what
        group = self._groups.held(step)
        there = tuple(
            s for s in sites if s.name in session.shares and s.name in (group or (s.name,))
        )
        names = tuple(sorted(site.name for site in there))
        fewest = max(self._fewest, session.roster.threshold)
        if missing := sorted(set(group or ()) - set(names)):
            raise TooFewSites(
                f"{step.kind}: shares for the sum of {', '.join(group or ())} have been asked for, "
                f"so that sites open this exchange for no other group; {', '.join(missing)} "
                "cannot be reached. Start those nodes and resume, or agree on a new run"
            )
        if len(names) < fewest:
            raise TooFewSites(
                f"{step.kind}: {len(names)} sites with keys can be reached, a secure sum of "
                f"{len(session.roster.names)} needs {fewest}; start the other nodes and resume"
            )
        terms = (self._norm, largest)
        form = self._form(step, answer, terms)
        about = {
            "session": session.name, "first": session.first, "participants": names,
            "norm": terms[0], "largest": terms[1],
        }  # fmt: skip
        masked = MaskedSum(self._identity, step, answer, (form, names))
        rules = self._rules.model_copy(update={"attempts": 1, "quorum": fewest})
        sent = Sent(_all(payload), pack_about(about))
        went = ask(step, there, sent, masked, rules)
        told = Told(self._plan.index(step) - session.first, names, tuple(sorted(masked.of_site)))
        self._groups.hold(step, told.survivors)
        revealed = self._unmask(ask, session, told, there)
        request = self._request_hash(step, payload, sent.about)
        left, liars = masks_left(session.roster, told, revealed, form.sizes, request)
        opened = from_integers(form, masked.total.minus(left))
        self._check(step, opened, told.survivors)
        self._norm = HEADROOM * opened.norm if opened.norm > 0 else self._norm
        return self._pooled(opened, len(told.survivors)), _with_liars(went, liars)

    def _form(self, step: Step, answer: Answer, terms: tuple[float, int]) -> Form:
        model = self._identity.update if answer.update else None
        key = (self._identity.config_hash, step)
        return form_of(self._settings, (model, answer.total), key, terms)

    def _request_hash(self, step: Step, payload: wire.Payload, about: str) -> str:
        header = self._identity.compose(step, payload, about).config_records[wire.HEADER]
        agreed = self._identity.config_hash, step.kind, step.round
        return request_hash(agreed, str(header["payload_hash"]), about)

    def _unmask(
        self, ask: Ask, session: Session, told: Told, sites: Sequence[Site]
    ) -> Mapping[str, Mapping[str, bytes]]:
        """Return the shares of the survivors' masks, by the site that gave them."""
        inboxes = {
            name: wire.Payload(
                sealed=pack_parts(
                    {
                        sender: sealed_for(
                            session.shares[sender], session.roster.names, name, told.step
                        )
                        for sender in told.participants
                    }
                )
            )
            for name in told.survivors
        }
        gather = Keys(
            self._identity,
            Step("secure_unmask"),
            lambda site, got: unpack_parts(told.participants, got, SHARE_BYTES),
        )
        about = {
            "session": session.name, "first": session.first, "step": told.step,
            "participants": told.participants, "survivors": told.survivors,
        }  # fmt: skip
        there = tuple(site for site in sites if site.name in told.survivors)
        update = {"quorum": session.roster.threshold}
        rules = self._rules.model_copy(update=update)
        sent = Sent(inboxes.__getitem__, pack_about(about))
        ask(Step("secure_unmask"), there, sent, gather, rules)
        return gather.found

    def _check(self, step: Step, opened: Opened, sites: Sequence[str]) -> None:
        """Refuse a sum that no honest answers give; whose fault it is cannot be seen."""
        limits, kind = self._identity.limits, step.kind
        try:
            _check_range(opened, limits.max_site_images * len(sites), limits.max_update_norm)
            if opened.update is not None:
                norm = float(np.linalg.norm(opened.update))
                if not math.isfinite(norm) or norm > limits.max_update_norm:
                    raise UpdateRejected("norm", f"the mean update has a norm of {norm:g}")
            if opened.total is None:
                return
            if kind == "audit":
                check_audit(opened.total, opened.images)
            elif kind == "mitigate":
                check_heads(opened.total, opened.images, limits.max_update_norm)
            else:
                largest = limits.max_site_images * len(sites)
                check_counts(kind, opened.total, opened.images, largest)
        except UpdateRejected as error:
            raise UpdateRejected(
                error.reason,
                f"{kind}: one of {', '.join(sites)} sent numbers that cannot be ({error}); a "
                "secure sum hides which, so run with secure_sum.enabled: false to find it",
            ) from None

    def _pooled(self, opened: Opened, sites: int) -> Pooled:
        return Pooled(opened.images, opened.update, opened.total, {}, self._norm, sites)

    @property
    def _fewest(self) -> int:
        return max(self._settings.min_sites, self._rules.quorum)


def _check_range(opened: Opened, most: int, max_norm: float) -> None:
    """Refuse images and norms that no sites can have; they scale everything else."""
    if not 0 <= opened.images <= most:
        raise UpdateRejected("weight", f"{opened.images} images, expected 0 to {most}")
    if not 0 <= opened.norm <= max_norm:
        raise UpdateRejected("norm", f"updates of norm {opened.norm:g}, agreed are {max_norm:g}")


def _all(payload: wire.Payload) -> Content:
    return lambda name: payload


def _of_size(content: bytes, size: int) -> bytes:
    if len(content) != size:
        raise UpdateRejected("shares", f"expected {size} bytes of shares, found {len(content)}")
    return content


def _with_liars(went: Exchange, liars: Sequence[str]) -> Exchange:
    """Return the exchange with those named who gave wrong shares; their numbers are in the sum."""
    named = {name: "rejected:shares" for name in liars}
    return replace(went, outcomes={**went.outcomes, **named})
