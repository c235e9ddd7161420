"""Who trains, who validates, who tests: splits that never divide a patient.

DESIGN section 13 (leakage): groups stay whole, every class is in every part where it can be.
A greedy assignment, rarest class first (cf. Sechidis et al. 2011, iterative stratification, here
for groups). Nothing here crosses the hospital's boundary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "val", "test")

Integers = NDArray[np.int64]
Numbers = NDArray[np.float64]


def grouped_split(
    labels: Integers,
    groups: Integers,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
) -> Integers:
    """Return `[N] int64`, the index into SPLITS of every image.

    Groups are never divided. A class in at least as many groups as there are splits is in every
    split, except where images of several classes share groups in a way that prevents it. Image
    counts per class follow `fractions`. Equal arguments give equal splits, and the order of the
    rows does not matter.

    Args:
        labels: `[N]` class index; -1 (unlabelled) is balanced like a class.
        groups: `[N]` equal for images that belong together.
        fractions: part of train, val and test, with sum 1; 0 leaves a split empty.
        seed: chooses among equally good splits.

    Raises:
        ValueError: lengths differ, or fractions are not three parts of 1.
    """
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.shape != (len(SPLITS),) or shares.min() < 0 or abs(shares.sum() - 1) > 1e-9:
        raise ValueError(f"fractions: expected three parts with sum 1, found {tuple(fractions)}")
    return _distribute(labels, groups, shares, seed)


def stratified_grouped_folds(
    labels: Integers, groups: Integers, folds: int, seed: int = 0
) -> Integers:
    """Return `[N] int64`, the fold (0 to folds - 1) of every image; rules as in `grouped_split`.

    Raises:
        ValueError: lengths differ, or fewer than two folds.
    """
    if folds < 2:
        raise ValueError(f"folds: expected 2 or more, found {folds}")
    return _distribute(labels, groups, np.full(folds, 1.0 / folds), seed)


def _distribute(labels: Integers, groups: Integers, shares: Numbers, seed: int) -> Integers:
    labels, groups = np.asarray(labels), np.asarray(groups)
    if labels.shape != groups.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} and groups {groups.shape} need one length")
    if len(labels) == 0:
        return np.zeros(0, dtype=np.int64)
    kinds, kind = np.unique(labels, return_inverse=True)
    names, member = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), len(kinds)))
    np.add.at(counts, (member, kind), 1.0)
    parts = _assign(counts, shares, np.random.default_rng(seed))
    _repair(parts, counts, np.flatnonzero(shares > 0))
    return parts[member]


def _assign(counts: Numbers, shares: Numbers, rng: np.random.Generator) -> Integers:
    """Return `[M]` the part of each group, from `[M, K]` image counts.

    Classes in the order of how few groups they have; the groups of a class from large to small.
    A group goes to a part that still has room for all its images, drawn with a probability
    proportional to that room (so that no part gets all the large patients), else to the part it
    overfills least. Once as many groups are left as parts lack the class, only those parts count.
    """
    parts = np.full(len(counts), -1, dtype=np.int64)
    room = shares[:, None] * counts.sum(axis=0)
    present = np.zeros(room.shape, dtype=bool)
    shuffled = rng.permutation(len(counts))
    for kind in np.argsort((counts > 0).sum(axis=0), kind="stable"):
        waiting = [g for g in shuffled if counts[g, kind] > 0 and parts[g] < 0]
        waiting.sort(key=lambda group: -counts[group].sum())
        for done, group in enumerate(waiting):
            lacking = np.flatnonzero(~present[:, kind] & (shares > 0))
            forced = len(lacking) > 0 and len(lacking) >= len(waiting) - done
            allowed = lacking if forced else np.flatnonzero(shares > 0)
            part = _choose(room[allowed], counts[group], rng)
            parts[group] = allowed[part]
            room[allowed[part]] -= counts[group]
            present[allowed[part]] |= counts[group] > 0
    return parts


def _choose(room: Numbers, images: Numbers, rng: np.random.Generator) -> int:
    """Return the row of `room` `[P, K]` that a group with `images` `[K]` goes to."""
    own = images > 0
    spare = (room[:, own] - images[own]).min(axis=1)
    fits = np.flatnonzero(spare >= -1e-9)
    if len(fits) == 0:
        return int(spare.argmax())
    weights = room[fits][:, own].min(axis=1)
    return int(rng.choice(fits, p=weights / weights.sum()))


def _repair(parts: Integers, counts: Numbers, used: Integers) -> None:
    """Move groups, in place, until each class with enough groups is in every used part.

    Only groups that hold several classes can make this necessary. A move must not take the last
    group of any class away from a part, so each one gains and the loop ends.
    """
    holds = counts > 0
    tally = np.zeros((int(used.max()) + 1, counts.shape[1]), dtype=np.int64)
    np.add.at(tally, parts, holds.astype(np.int64))
    enough = holds.sum(axis=0) >= len(used)
    moved = True
    while moved:
        moved = False
        for part, kind in np.argwhere((tally == 0) & enough):
            if part not in used or tally[part, kind] > 0:
                continue
            free = [
                g for g in np.flatnonzero(holds[:, kind]) if tally[parts[g], holds[g]].min() > 1
            ]
            if free:
                group = min(free, key=lambda g: counts[g].sum())
                tally[parts[group]] -= holds[group]
                tally[part] += holds[group]
                parts[group] = part
                moved = True
