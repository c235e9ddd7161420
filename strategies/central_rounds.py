"""The server's half of central DP between exchanges: notes each noisy sum first, then makes it.

A noisy sum counts when it is about to be made: a synced line goes to the journal before noise is
drawn, or before a masked sum with the sites' noise is opened. Noise is never drawn twice for one
line. A round that is repeated after a crash is a new noisy sum with fresh noise and counts again,
whether or not anybody saw the first.
What crosses the hospital's boundary: nothing here; the noisy mean becomes the next weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from mfm_core.discrete_noise import with_noise
from mfm_core.errors import CheckpointError
from mfm_core.sums import Schema, Sum
from strategies.answers import Answer, answer_of, request_schema
from strategies.central_noise import (
    CENTRAL,
    WITHIN,
    Draw,
    Shielded,
    clip_of,
    clip_sum,
    next_clip,
    server_half,
    spent_by,
    terms_of,
)
from strategies.collector import Pooled
from strategies.config import RunConfig
from strategies.plan import Step

Facts = Mapping[str, Any]


def told_to_sites(run: RunConfig, facts: Facts) -> Sum | None:
    """Return the clip of the next round as the sites are told it; None where they know it."""
    return clip_sum(clip_of(run, facts)) if request_schema(run, "train") is not None else None


def asked_of_sites(run: RunConfig, facts: Facts) -> Answer:
    """Return what a training reply must be; under central DP no longer than the round's clip."""
    answer = answer_of(run, "train")
    return replace(answer, clip=clip_of(run, facts)) if run.privacy.private_sum else answer


class Draws(Protocol):
    """Where noisy sums are noted."""

    def draw(self, step: Step, facts: Mapping[str, Any]) -> int:
        """Write down, synced, that a noisy sum is about to be made; return how many there are."""


class Paying:
    """Where a secure sum notes whose answers it opens: a noisy sum is paid for there, too.

    Args:
        groups: the journal (`secure_rounds.Groups`).
        central: pays.
    """

    def __init__(self, groups: Any, central: CentralRounds) -> None:
        self._groups, self._central = groups, central

    def hold(self, step: Step, names: tuple[str, ...]) -> None:
        """Write down whose sum is about to be opened, and that it is."""
        self._groups.hold(step, names)
        if step.kind == "train":
            self._central.pay(step, len(names))

    def held(self, step: Step) -> tuple[str, ...] | None:
        """Return whose sum may have been opened; None where none was."""
        found: tuple[str, ...] | None = self._groups.held(step)
        return found


class CentralRounds:
    """Turns the sum of a training round into a noisy one.

    Args:
        run: the agreed run, with central DP.
        schema: names and shapes of the weights.
        draws: the journal.
        draw: adds noise; from the operating system but for tests.
    """

    def __init__(self, run: RunConfig, schema: Schema, draws: Draws, draw: Draw = with_noise):
        self._run, self._schema, self._draws, self._draw = run, schema, draws, draw
        self._paid = 0

    def pay(self, step: Step, sites: int) -> None:
        """Note a noisy sum of so many sites before it is made.

        Raises:
            CheckpointError: it cannot be noted; no noise may be drawn.
        """
        facts = {"sites": sites, "noise_multiplier": self._run.privacy.noise_multiplier}
        self._paid = self._draws.draw(step, facts)

    def shield(self, step: Step, facts: Facts, pooled: Pooled) -> tuple[Facts, Pooled]:
        """Return the facts of the state and what the sites' answers add up to, with noise.

        Args:
            step: the training round.
            facts: of the state: the clip that the round had and how many sums there were.
            pooled: the sum of clipped updates as a mean of the sites, and of their bits.

        Raises:
            CheckpointError: it cannot be noted, or fewer sums are noted than the state knows.
        """
        assert pooled.update is not None
        if not self._run.secure_sum.enabled:
            self.pay(step, pooled.images)
        known = int(facts.get(CENTRAL, {}).get("draws", 0))
        if self._paid <= known:
            raise CheckpointError(
                f"the journal notes {self._paid} noisy sums, the state knows of {known}: lines "
                "were removed. Restore the run folder, or agree on a new run"
            )
        sites, clip = max(1, pooled.images), clip_of(self._run, facts)
        terms = terms_of(self._run, self._schema, clip)
        bits = 0.0 if pooled.total is None else float(pooled.total[WITHIN[0][0]][0])
        noisy = server_half(Shielded(pooled.update * sites, bits), terms, self._draw)
        following = next_clip(self._run, clip, noisy.within, sites)
        told = {"clip": following, "draws": self._paid}
        shielded = replace(pooled, update=noisy.update / sites, total=None)
        return {**facts, CENTRAL: told}, shielded

    def line(self, facts: Facts) -> dict[str, Any]:
        """Return what the ledger line of a round says; figures that are public by then."""
        told = facts[CENTRAL]
        spent = spent_by(self._run, int(told["draws"]))
        shown = {key: spent[key] for key in ("draws", "epsilon_site", "epsilon_patient")}
        return {CENTRAL: {"next_clip": told["clip"], **shown}}
