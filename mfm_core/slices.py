"""Unknown biases: groups of images inside a class on which the model errs more often.

Nobody recorded what these images share, so it is looked for in the latents. Patients are divided
at random into two halves. On the first, the latents of each class, less the class's mean, are
brought to a few principal directions of equal spread, and groups are formed in two ways: clusters
(k-means; of a few numbers of clusters the one whose clusters differ most in errors), and the upper
part of the direction in which the errors lie (a ridge discriminant, which finds what is encoded
too weakly to form a cluster). On the second half each group is tested once against the rest of its
class (Fisher's exact test, more errors inside), with Benjamini-Hochberg over everything tested.
The second half chose nothing, so its p-values are honest. The unit is the patient: of several
images of one class and patient, one at random is used.

Source: design section 10; slice discovery guided by errors as in Eyuboglu et al. 2022 (Domino),
here with a held-out test. What crosses the hospital's boundary: nothing; the table is for the site
itself, and a decoded centre is a drawing that may show what its few patients share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq
from scipy.stats import false_discovery_control, hypergeom

from mfm_core.autoencoder import Autoencoder
from mfm_core.devices import to_array, to_device
from mfm_core.errors import DataError
from mfm_core.sums import Array

Rows = NDArray[np.int64]
Counts = tuple[int, int, int, int]
By = Literal["cluster", "direction"]

DIRECTIONS = 16
"""Most principal directions in which the errors' direction is looked for."""

CLUSTERED = 8
"""Most principal directions that are clustered."""

CLUSTERS = (2, 3, 4, 6)
"""Numbers of clusters that are tried on the first half."""

STARTS = 4
"""Random starts of k-means for each number of clusters; the tightest is kept."""

SMALLEST_HALF = 12
"""Fewest patients of a class in each half; below it the class is left out."""

SMALLEST_GROUP = 3
"""A group with fewer patients in the second half is not tested."""

FEWEST_ERRORS = 3
"""Errors (and right answers) of the first half from which their direction is read."""

RIDGE = 10.0
"""Directions of less than this many times the mean variance count for less."""

LEVEL = 0.05


@dataclass(frozen=True)
class Slice:
    """A group inside a class, tested on patients that did not form it.

    Attributes:
        label: the class.
        cluster: number of the group within the class, from 1; the most suspect first.
        by: "cluster" for k-means, "direction" for the upper part of the errors' direction.
        n: patients of the second half in it.
        errors: how many of them the model got wrong.
        others: patients of the class and half outside it.
        other_errors: how many of those the model got wrong.
        p: of Fisher's one-sided test.
        q: after Benjamini-Hochberg over all groups tested.
        centre: `[L] float64`, class mean and mean residual of the first half; stays at the site.
    """

    label: str
    cluster: int
    by: By
    n: int
    errors: int
    others: int
    other_errors: int
    p: float
    q: float
    centre: Array

    @property
    def found(self) -> bool:
        """Tell whether the model errs more often here, at a false discovery rate of 5 %."""
        return self.q <= LEVEL

    def to_dict(self) -> dict[str, Any]:
        """Return the counts and the test, without the centre."""
        names = ("cluster", "by", "n", "errors", "others", "other_errors", "p", "q", "found")
        return {"class": self.label, **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class _Group:
    """One group in both halves of a class: `[first half] bool` and `[second half] bool`."""

    by: By
    first: NDArray[np.bool_]
    second: NDArray[np.bool_]


@dataclass(frozen=True)
class _Tested:
    """A group with its test, before the correction for many of them."""

    label: int
    by: By
    counts: Counts
    p: float
    centre: Array


def find_slices(
    mu: NDArray[np.floating],
    labels: Rows,
    wrong: NDArray[np.bool_],
    patients: Rows,
    classes: Sequence[str],
    seed: int = 0,
) -> tuple[Slice, ...]:
    """Return every group that was tested, the smallest p first.

    Args:
        mu: `[N, L]` latent means, finite.
        labels: `[N]` class index; -1 is left out.
        wrong: `[N]`, whether the model's decision differs from the label.
        patients: `[N]` equal for images of one patient.
        classes: names of the K classes.
        seed: of the halves, the choice of images and the clusters.

    Returns:
        Slices; empty when no class has SMALLEST_HALF patients in both halves.

    Raises:
        DataError: lengths differ, or a latent is not finite.
    """
    _refuse_unusable(mu, labels, wrong, patients)
    generator = np.random.default_rng(seed)
    people, who = np.unique(patients, return_inverse=True)
    second = (generator.permutation(len(people)) % 2 == 1)[who]
    order = generator.permutation(len(mu))
    tested = []
    for k in range(len(classes)):
        halves = [_one_each(order, (labels == k) & (second == half), who) for half in (0, 1)]
        if min(len(half) for half in halves) < SMALLEST_HALF:
            continue
        first, held_out = (mu[half].astype(np.float64) for half in halves)
        for group in _groups(first, held_out, wrong[halves[0]], generator):
            counts = _counts(group.second, wrong[halves[1]])
            if counts[0] >= SMALLEST_GROUP and counts[2] > 0:
                centre = first[group.first].mean(axis=0)
                tested.append(_Tested(k, group.by, counts, _p_value(counts), centre))
    return _ranked(tested, classes)


def decode_slices(model: Autoencoder, slices: Sequence[Slice]) -> NDArray[np.float32]:
    """Return what the model draws for the centres, `[S, C, H, W] float32 in [0, 1]`.

    The drawings are of the site's own patients (a mean of few) and stay at the site.
    """
    config = model.image_config
    if not slices:
        return np.zeros((0, config.channels, config.size_px, config.size_px), dtype=np.float32)
    centres = np.stack([row.centre for row in slices]).astype(np.float32)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        drawn = model.decode(to_device(centres, model)).clamp(0, 1)
    model.train(was_training)
    return to_array(drawn)


def _one_each(order: Rows, chosen: NDArray[np.bool_], who: Rows) -> Rows:
    """Return one image of each patient among the chosen, the first in a random order."""
    mine = order[chosen[order]]
    _, first = np.unique(who[mine], return_index=True)
    return np.sort(mine[first])


def _groups(
    first: Array, second: Array, wrong: NDArray[np.bool_], generator: np.random.Generator
) -> list[_Group]:
    """Return the groups that the first half of a class suggests, found again in the second."""
    middle = first.mean(axis=0)
    space, variances = _space(first)
    if not len(variances):
        return []
    one, two = (first - middle) @ space, (second - middle) @ space
    centres = _cluster(one[:, :CLUSTERED], wrong, generator)
    own, place = vq(one[:, :CLUSTERED], centres)[0], vq(two[:, :CLUSTERED], centres)[0]
    groups = [_Group("cluster", own == c, place == c) for c in np.unique(own)]
    if min(wrong.sum(), (~wrong).sum()) < FEWEST_ERRORS:
        return groups
    lean = one[wrong].mean(axis=0) - one[~wrong].mean(axis=0)
    lean *= variances / (variances + RIDGE * variances.mean())
    part = float(np.clip(2 * wrong.mean(), 0.2, 0.5))
    edge = np.quantile(one @ lean, 1 - part)
    return [*groups, _Group("direction", one @ lean > edge, two @ lean > edge)]


def _space(rows: Array) -> tuple[Array, Array]:
    """Return `[L, D]`, to principal directions of spread 1, and their variances `[D]`."""
    _, spread, directions = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    most = max(1, min(DIRECTIONS, len(rows) // 4))
    kept = spread[:most] > 1e-9 * max(float(spread[0]), 1e-12)
    variances: Array = np.square(spread[:most][kept]) / (len(rows) - 1)
    return directions[:most][kept].T / np.sqrt(variances), variances


def _cluster(rows: Array, wrong: NDArray[np.bool_], generator: np.random.Generator) -> Array:
    """Return the centres `[k, D]` whose clusters differ most in errors on these rows."""
    tried: list[tuple[float, int, Array]] = []
    for number in CLUSTERS:
        if len(rows) < 4 * number and tried:
            break
        centres = _tightest(rows, number, generator)
        place, _ = vq(rows, centres)
        tests = [_p_value(_counts(place == c, wrong)) for c in range(len(centres))]
        tried.append((min(1.0, min(tests) * len(centres)), len(tried), centres))
    return min(tried, key=lambda row: row[:2])[2]


def _tightest(rows: Array, number: int, generator: np.random.Generator) -> Array:
    """Return the centres of the best of several runs of k-means; empty clusters are dropped."""
    runs: list[tuple[float, int, Array]] = []
    for start in range(STARTS):
        first = rows[_spread_out(rows, number, generator)]
        centres, place = kmeans2(rows, first, minit="matrix", missing="warn", iter=25)
        kept = centres[np.unique(place)]
        runs.append((float(np.square(vq(rows, kept)[1]).sum()), start, kept))
    return min(runs, key=lambda row: row[:2])[2]


def _spread_out(rows: Array, number: int, generator: np.random.Generator) -> list[int]:
    """Return rows to start from, each far from those before (k-means++)."""
    chosen = [int(generator.integers(len(rows)))]
    while len(chosen) < number:
        near = np.square(vq(rows, rows[chosen])[1])
        weight = near if near.sum() > 0 else np.ones(len(rows))
        chosen.append(int(generator.choice(len(rows), p=weight / weight.sum())))
    return chosen


def _counts(inside: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> Counts:
    """Return patients and errors inside, patients and errors outside."""
    outside = ~inside
    return (
        int(inside.sum()),
        int((inside & wrong).sum()),
        int(outside.sum()),
        int((outside & wrong).sum()),
    )


def _p_value(counts: Counts) -> float:
    """Return how likely as many errors inside are when the group does not matter."""
    n, errors, others, other_errors = counts
    return float(hypergeom.sf(errors - 1, n + others, errors + other_errors, n))


def _ranked(tested: Sequence[_Tested], classes: Sequence[str]) -> tuple[Slice, ...]:
    """Return the slices in order of p, with q values and numbered within their class."""
    if not tested:
        return ()
    corrected = false_discovery_control([row.p for row in tested], method="bh")
    seen = dict.fromkeys(range(len(classes)), 0)
    slices = []
    for index in sorted(range(len(tested)), key=lambda i: (tested[i].p, i)):
        row, q = tested[index], float(corrected[index])
        seen[row.label] += 1
        name, number = classes[row.label], seen[row.label]
        slices.append(Slice(name, number, row.by, *row.counts, p=row.p, q=q, centre=row.centre))
    return tuple(slices)


def _refuse_unusable(
    mu: NDArray[np.floating], labels: Rows, wrong: NDArray[np.bool_], patients: Rows
) -> None:
    images = (len(mu),)
    if mu.ndim != 2 or not labels.shape == wrong.shape == patients.shape == images:
        shapes = f"{mu.shape}, {labels.shape}, {wrong.shape}, {patients.shape}"
        expected = "expected latents [N, L] and labels, wrong, patients [N]"
        raise DataError("slices", [f"{expected}; found {shapes}"])
    if not np.isfinite(mu).all():
        problem = "a latent is not finite: the model has diverged; use an earlier checkpoint"
        raise DataError("slices", [problem])
