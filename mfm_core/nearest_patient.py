"""Does a decoded class mean show somebody? Distances from it to members and to held-out patients.

Two ways to be too near, one p-value (the smaller, doubled):
- all members a little: sum of ranks of the distances, labels permuted;
- one member by far: how far the nearest member lies below what held-out patients would show, from
  a Student t prediction of log distances for as many new patients as there are members. Permuting
  labels could not show this: the nearest of all is a member most of the time by number alone.
What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from scipy.stats import t as student

PERMUTATIONS = 2000
LEAST = 4
"""Fewest patients on either side."""

SMALLEST = 1e-9


@dataclass(frozen=True)
class Nearest:
    """What the distances from one decoded mean say.

    Attributes:
        members, others: patients compared.
        member_distance: of the nearest member, root mean square over pixels, in [0, 1].
        other_distance: of the nearest held-out patient, likewise.
        p: that members are not nearer than others, in (0, 1].
    """

    members: int
    others: int
    member_distance: float
    other_distance: float
    p: float


def nearest_patient(
    drawn: NDArray[np.floating],
    pictures: NDArray[np.floating],
    member: NDArray[np.bool_],
    seed: int,
) -> Nearest | None:
    """Return the test of one decoded mean; None with fewer than LEAST patients on a side.

    Args:
        drawn: `[C, H, W] in [0, 1]`, the decoded mean.
        pictures: `[P, C, H, W] in [0, 1]`, a picture of each patient.
        member: `[P]` whose latents are in the mean.
        seed: of the permutations.
    """
    inside, outside = int(member.sum()), int((~member).sum())
    if min(inside, outside) < LEAST:
        return None
    gaps = (pictures.astype(np.float64) - drawn).reshape(len(pictures), -1)
    distances = np.sqrt(np.square(gaps).mean(axis=1))
    p = min(1.0, 2 * min(_ranks(distances, member, seed), _one_by_far(distances, member)))
    ends = float(distances[member].min()), float(distances[~member].min())
    return Nearest(inside, outside, *ends, p)


def _ranks(distances: NDArray[np.float64], member: NDArray[np.bool_], seed: int) -> float:
    """Return the p-value of members having small ranks, labels permuted."""
    generator, ranks = np.random.default_rng(seed), rankdata(distances)
    found, size = ranks[member].sum(), int(member.sum())
    drawn = np.array([generator.permutation(ranks)[:size].sum() for _ in range(PERMUTATIONS)])
    return float((1 + (drawn <= found).sum()) / (1 + PERMUTATIONS))


def _one_by_far(distances: NDArray[np.float64], member: NDArray[np.bool_]) -> float:
    """Return the chance of a new patient as near as the nearest member, among as many of them."""
    logs = np.log(np.maximum(distances, SMALLEST))
    others, n = logs[~member], int((~member).sum())
    spread = max(float(others.std(ddof=1)), SMALLEST) * np.sqrt(1 + 1 / n)
    one = student.cdf((logs[member].min() - others.mean()) / spread, n - 1)
    return float(-np.expm1(int(member.sum()) * np.log1p(-min(one, 1 - SMALLEST))))
