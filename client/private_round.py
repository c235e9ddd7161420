"""A private training round at the site: paid for first, then computed, and only weights leave.

The process that talks pays (`permit_for`), the process that computes trains (`train_permitted`).
Between them goes the permit, so that the steps taken are the steps paid for. Noise and sampling
are drawn from the operating system at each call; nothing the coordinator knows leads to them.
Every site weighs the same in the next global model, whatever the number of its images.
What crosses the hospital's boundary, through the outbox: the change of the weights; at the end the
epsilon that was spent, rounded up, and the paid rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.central_round import train_openly
from client.privacy_ledger import Spend
from client.site import Site
from mfm_core.checkpoint import flat_weights
from mfm_core.errors import DataError, PrivacyLedgerBroken
from mfm_core.private_training import PrivateStep, train_privately
from mfm_core.sums import Sum
from mfm_core.training import Schedule
from strategies.answers import spent_sum
from strategies.plan import derive_seed

EPSILON_STEP = 0.5


@dataclass(frozen=True)
class Permit:
    """Private steps that the ledger has paid for.

    Attributes:
        round: for which training round.
        units: of the training split, as they were counted.
        sample_rate: probability in (0, 1] of each unit to be in a step.
        steps: how many.
    """

    round: int
    units: int
    sample_rate: float
    steps: int


def count_units(site: Site) -> int:
    """Return how many patients, or images, the training split holds, as the run's unit says."""
    chosen = site.images.select("train")
    by_patient = site.run.privacy.unit == "patient"
    return len(np.unique(site.images.patients[chosen])) if by_patient else len(chosen)


def planned_spend(site: Site, number: int, units: int) -> Spend:
    """Return what one training round costs; a step takes a batch of units on average.

    Raises:
        DataError: the training split is empty.
    """
    agreed, training = site.run.privacy, site.run.learning.training
    if units < 1:
        raise DataError("training", ["the train split has no image; add images or leave the run"])
    return Spend(
        run=site.config_hash,
        round=number,
        unit=agreed.unit,
        units=units,
        noise_multiplier=agreed.noise_multiplier,
        max_grad_norm=agreed.max_grad_norm,
        sample_rate=min(1.0, training.batch_size / units),
        steps=training.steps_per_round,
        noise="simulated" if site.config.simulated else "secret",
    )


def spent_in_run(site: Site) -> Sum:
    """Return epsilon and paid rounds of this run as they leave (`strategies.answers.spent_sum`).

    Epsilon follows from the number of patients, which stays here: it is rounded up to the next
    half, so that it never says less than was spent and the number only roughly.

    Raises:
        PrivacyLedgerBroken: the ledger is not whole, so nobody can say what was spent.
    """
    reading, run = site.privacy.read(), site.config_hash
    if reading.problems:
        raise PrivacyLedgerBroken(f"what was spent is not known: {reading.problems[0]}")
    rounds = sum(spend.run == run and not spend.release for spend in reading.spends)
    epsilon = reading.epsilon(site.run.privacy.delta, run)
    return spent_sum(math.ceil(epsilon / EPSILON_STEP) * EPSILON_STEP, rounds)


def permit_for(site: Site, number: int, units: int) -> Permit:
    """Pay for one round and return what may be computed.

    Raises:
        BudgetSpent: it would pass the site's limit.
        PrivacyLedgerBroken: the ledger is not whole or cannot be written.
    """
    planned = planned_spend(site, number, units)
    line = site.privacy.spend(planned)
    site.log.info("train round %d: private steps paid for, line %.12s", number, line)
    return Permit(number, units, planned.sample_rate, planned.steps)


def train_permitted(
    site: Site, weights: NDArray[np.float32], number: int, permit: Permit | None
) -> NDArray[np.float32]:
    """Return the change `[D] float32` of the weights after the steps that were paid for.

    Under central DP the steps are plain: the round is paid for and protected at the door.

    Raises:
        PrivacyLedgerBroken: nothing, another round or another number of units was paid for.
    """
    if site.run.privacy.private_sum:
        return train_openly(site, weights, number)
    if permit is None or permit.round != number or permit.units != count_units(site):
        raise PrivacyLedgerBroken(f"round {number} was not paid for as it stands; ask again")
    model, agreed = site.load(weights), site.run.privacy
    train_privately(
        model,
        site.images,
        site.images.select("train"),
        site.run.learning,
        schedule=Schedule((number - 1) * permit.steps, site.run.rounds * permit.steps),
        steps=permit.steps,
        seed=_seed(site, number),
        privacy=PrivateStep(
            noise_multiplier=agreed.noise_multiplier,
            max_grad_norm=agreed.max_grad_norm,
            sample_rate=permit.sample_rate,
            unit=agreed.unit,
        ),
        proximal_mu=site.run.aggregation.proximal_mu,
        trainable=agreed.trainable,
    )
    return flat_weights(model) - weights


def _seed(site: Site, number: int) -> int | None:
    """Return None, so that the operating system draws; in a simulation a seed, so runs repeat."""
    if site.config.simulated:
        return derive_seed(site.run, site.config.name, "private", number)
    return None
