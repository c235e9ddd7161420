"""The engine of a run: one phase after the other, each one exchange with every site.

`PhasedStrategy` is a Flower Strategy with its own `start`: for every phase it composes one
message, hands each reply as it arrives to a `collector` that checks and adds it, lets the phase
turn the pooled result into the next state, and has a journal keep that state before it goes on.
What a phase asks and makes of the answers is the server's business (`server.phases`).

What crosses the hospital's boundary: nothing here; replies come as records of `wire`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from numpy.typing import NDArray

from mfm_core.errors import TooFewSites, UpdateRejected
from mfm_core.sums import Sum
from strategies import wire
from strategies.aggregation import ServerState
from strategies.answers import Answer
from strategies.central_rounds import CentralRounds, Paying
from strategies.collector import Collector, Identity, Pooled
from strategies.plan import KEYS, MASKED, MESSAGE_TYPES, Kind, Step
from strategies.receipts import Receipts
from strategies.rounds import Exchange, Request, RoundRules, Site, exchange, find_sites
from strategies.secure_replies import Gathering
from strategies.secure_rounds import SecureRounds, Sent

log = logging.getLogger("flwr.mfm")

NORM = "secure_norm"
"""The fact that keeps a quantised secure sum going after a resume."""

CLOSING_S = 60.0
"""Longest wait for answers to the last receipts; they have arrived by then, answered or not."""


@dataclass(frozen=True)
class RunState:
    """All that a run has come to: a checkpoint is exactly this.

    Attributes:
        done: phases finished.
        weights: `[D] float32` global weights.
        server: the server optimiser's memory.
        sums: pooled sums of finished phases that later ones need, by kind.
        facts: JSON-ready findings for the report, by kind.
    """

    done: int
    weights: NDArray[np.float32]
    server: ServerState
    sums: Mapping[str, Sum] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class Phase(Protocol):
    """One exchange and what the server makes of it."""

    @property
    def step(self) -> Step:
        """Kind and round."""

    def request(self, state: RunState) -> wire.Payload:
        """Return what every site is sent."""

    def answer(self, state: RunState) -> Answer:
        """Return what every site must reply."""

    def note(self, total: Sum | None, images: int) -> dict[str, Any]:
        """Return the facts kept of one site's reply, JSON-ready."""

    def finish(self, state: RunState, pooled: Pooled) -> tuple[RunState, dict[str, Any]]:
        """Return the next state (`done` is raised by the engine) and facts for the ledger line."""


class Journal(Protocol):
    """Where a run writes down how far it is."""

    def report(self, step: Step, done: int, phases: int, text: str) -> None:
        """Show progress."""

    def write(self, line: dict[str, Any]) -> str:
        """Append the ledger line of an exchange and return its hash."""

    def keep(self, state: RunState) -> None:
        """Store the state after a finished phase, together with the ledger so far."""

    def hold(self, step: Step, names: tuple[str, ...]) -> None:
        """Write down whose sum is about to be opened (`secure_rounds.Groups`)."""

    def held(self, step: Step) -> tuple[str, ...] | None:
        """Return whose sum of an exchange may have been opened; None where none was."""

    def draw(self, step: Step, facts: Mapping[str, Any]) -> int:
        """Write down that a noisy sum is about to be made (`central_rounds.Draws`)."""


class PhasedStrategy(Strategy):
    """Runs the phases of a run from where its state says, and keeps every step.

    Args:
        phases: all phases of the run, in order; the first must be hello, which is repeated at
            every start because names and code must be checked again.
        identity: what messages carry.
        rules: quorum and times.
        journal: where each finished phase is kept.
        state: where to begin.
        receipts: what the sites are owed from before; unsigned and none when left out.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        identity: Identity,
        rules: RoundRules,
        journal: Journal,
        state: RunState,
        receipts: Receipts | None = None,
    ) -> None:
        self.hello, self.phases = phases[0], tuple(phases[1:])
        self.identity, self.rules, self.journal, self.state = identity, rules, journal, state
        self.receipts = receipts or Receipts((identity.config_hash, identity.code_hash))
        self._names: dict[int, str] = {}
        self._reached: set[str] = set()
        self._collector: Collector | None = None
        self._largest, self._secure = 1, None
        self._central: CentralRounds | None = None
        self._opened: list[dict[str, Any]] = []
        if identity.secure is not None:
            plan = tuple(phase.step for phase in self.phases)
            norm = state.facts.get(NORM)
            self._secure = SecureRounds(identity.secure, identity, plan, rules, journal, norm)

    def protect(self, central: CentralRounds) -> None:
        """Add the noise of central DP to the sum of every training round; before `start`."""
        self._central = central
        if self._secure is not None:
            self._secure.note_in(Paying(self.journal, central))

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 0,
        timeout: float = 0.0,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Return the final weights after running every phase that is not done.

        `initial_arrays` holds the weights to begin with under "model"; rounds, times and settings
        come from the agreed run, so Flower's other arguments are not used.

        Raises:
            TooFewSites: a phase did not reach its quorum; the state before it is kept and the
                ledger names who was asked and the outcomes, until a resume repeats the phase.
        """
        self.state = replace(self.state, weights=initial_arrays[wire.MODEL].numpy())
        self.summary()
        self.state = self._run(grid, self.hello)
        for phase in self.phases[self.state.done :]:
            state = self._run(grid, phase)
            self.state = replace(state, done=self.state.done + 1)
            self.journal.keep(self.state)
        self._close(grid)
        return Result(arrays=_record(self.state.weights))

    def _run(self, grid: Grid, phase: Phase) -> RunState:
        """Return the state after one phase; its ledger line is written."""
        try:
            pooled, went = self._exchange(grid, phase)
            state, facts = self._finish(phase, pooled)
            if pooled.norm > 0:
                state = replace(state, facts={**state.facts, NORM: pooled.norm})
            self._enter(_ledger_line(phase.step, went, pooled, facts))
        finally:
            opened, self._opened = self._opened, []
            for line in opened:
                self._enter(line)
        where = f"{phase.step.kind} {phase.step.round or ''}".strip()
        answers = ", ".join(f"{site} {outcome}" for site, outcome in went.outcomes.items())
        log.info("%s: %.1f s; %s; %s", where, went.seconds, answers, _brief(facts))
        return state

    def _enter(self, line: dict[str, Any]) -> None:
        """Write a line of the ledger, for which its sites are owed receipts."""
        self.receipts.note({**line, "hash": self.journal.write(line)})

    def _finish(self, phase: Phase, pooled: Pooled) -> tuple[RunState, dict[str, Any]]:
        """Return what a phase makes of the answers; of a noisy sum where central DP is agreed."""
        if self._central is None or phase.step.kind != "train":
            return phase.finish(self.state, pooled)
        facts, noisy = self._central.shield(phase.step, self.state.facts, pooled)
        state, own = phase.finish(replace(self.state, facts=facts), noisy)
        return state, {**own, **self._central.line(facts)}

    def _close(self, grid: Grid) -> None:
        """Bring every site the receipts of the last exchange; the run is complete without it."""
        step, limit = Step("receipts"), min(CLOSING_S, self.rules.deadline_s)
        changed = {"attempts": 1, "deadline_s": limit, "grace_s": limit, "node_wait_s": 0.0}
        rules = self.rules.model_copy(update=changed)
        collector = Collector(self.identity, step, Answer(), lambda total, images: {})
        try:
            sites = find_sites(grid, rules, self._names, 0)
            request = self._request(step, Sent(lambda name: wire.Payload()))
            went = exchange(grid, sites, request, collector.add, rules)
        except TooFewSites as error:
            log.warning("not every site has its last receipts: %s", error)
            return
        log.info("receipts: %s", ", ".join(f"{s} {o}" for s, o in went.outcomes.items()))

    def _request(self, step: Step, sent: Sent) -> Request:
        """Return what is sent: a content, encoded once for all who share it, and own receipts."""
        made: dict[int, RecordDict] = {}

        def compose(site: Site) -> RecordDict:
            name = self._names.get(site.node_id, site.name)
            payload = sent.content(name)
            if id(payload) not in made:
                made[id(payload)] = self.identity.compose(step, payload, sent.about)
            return self.receipts.attach(made[id(payload)], name)

        return MESSAGE_TYPES[step.kind], compose, str(step.round)

    def summary(self) -> None:
        """Log what is about to run."""
        log.info(
            "run %.12s, code %.12s: %d of %d phases done, quorum %d",
            self.identity.config_hash,
            self.identity.code_hash,
            self.state.done,
            len(self.phases),
            self.rules.quorum,
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one training message per reachable site, for Flower's own loop."""
        self.state = replace(self.state, weights=arrays[wire.MODEL].numpy())
        phase = self._training(server_round)
        self._collector = self._collect(phase)
        content = self.identity.compose(phase.step, phase.request(self.state))
        return [
            Message(content, site.node_id, MESSAGE_TYPES["train"], group_id=str(server_round))
            for site in self._find(grid)
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next weights from the replies that pass every check, None below the quorum."""
        collector, accepted = self._collector, 0
        if collector is None:
            return None, None
        for reply in replies:
            try:
                if not reply.has_error():
                    node = reply.metadata.src_node_id
                    collector.add(Site(node, self._names.get(node, "")), reply.content)
                    accepted += 1
            except UpdateRejected as error:
                log.warning("a reply was rejected: %s", error.reason)
        if accepted < self.rules.quorum:
            return None, None
        pooled = collector.result()
        self.state, _ = self._finish(self._training(server_round), pooled)
        return _record(self.state.weights), MetricRecord({"num-images": pooled.images})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return no message: evaluation travels in the training message, which costs nothing."""
        return ()

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return None: see `configure_evaluate`."""
        return None

    def _training(self, number: int) -> Phase:
        return next(phase for phase in self.phases if phase.step == Step("train", number))

    def _find(self, grid: Grid) -> tuple[Site, ...]:
        everyone = self.rules.simulated_sites or len(self.rules.sites)
        wait_for = self.rules.quorum if self._names else everyone
        return find_sites(grid, self.rules, self._names, wait_for)

    def _collect(self, phase: Phase) -> Collector:
        return Collector(self.identity, phase.step, phase.answer(self.state), phase.note)

    def _exchange(self, grid: Grid, phase: Phase) -> tuple[Pooled, Exchange]:
        """Return what the replies of one phase add up to, and how it went."""
        step, ask = phase.step, partial(self._ask, grid)
        self.journal.report(step, self.state.done, len(self.phases), "waiting for sites")
        sites, payload = self._find(grid), phase.request(self.state)
        self._reached = {site.name for site in sites}
        if self._secure is not None and step.kind in MASKED:
            request = (payload, phase.answer(self.state), self._largest)
            return self._secure.exchange(ask, step, sites, request)
        collector = self._collect(phase)
        went = ask(step, sites, Sent(lambda name: payload), collector, self.rules)
        pooled = collector.result()
        if step.kind == "hello":
            self._largest = max(1, *(int(noted["images"]) for noted in pooled.of_site.values()))
        return pooled, went

    def _ask(
        self,
        grid: Grid,
        step: Step,
        sites: Sequence[Site],
        sent: Sent,
        gather: Gathering,
        rules: RoundRules,
    ) -> Exchange:
        """Return how one exchange went; a failed one and one of keys are in the ledger by then."""

        def report(text: str) -> None:
            self.journal.report(step, self.state.done, len(self.phases), text)

        report(f"asked {len(sites)} sites")
        try:
            went = exchange(grid, sites, self._request(step, sent), gather.add, rules, report)
        except TooFewSites as error:
            self._names.update(gather.names)
            went, facts = self._with_names(error.went, sites), {"failed": error.code}
            self.journal.write(_ledger_line(step, went, gather.result(), facts))
            raise
        self._names.update(gather.names)
        went = self._with_names(went, sites)
        if step.kind in KEYS:
            line = _ledger_line(step, went, gather.result(), {})
            if step.kind == "secure_unmask":
                self._opened.append(line)  # after the line of the exchange that it opens
            else:
                self._enter(line)
        return went

    def _with_names(self, went: Exchange, sites: Sequence[Site]) -> Exchange:
        """Return the exchange under the names learned in it, absent sites by why they are."""
        labels = {site.label: self._names.get(site.node_id, site.label) for site in sites}
        outcomes = {labels[label]: outcome for label, outcome in went.outcomes.items()}
        absent = {
            name: "left-out" if name in self._reached else "offline"
            for name in self.rules.sites
            if name not in outcomes
        }
        sent = {labels[label]: size for label, size in went.sent.items()}
        arrived = {labels[label]: found for label, found in went.arrived.items()}
        return replace(
            went,
            outcomes=dict(sorted({**outcomes, **absent}.items())),
            sent=dict(sorted(sent.items())),
            arrived=dict(sorted(arrived.items())),
        )


def _brief(facts: Mapping[str, Any]) -> str:
    numbers = {k: v for part in facts.values() if isinstance(part, dict) for k, v in part.items()}
    shown = [f"{k} {v:.4g}" for k, v in numbers.items() if isinstance(v, float)]
    return " ".join(shown) or "done"


def _record(weights: NDArray[np.float32]) -> ArrayRecord:
    return ArrayRecord({wire.MODEL: FlowerArray(weights)})


def _ledger_line(
    step: Step, went: Exchange, pooled: Pooled, facts: dict[str, Any]
) -> dict[str, Any]:
    """Return the line of rounds.jsonl."""
    kind: Kind = step.kind
    return {
        "round": step.round,
        "phase": kind,
        "seconds": round(went.seconds, 3),
        "attempts": went.attempts,
        "images": pooled.images,
        "sites": dict(went.outcomes),
        "bytes": dict(went.sent),
        "site_images": {name: noted["images"] for name, noted in pooled.of_site.items()},
        "payloads": {name: payload for name, (payload, _) in went.arrived.items()},
        "ledgers": {name: ledger for name, (_, ledger) in went.arrived.items()},
        **facts,
    }
