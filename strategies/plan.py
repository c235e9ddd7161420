"""The exchanges of a run, in order, and what both ends derive from a round's number.

A site never takes instructions from the server beyond kind and round: schedule, attention stage
and seeds follow from the agreed run, so a server cannot ask a site for something else than what
was agreed. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, get_args

from strategies.config import RunConfig

Kind = Literal[
    "hello",
    "patch_moments",
    "class_sums",
    "train",
    "latent_sums",
    "heads",
    "mitigate",
    "evaluate",
    "atlas",
    "audit",
    "receipts",
    "secure_keys",
    "secure_shares",
    "secure_unmask",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

ROUNDED: tuple[Kind, ...] = ("class_sums", "train", "mitigate")
"""Kinds that come in rounds, counted from 1."""

KEYS: tuple[Kind, ...] = ("secure_keys", "secure_shares", "secure_unmask")
"""Exchanges of keys around those of a secure sum; only runs with one make them."""

UNPLANNED: tuple[Kind, ...] = ("hello", "receipts", *KEYS)
"""Kinds outside the plan: hello begins every start, receipts end a run, keys change no state."""

MASKED: tuple[Kind, ...] = (
    "patch_moments", "class_sums", "train", "latent_sums", "heads", "mitigate", "evaluate", "audit",
)  # fmt: skip
"""Kinds whose answers a secure sum masks: all that hold figures of patients but hello's counts."""

MESSAGE_TYPES: dict[Kind, str] = {
    "hello": "query.hello",
    "patch_moments": "query.patch_moments",
    "class_sums": "query.class_sums",
    "train": "train",
    "latent_sums": "query.latent_sums",
    "heads": "query.heads",
    "mitigate": "query.mitigate",
    "evaluate": "evaluate",
    "atlas": "query.atlas",
    "audit": "query.audit",
    "receipts": "query.receipts",
    "secure_keys": "query.secure_keys",
    "secure_shares": "query.secure_shares",
    "secure_unmask": "query.secure_unmask",
}
"""Flower's message type of each kind."""


@dataclass(frozen=True)
class Step:
    """One exchange with every site; `round` counts from 1 in the kinds of ROUNDED, else 0."""

    kind: Kind
    round: int = 0


def plan_of(run: RunConfig) -> tuple[Step, ...]:
    """Return the steps of a run in order (without those of UNPLANNED).

    A private run starts its linear path from random weights: patch moments are unprotected. A run
    that starts from released weights has one already. A pre-training on tasks ends with figures:
    heads, atlas and audit are of classes.
    """
    steps: list[Step] = []
    if run.model.linear_path and not run.privacy.private and run.pretrained is None:
        steps.append(Step("patch_moments"))
    for number in range(1, run.rounds + 1):
        if run.learning.pseudo_labels.used_in(number):
            steps.append(Step("class_sums", number))
        steps.append(Step("train", number))
    if run.ontology.tasks:
        return (*steps, Step("evaluate"))
    steps.append(Step("latent_sums"))
    if run.statistics.refit_head:
        steps.append(Step("heads"))
    if run.mitigation.attribute is not None:
        steps += [Step("mitigate", number) for number in range(1, run.mitigation.exchanges + 1)]
    steps += [Step("evaluate"), Step("atlas")]
    if run.audit.enabled:
        steps.append(Step("audit"))
    return tuple(steps)


def attention_stage(run: RunConfig, number: int) -> int:
    """Return 1 in the first attention rounds, 2 after them, 0 with attention off."""
    first = run.learning.objective.attention.rounds
    if first == 0:
        return 0
    return 1 if number <= first else 2


def shared_seed(run: RunConfig) -> int:
    """Return the seed of what all sites of a run share: A of its low-rank changes."""
    return derive_seed(run, "", "lora")


def derive_seed(run: RunConfig, site: str, purpose: str, number: int = 0) -> int:
    """Return a seed in [0, 2**63) from run seed, site name, purpose and round: no state needed."""
    text = f"{run.seed}\0{site}\0{purpose}\0{number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
