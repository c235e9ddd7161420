"""What an attack reached: AUC and true-positive rate at a low false-positive rate, with intervals.

The unit is a patient: an attack gives every patient one score, larger for "was learnt from".
- AUC: interval of Newcombe (2006, Stat. Med. 25:559, method 5), which inverts Hanley and McNeil's
  variance, so it is not empty where an attack separates everybody.
- TPR at FPR a: the threshold is an order statistic of those not learnt from, so its true FPR is a
  Beta variable, and the hits above it are binomial. The lower end needs no assumption: who knows a
  threshold of FPR f > a may use it with probability a / f. The upper end takes the best attack for
  granted, whose ROC curve is concave. Four tails of 1.25 % make the interval 95 % at least.
- Bounds of differential privacy: at a threshold of FPR a no attack has a TPR above
  e^eps a + delta, and the trade-off curve 1 - TPR >= max(1 - delta - e^eps a,
  e^-eps (1 - delta - a), 0), taken over several (eps, delta), bounds the AUC (Dong, Roth, Su 2022).
What crosses the hospital's boundary: nothing here; the figures hold no patient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import beta, rankdata

from mfm_core.accounting import Spending, epsilon_of

Scores = NDArray[np.float64]

LEVEL = 0.95
RATES = (0.01, 0.001)
"""False-positive rates at which hits are counted."""

DELTAS = (1e-5, 1e-3, 1e-2, 5e-2, 0.15)
"""Where a history's trade-off curve is read; every one of them is a valid bound."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Hits:
    """True-positive rate at a false-positive rate.

    Attributes:
        rate: the false-positive rate aimed at, in (0, 1).
        value: share of members above the threshold, in [0, 1].
        interval: of it, 95 %.
    """

    rate: float
    value: float
    interval: Interval


@dataclass(frozen=True)
class Strength:
    """What one membership attack reached.

    Attributes:
        auc: of telling members from others; 0.5 is guessing.
        auc_interval: of it, 95 %.
        hits: one entry for each of RATES.
        members: patients that were learnt from.
        others: patients that were not.
    """

    auc: float
    auc_interval: Interval
    hits: tuple[Hits, ...]
    members: int
    others: int


@dataclass(frozen=True)
class Bounds:
    """What a formal guarantee leaves to any attack: largest AUC, largest TPR at each of RATES."""

    auc: float
    hits: tuple[float, ...]


def strength_of(members: Scores, others: Scores) -> Strength:
    """Return what the scores of members `[M]` and others `[N]` tell apart, M and N > 0."""
    auc = auc_of(members, others)
    hits = tuple(hits_at(rate, members, others) for rate in RATES)
    interval = auc_interval(auc, len(members), len(others))
    return Strength(auc, interval, hits, len(members), len(others))


def auc_of(members: Scores, others: Scores) -> float:
    """Return the share of pairs in which the member scores higher; ties count half."""
    ranks = rankdata(np.concatenate([members, others]))[: len(members)].sum()
    first = len(members) * (len(members) + 1) / 2
    return float((ranks - first) / (len(members) * len(others)))


def auc_interval(auc: float, members: int, others: int) -> Interval:
    """Return the 95 % interval of an AUC that was found on so many members and others."""
    z, middle = float(ndtri(0.5 + LEVEL / 2)), max((members + others) / 2 - 1, 0)

    def beyond(true: float) -> float:
        part = (1 - true) / (2 - true) + true / (1 + true)
        variance = true * (1 - true) * (1 + middle * part) / (members * others)
        return abs(auc - true) - z * math.sqrt(max(variance, 0.0))

    least, most, near = 1e-12, 1 - 1e-12, 1e-9  # an AUC of 0 or 1 is itself a root: begin beside it
    low = brentq(beyond, least, auc - near) if auc > 2 * near and beyond(least) > 0 else 0.0
    high = brentq(beyond, auc + near, most) if auc < 1 - 2 * near and beyond(most) > 0 else 1.0
    return min(float(low), auc), max(float(high), auc)


def hits_at(rate: float, members: Scores, others: Scores) -> Hits:
    """Return the share of members above a threshold that `rate` of the others pass at most."""
    passing = math.floor(rate * len(others))
    threshold = np.sort(others)[::-1][passing]
    found = int((members > threshold).sum())
    tail = (1 - LEVEL) / 4
    false = beta.ppf([tail, 1 - tail], passing + 1, len(others) - passing)
    missed = len(members) - found
    low = float(beta.ppf(tail, found, missed + 1)) if found else 0.0
    high = float(beta.ppf(1 - tail, found + 1, missed)) if missed else 1.0
    value = found / len(members)
    ends = (
        low * min(1.0, rate / float(false[1])),
        min(1.0, high * max(1.0, rate / float(false[0]))),
    )
    return Hits(rate, value, (min(ends[0], value), max(ends[1], value)))


def bounds_of(history: Sequence[Spending]) -> Bounds | None:
    """Return what the accountant's guarantee leaves to any attack; None without a guarantee.

    Args:
        history: every private step on these patients, as `mfm_core.accounting` takes it.
    """
    pairs = [(epsilon_of(history, delta), delta) for delta in DELTAS]
    if not history or not any(math.isfinite(epsilon) for epsilon, _ in pairs):
        return None
    rates = np.concatenate([np.linspace(0, 1, 20_001), RATES])
    missed = np.zeros(len(rates))
    for epsilon, delta in pairs:
        if math.isfinite(epsilon):
            steep = 1 - delta - math.exp(min(epsilon, 700.0)) * rates
            flat = math.exp(-epsilon) * (1 - delta - rates)
            missed = np.maximum(missed, np.maximum(steep, flat))
    even = missed[: -len(RATES)]
    # the curve falls, so its right ends never overstate the area below it
    return Bounds(float(1 - even[1:].mean()), tuple(float(1 - x) for x in missed[-len(RATES) :]))
