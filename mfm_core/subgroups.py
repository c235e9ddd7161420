"""Figures per attribute value and class, and the gaps between values, from mergeable sums.

Per attribute value and class: AUC (the class against the rest), sensitivity and specificity of
the most probable class, prevalence and calibration; per attribute and class: the largest
difference between values, and the equalised-odds difference (the larger of the gaps in true and
false positive rate, as fairlearn's `equalized_odds_difference` for "is class y"). Every gap stands
beside a prevalence-matched one, for which each value is given the same mix of classes: where more
of one value's patients are ill, a raw gap reads as bias although the model treats all alike.

All tables keep the true class, so raw and matched figures come from the same sum: a specificity or
an AUC is the mean over the other classes of its class-against-class part, weighted by the value's
own mix or by the common one. Scores are one-vs-rest log-odds in bins even in
asinh((s - s0) / 0.5) over s0 +- 40, s0 = -log(K - 1); scores in one bin count half, as ties do.
`score_bins` says how many: 12 x 32 fine and 32 coarse for 5 classes and 7 values (1.5 MB in all),
12 x 8 and 8 for 15 classes (3.7 MB). The fine ones hold the totals and give the figures; the
coarse ones exist for each of 20 random groups of patients and give the intervals
(`intervals`: delete-a-group jackknife), moved by fine minus coarse. For each attribute, each
class's scores, the decisions and the confidences draw groups of their own, so that no patient's
numbers in one table can be tied to those in another by the group. A group's own table may hold one
patient of a cell: `smallest` guards the cell over all groups, not the single group. Nor does it
guard against a comparison of attributes: an image that is alone in its fine bin, or in its cell of
decisions, among its class is alone there in every attribute's table, and its values can be put
side by side. Only noise would help.

Source: design section 10; Glocker et al. 2023 (matched mix); Naeini et al. 2015 (calibration
error, 10 even bins). What crosses the hospital's boundary: histograms, decisions and calibration
counts of cells of at least `smallest` patients, whole and in 20 random groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from mfm_core.config import OntologyConfig
from mfm_core.errors import DataError
from mfm_core.intervals import GROUPS
from mfm_core.latent_sums import index_problems
from mfm_core.subgroup_rows import LINEAR_PART, RANGE, subgroup_figures
from mfm_core.sums import Array, Sum

__all__ = ["empty_subgroup_sum", "score_bins", "subgroup_figures", "subgroup_sum"]

Rows = NDArray[np.int64]

FINE_PER_COARSE = 12
MOST_COARSE, FEWEST_COARSE = 32, 4
SCORE_BYTES = 3.4e6
"""Both score tables stay below this as long as that leaves FEWEST_COARSE bins."""

CONFIDENCE_BINS = 10

CONFIDENCE_STEP = 0.01
"""Confidences are rounded to it: all digits of a patient's would be a fingerprint, the same in the
tables of every attribute."""


class Release(TypedDict):
    """How a sum is made fit to leave.

    Attributes:
        smallest: fewest patients of a cell that may leave.
        seed: of this site's draws of groups; known to the site only.
    """

    smallest: int
    seed: int


def score_bins(ontology: OntologyConfig) -> tuple[int, int]:
    """Return the number of fine and of coarse score bins for an ontology."""
    cells = _values(ontology) * len(ontology.classes) ** 2
    bytes_per_bin = 8 * max(cells, 1) * (FINE_PER_COARSE + GROUPS)
    coarse = int(SCORE_BYTES // bytes_per_bin) // 2 * 2
    coarse = min(max(coarse, FEWEST_COARSE), MOST_COARSE)
    return FINE_PER_COARSE * coarse, coarse


def subgroup_sum(
    logits: NDArray[np.floating],
    labels: Rows,
    attributes: Rows,
    patients: Rows,
    ontology: OntologyConfig,
    **release: Unpack[Release],
) -> Sum:
    """Return one site's part of the subgroup figures, without small cells.

    A cell is an attribute value with a class. One with fewer than `smallest` patients leaves as
    zeros; if what is not shown of a class could then be found by subtraction from the class's
    test figures, the next smallest cells are left out as well.

    Args:
        logits: `[N, K]`, finite.
        labels: `[N]` class index; -1 is left out.
        attributes: `[N, A]` value index in the ontology's order; -1 is unknown.
        patients: `[N]` equal for images of one patient.
        ontology: K classes; V values of all attributes together, in order.
        release: `smallest` and `seed`, see `Release`.

    Returns:
        "scores" `[V, K, K, F]` (value, score of class, true class, fine bin), "group.scores"
        `[20, V, K, K, C]`, "group.decisions" `[20, V, K, K]` (true, decided), "group.excess"
        `[20, V, K, 10]` (confidence minus correct, summed per bin of confidence), "patients"
        `[V, K]` and "suppressed" `[V, K]` (1 for a cell that was left out).

    Raises:
        DataError: shapes disagree, an index is outside the ontology, a logit is not finite.
    """
    _refuse_unusable(logits, labels, attributes, patients, ontology)
    labelled = np.flatnonzero(labels >= 0)
    true, values = labels[labelled], attributes[labelled]
    people, who = np.unique(patients[labelled], return_inverse=True)
    total = {name: array.copy() for name, array in empty_subgroup_sum(ontology).arrays.items()}
    classes = len(ontology.classes)
    seen = _Seen(
        logits[labelled].astype(np.float64), true, who, len(people), ontology, release["seed"]
    )
    for first, count, column in _tables(ontology):
        cell = np.where(values[:, column] >= 0, values[:, column] * classes + true, -1)
        counts = _patients_per_cell(cell, who, count * classes).reshape(count, classes)
        hidden = _cells_to_hide(counts, cell, true, who, release["smallest"])
        mine = slice(first, first + count)
        total["suppressed"][mine] = hidden & (counts > 0)
        total["patients"][mine] = np.where(hidden, 0, counts)
        shown = np.flatnonzero((cell >= 0) & ~hidden.ravel()[np.maximum(cell, 0)])
        seen.add(total, shown, first + values[shown, column], column)
    return Sum(total)


def empty_subgroup_sum(ontology: OntologyConfig) -> Sum:
    """Return the sum of a site without test images: zeros of the same schema."""
    values, classes = _values(ontology), len(ontology.classes)
    fine, coarse = score_bins(ontology)
    shapes = {
        "scores": (values, classes, classes, fine),
        "group.scores": (GROUPS, values, classes, classes, coarse),
        "group.decisions": (GROUPS, values, classes, classes),
        "group.excess": (GROUPS, values, classes, CONFIDENCE_BINS),
        "patients": (values, classes),
        "suppressed": (values, classes),
    }
    return Sum({name: np.zeros(shape) for name, shape in shapes.items()})


def _values(ontology: OntologyConfig) -> int:
    return sum(len(values) for values in ontology.attributes.values())


def _tables(ontology: OntologyConfig) -> Iterator[tuple[int, int, int]]:
    """Yield per attribute: place of its first value, number of values, column."""
    first = 0
    for column, values in enumerate(ontology.attributes.values()):
        yield first, len(values), column
        first += len(values)


class _Seen:
    """The labelled images, binned once, ready to be counted for each attribute."""

    def __init__(
        self,
        logits: Array,
        true: Rows,
        who: Rows,
        people: int,
        ontology: OntologyConfig,
        seed: int,
    ) -> None:
        self.true, self.decided = true, logits.argmax(axis=1)
        self.fine, self.ratio = score_bins(ontology)[0], FINE_PER_COARSE
        log_p = logits - logsumexp(logits, axis=1, keepdims=True)
        self.bins = _bins(log_p, logits, self.fine)
        confidence = np.exp(log_p.max(axis=1, initial=-np.inf))
        rounded = np.rint(confidence / CONFIDENCE_STEP) * CONFIDENCE_STEP
        self.excess = rounded - (self.decided == true)
        self.level = np.minimum((confidence * CONFIDENCE_BINS).astype(np.int64), 9)
        self.seed, self.people, self.who = seed, people, who

    def groups(self, column: int, table: int) -> Rows:
        """Return `[N]` each image's group, drawn anew for each attribute and table."""
        draw = np.random.default_rng((self.seed, column, table))
        return draw.permutation(self.people)[self.who] % GROUPS

    def add(self, total: dict[str, Array], rows: Rows, value: Rows, column: int) -> None:
        """Count the images at `rows`, each in its value's place, into an attribute's tables."""
        true, classes = self.true[rows], self.bins.shape[1]
        for k in range(classes):
            place, group = self.bins[rows, k], self.groups(column, k)[rows]
            _count(total["scores"][:, k], (value, true, place))
            coarse = place // self.ratio
            _count(total["group.scores"][:, :, k], (group, value, true, coarse))
        decided, group = self.decided[rows], self.groups(column, classes)[rows]
        _count(total["group.decisions"], (group, value, true, decided))
        where = (self.groups(column, classes + 1)[rows], value, true, self.level[rows])
        _count(total["group.excess"], where, self.excess[rows])


def _count(table: Array, where: tuple[Rows, ...], amount: Array | float = 1.0) -> None:
    """Add an amount at each place of a table, in place."""
    np.add.at(table, where, amount)


def _bins(log_p: Array, logits: Array, bins: int) -> Rows:
    """Return `[N, K]` fine bins of the one-vs-rest log-odds less those of not knowing."""
    scores = np.empty_like(log_p)
    for k in range(logits.shape[1]):
        others = np.delete(logits, k, axis=1)
        scores[:, k] = logits[:, k] - logsumexp(others, axis=1) if len(logits) else 0.0
    scores += np.log(max(logits.shape[1] - 1, 1))
    place = np.arcsinh(scores / LINEAR_PART) / np.arcsinh(RANGE / LINEAR_PART)
    fine: Rows = np.clip(np.floor((place + 1) / 2 * bins), 0, bins - 1).astype(np.int64)
    return fine


def _patients_per_cell(cell: Rows, who: Rows, cells: int) -> Rows:
    """Return how many different patients each cell holds; -1 is no cell."""
    pairs = np.unique(np.stack([cell, who]), axis=1)[0]
    return np.bincount(pairs[pairs >= 0], minlength=cells)


def _cells_to_hide(
    counts: Rows, cell: Rows, true: Rows, who: Rows, smallest: int
) -> NDArray[np.bool_]:
    """Return which cells `[V, K]` must not leave.

    A class's images that no shown cell holds must be of no patient, or of at least `smallest`,
    because the test figures tell how many images the class has.
    """
    hide = counts < smallest
    classes = counts.shape[1]
    for k in range(classes):
        mine = true == k
        for value in np.argsort(counts[:, k], kind="stable"):
            shown = np.flatnonzero(~hide[:, k]) * classes + k
            unseen = len(np.unique(who[mine & ~np.isin(cell, shown)]))
            if unseen == 0 or unseen >= smallest:
                break
            hide[value, k] = True
    return hide


def _refuse_unusable(
    logits: NDArray[np.floating],
    labels: Rows,
    attributes: Rows,
    patients: Rows,
    ontology: OntologyConfig,
) -> None:
    """Raise one DataError that lists everything wrong with the inputs."""
    images = len(logits)
    shapes = (logits.shape, labels.shape, attributes.shape, patients.shape)
    wanted = ((images, len(ontology.classes)), (images,), (images, len(ontology.attributes)))
    if shapes != (*wanted, (images,)):
        expected = f"logits {wanted[0]}, labels {wanted[1]}, attributes {wanted[2]}, patients"
        found = ", ".join(str(shape) for shape in shapes)
        raise DataError("subgroups", [f"expected {expected} {wanted[1]}; found {found}"])
    problems = []
    if not np.isfinite(logits).all():
        problems.append("a logit is not finite: the model has diverged; use an earlier checkpoint")
    problems += index_problems(labels, attributes, ontology)
    if problems:
        raise DataError("subgroups", problems)
