"""One exchange with every admitted site: ask, wait, check each reply as it arrives, name outcomes.

Flower's own loop waits for silent sites up to an hour and for missing ones for ever, holds every
reply and reports no one by name. This one knows whom it may ask, waits for a quorum until a
deadline and for the rest until a grace has passed, hands each reply over as soon as it is there
(one is held at a time) and ends with one outcome per site:

    ok                 the reply passed every check and was added
    rejected:<reason>  it failed a check of `wire` (nan, shape, norm, code, ...)
    refused:<word>     the site's own limits or outbox said no
    error:<word|code>  the site failed: our coded word or Flower's error code
    no-reply           nothing came before the deadline or the end of the grace
    not-sent           Flower could not take the message
    offline            the site was admitted but could not be reached
    left-out           it could be reached, but has no keys in the session of a secure sum, or no
                       answer in the sum that is opened

What crosses the hospital's boundary: the records of `wire`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from pydantic import Field, model_validator

from mfm_core.config import Part
from mfm_core.errors import TooFewSites, UpdateRejected
from strategies import wire
from strategies.looking import replies_of

REFUSED, FAILED = 1001, 1002
"""Codes of our own Flower error replies: the site said no, the site could not."""

WORD = re.compile(r"[a-z_]{1,20}")
TTL_MARGIN_S = 60.0
SHORTEST_S, LOOK_SHARE = 0.1, 0.05
"""Between two looks for replies: this, or this share of the time since the sites were asked, up to
`poll_s`. A look is work for Flower's SuperLink, one process that everybody waits for."""


class RoundRules(Part):
    """Whom to ask, how many must answer and how long to wait."""

    sites: tuple[str, ...] = Field(
        (), description="Admitted sites by name; empty only in simulation, where all are admitted."
    )
    simulated_sites: int | None = Field(
        None, ge=1, description="Simulation: number of virtual sites; they name themselves."
    )
    quorum: int = Field(2, ge=1, description="Sites whose replies a round needs.")
    deadline_s: float = Field(3600.0, gt=0, description="Longest wait for replies, seconds.")
    grace_s: float = Field(600.0, ge=0, description="Wait for the rest after the quorum, seconds.")
    attempts: int = Field(3, ge=1, le=20, description="Times a round is asked before giving up.")
    node_wait_s: float = Field(300.0, ge=0, description="Longest wait for sites to appear, s.")
    poll_s: float = Field(
        1.0, gt=0, le=60, description="Longest pause between looks for replies, s."
    )

    @model_validator(mode="after")
    def _sites_suffice(self) -> RoundRules:
        if len(set(self.sites)) != len(self.sites):
            raise ValueError("sites: a name stands twice")
        if not self.sites and self.simulated_sites is None:
            raise ValueError("sites: name the admitted sites (or simulated_sites in a simulation)")
        available = self.simulated_sites or len(self.sites)
        if self.quorum > available:
            raise ValueError(f"quorum is {self.quorum}, but only {available} sites can answer")
        return self


@dataclass(frozen=True)
class Site:
    """One site as Flower reaches it; `name` is empty until a simulated site has said hello."""

    node_id: int
    name: str = ""

    @property
    def label(self) -> str:
        """Return the name, or a stand-in for a site that has not introduced itself."""
        return self.name or f"unnamed-{self.node_id}"


@dataclass(frozen=True)
class Exchange:
    """How one exchange went.

    Attributes:
        outcomes: label to outcome, sorted by label.
        sent: label to bytes that the site sent.
        attempts: times the sites were asked.
        seconds: wall time.
        arrived: label to the hash of the arrays that arrived and the ledger line they name, for
            replies that were taken or rejected.
    """

    outcomes: Mapping[str, str]
    sent: Mapping[str, int]
    attempts: int
    seconds: float
    arrived: Mapping[str, tuple[str, str]] = field(default_factory=dict)


Request = tuple[str, Callable[["Site"], RecordDict], str]
"""Flower's message type, what makes the content for a site, and the group id (the round)."""


Accept = Callable[[Site, RecordDict], None]
"""Checks and adds one reply; raises UpdateRejected."""


def find_sites(
    grid: Grid, rules: RoundRules, names: Mapping[int, str], wait_for: int
) -> tuple[Site, ...]:
    """Return the admitted sites that are reachable, waiting until `wait_for` are, or too long.

    Args:
        grid: Flower's grid.
        rules: admitted names and waiting times.
        names: node id to name of simulated sites that have introduced themselves.
        wait_for: number of sites after which there is no further waiting.

    Raises:
        TooFewSites: fewer than the quorum after `node_wait_s`.
    """
    stop_at = time.monotonic() + rules.node_wait_s
    while True:
        sites = _reachable(grid, rules, names)
        if len(sites) >= wait_for:
            return sites
        if time.monotonic() >= stop_at:
            break
        time.sleep(min(rules.poll_s, max(0.0, stop_at - time.monotonic())))
    if len(sites) < rules.quorum:
        found = ", ".join(site.label for site in sites) or "none"
        missing = ", ".join(sorted(set(rules.sites) - {site.name for site in sites})) or "others"
        raise TooFewSites(
            f"found {len(sites)} sites after {rules.node_wait_s:g} s ({found}); the quorum is "
            f"{rules.quorum}; start the nodes of {missing} and resume the run"
        )
    return sites


def _reachable(grid: Grid, rules: RoundRules, names: Mapping[int, str]) -> tuple[Site, ...]:
    nodes = sorted(grid.get_nodes(), key=lambda node: node.node_id)
    if rules.simulated_sites is not None:
        known = [node.node_id for node in nodes if not names or node.node_id in names]
        return tuple(Site(node_id, names.get(node_id, "")) for node_id in known)
    online = [node for node in nodes if node.name in rules.sites and node.status in ("", "online")]
    return tuple(sorted((Site(n.node_id, n.name) for n in online), key=lambda site: site.name))


@dataclass
class _Round:
    """The changing state of one exchange."""

    accept: Accept
    outcomes: dict[str, str] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    arrived: dict[str, tuple[str, str]] = field(default_factory=dict)

    def count(self) -> int:
        return sum(outcome == "ok" for outcome in self.outcomes.values())

    def take(self, site: Site, reply: Message | Error | None) -> None:
        """Judge one reply and keep nothing of it but its outcome and size."""
        if reply is None:  # Flower could not put it together
            self.outcomes[site.label] = "rejected:record"
            return
        if isinstance(reply, Error) or reply.has_error():
            error = reply if isinstance(reply, Error) else reply.error
            self.outcomes[site.label] = _describe_error(error)
            return
        self.sent[site.label] = wire.record_bytes(reply.content)
        if (found := wire.declared(reply.content)) is not None:
            self.arrived[site.label] = found
        try:
            self.accept(site, reply.content)
        except UpdateRejected as error:
            self.outcomes[site.label] = f"rejected:{error.reason}"
        else:
            self.outcomes[site.label] = "ok"


def _describe_error(error: Error) -> str:
    """Return the outcome of an error reply; only our own closed words are repeated."""
    code, reason = error.code, error.reason or ""
    if code in (REFUSED, FAILED) and WORD.fullmatch(reason):
        return f"{'refused' if code == REFUSED else 'error'}:{reason}"
    return f"error:{code}"


def exchange(
    grid: Grid,
    sites: Iterable[Site],
    request: Request,
    accept: Accept,
    rules: RoundRules,
    report: Callable[[str], None] = lambda text: None,
) -> Exchange:
    """Ask every site once, and those that did not answer again while the quorum is missing.

    Args:
        grid: Flower's grid.
        sites: whom to ask.
        request: what each is asked.
        accept: called with each reply as it arrives; raises UpdateRejected.
        rules: quorum and times.
        report: called with a short line whenever a site has answered.

    Raises:
        TooFewSites: fewer than the quorum were added after the last attempt.
    """
    start, state, asked = time.monotonic(), _Round(accept), tuple(sites)
    attempts, again = 0, asked
    while state.count() < rules.quorum and attempts < rules.attempts and again:
        if attempts:
            _await_return(grid, again, rules, rules.quorum - state.count())
        attempts += 1
        _ask_once(grid, again, request, state, rules, report)
        again = tuple(site for site in asked if _may_ask_again(state.outcomes[site.label]))
    outcomes, sent = dict(sorted(state.outcomes.items())), dict(sorted(state.sent.items()))
    seconds = time.monotonic() - start
    went = Exchange(outcomes, sent, attempts, seconds, dict(sorted(state.arrived.items())))
    if state.count() < rules.quorum:
        lines = ", ".join(f"{label} {outcome}" for label, outcome in outcomes.items())
        raise TooFewSites(
            f"{request[0]} {request[2]}: {state.count()} of {len(asked)} sites answered usably "
            f"after {attempts} attempts, the quorum is {rules.quorum}: {lines}; mend the named "
            "sites and resume the run",
            went,
        )
    return went


def _await_return(grid: Grid, sites: tuple[Site, ...], rules: RoundRules, enough: int) -> None:
    """Wait, `node_wait_s` at most, until enough of some sites can be reached again.

    Flower answers at once for a node that is away (error 5); without the wait every attempt would
    be gone before a node that was killed is let in again, which takes a minute or two.
    """
    wanted = {site.node_id for site in sites}
    stop_at = time.monotonic() + rules.node_wait_s
    while time.monotonic() < stop_at:
        here = {site.node_id for site in _reachable(grid, rules, {})}
        if len(here & wanted) >= min(enough, len(wanted)):
            return
        time.sleep(min(rules.poll_s, max(0.0, stop_at - time.monotonic())))


def _may_ask_again(outcome: str) -> bool:
    """Return whether another try can help: not after a rejection, a refusal or success."""
    return outcome in ("no-reply", "not-sent") or outcome.startswith("error:")


def _ask_once(
    grid: Grid,
    sites: tuple[Site, ...],
    request: Request,
    state: _Round,
    rules: RoundRules,
    report: Callable[[str], None],
) -> None:
    pending = _push(grid, sites, request, rules.deadline_s + TTL_MARGIN_S)
    for site in sites:
        state.outcomes[site.label] = "not-sent"
    for site in pending.values():
        state.outcomes[site.label] = "no-reply"
    begun, replies = time.monotonic(), replies_of(grid)
    stop_at, in_grace, asked = begun + rules.deadline_s, False, dict(pending)
    while pending:
        for message_id, reply in replies.look(pending):
            site = asked[message_id]
            pending.pop(message_id, None)  # a site may send two
            state.take(site, reply)
            report(f"{site.label}: {state.outcomes[site.label]}; {len(pending)} to come")
        if not in_grace and state.count() >= rules.quorum:
            in_grace, stop_at = True, min(stop_at, time.monotonic() + rules.grace_s)
        now = time.monotonic()
        if not pending or now >= stop_at:
            return
        pause = max(SHORTEST_S, LOOK_SHARE * (now - begun))
        time.sleep(min(pause, rules.poll_s, stop_at - now))


def _push(grid: Grid, sites: tuple[Site, ...], request: Request, ttl_s: float) -> dict[str, Site]:
    """Send one message per site; return those Flower took, by message id."""
    message_type, compose, group = request
    pending: dict[str, Site] = {}
    for site in sites:
        message = Message(compose(site), site.node_id, message_type, ttl=ttl_s, group_id=group)
        for message_id in grid.push_messages([message]):
            if message_id:
                pending[message_id] = site
    return pending
