"""What is measured about one head: at the training hospitals and at one that was never seen.

Every figure is computed once with all weights 1 and once per bootstrap replicate, where each
*patient* gets a weight from Poisson(1), all their images together; so intervals hold for any
figure, differences too. AUC is one against the rest, the mean over classes (with two classes: of
the second), on the log-odds log p_k / (1 - p_k). With 0 and 1 the attribute's two values:

- as_trained: AUC on the test images of the hospitals that trained; reversed: on the held-out
  hospital, however its coupling is; difference: as_trained - reversed;
- auc.<value> and gap: AUC within one value at the held-out hospital, and value 0 - value 1;
- matched and turned: AUC at the held-out hospital, its images weighted so that P(value | class) is
  that of the training hospitals, or each such share mirrored at the mean of the classes' shares:
  the coupling as trained and reversed with everything else the same, also where real hospitals
  differ in more than coupling; every class counts alike, so P(value) may move with it;
  matched_difference: matched - turned;
- equalised_odds: the largest difference between the values in true and false positive rates.

Sources: trust goals of the design, section 10; equalised odds: Hardt et al. 2016.
What crosses a hospital's boundary: nothing; a researcher who holds all images computes this.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Figures = dict[str, Floats]
"""Name to `[1 + R]`: the figure, then its R replicates; NaN where it is not defined."""

RELEASED = "released"
"""Stands among the methods for the head that the run released, nothing done to it."""

SMALLEST_SHARE = 0.02
"""P(value | class) asked of a weighting is kept this far from 0 and 1."""


@dataclass(frozen=True)
class Films:
    """Latents of one side of a comparison, one row an image, all labelled and of known value.

    Attributes:
        mu: `[N, L] float32`.
        labels: `[N] int64` class.
        values: `[N] int64` 0 or 1, the attribute.
        patients: `[N] int64`.
    """

    mu: NDArray[np.float32]
    labels: Integers
    values: Integers
    patients: Integers

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Integers) -> Films:
        """Return some rows."""
        return Films(self.mu[rows], self.labels[rows], self.values[rows], self.patients[rows])


def draw_weights(patients: Integers, replicates: int, seed: int) -> Floats:
    """Return `[1 + R, N]`: ones, then Poisson(1) weights, equal for the images of a patient."""
    people, place = np.unique(patients, return_inverse=True)
    drawn = np.random.default_rng(seed).poisson(1.0, (replicates, len(people)))
    rows = np.concatenate([np.ones((1, len(people))), drawn])
    return np.asarray(rows[:, place], dtype=np.float64)


def count_pairs(
    scores: Floats, positive: NDArray[np.bool_], weights: Floats
) -> tuple[Floats, Floats]:
    """Return `[R]` weighted pairs that stand in the right order (ties half), and `[R]` all pairs.

    Args:
        scores: `[N]`.
        positive: `[N]`.
        weights: `[R, N]`.
    """
    order = np.argsort(scores, kind="stable")
    start = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])[: len(order)]
    if len(order) == 0:
        return np.zeros(len(weights)), np.zeros(len(weights))
    sorted_weights, is_own = weights[:, order], positive[order]
    own = np.add.reduceat(sorted_weights * is_own, start, axis=1)
    others = np.add.reduceat(sorted_weights * ~is_own, start, axis=1)
    below = np.cumsum(others, axis=1) - others
    won = (own * (below + 0.5 * others)).sum(axis=1)
    return won, own.sum(axis=1) * others.sum(axis=1)


def _ratio(won: Floats, pairs: Floats) -> Floats:
    safe = np.where(pairs > 0, pairs, 1.0)
    return np.asarray(np.where(pairs > 0, won / safe, np.nan))


def log_odds(logits: Floats) -> Floats:
    """Return `[N, K]` log p_k / (1 - p_k) of the softmax."""
    rest = [logsumexp(np.delete(logits, k, axis=1), axis=1) for k in range(logits.shape[1])]
    return np.asarray(logits - np.stack(rest, axis=1))


def macro_auc(logits: Floats, labels: Integers, weights: Floats) -> Floats:
    """Return `[R]` AUC of one class against the rest, the mean over classes with both sides."""
    scores, classes = log_odds(logits), range(logits.shape[1])
    chosen = [1] if len(classes) == 2 else [k for k in classes if (labels == k).any()]
    pairs = [count_pairs(scores[:, k], labels == k, weights) for k in chosen]
    return np.asarray(np.mean([_ratio(*each) for each in pairs], axis=0))


def within_class_auc(scores: Floats, films: Films, weights: Floats) -> Floats:
    """Return `[R]` AUC of scores for the attribute over pairs of images of the same class."""
    won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for label in np.unique(films.labels):
        rows = np.flatnonzero(films.labels == label)
        part = count_pairs(scores[rows], films.values[rows] == 1, weights[:, rows])
        won, pairs = won + part[0], pairs + part[1]
    return _ratio(won, pairs)


def value_shares(films: Films, classes: int) -> Floats:
    """Return `[K]` P(value 1 | class); a class without images gets P(value 1)."""
    overall = films.values.mean() if len(films) else 0.5
    own = [films.values[films.labels == k] for k in range(classes)]
    return np.array([part.mean() if len(part) else overall for part in own])


def mirrored(shares: Floats) -> Floats:
    """Return `[K]` shares mirrored at their unweighted mean: as far apart, in reverse order."""
    return np.asarray(2.0 * shares.mean() - shares)


def coupling_weights(films: Films, shares: Floats) -> Floats:
    """Return `[N]` weights that give the images these shares of value 1 within each class."""
    wanted = np.clip(shares, SMALLEST_SHARE, 1 - SMALLEST_SHARE)
    found = value_shares(films, len(shares))[films.labels]
    target = wanted[films.labels]
    up = target / np.where(found > 0, found, 1.0)
    down = (1 - target) / np.where(found < 1, 1 - found, 1.0)
    return np.asarray(np.where(films.values == 1, up, down))


def equalised_odds(logits: Floats, films: Films, weights: Floats) -> Floats:
    """Return `[R]` the largest gap between values in P(predicted k | is k) and P(. | is not k)."""
    predicted, gaps = logits.argmax(axis=1), []
    for k in range(logits.shape[1]):
        for is_class in (True, False):
            rows = np.flatnonzero((films.labels == k) == is_class)
            rates = []
            for value in (0, 1):
                mine = rows[films.values[rows] == value]
                hits = weights[:, mine] @ (predicted[mine] == k).astype(np.float64)
                rates.append(_ratio(hits, weights[:, mine].sum(axis=1)))
            gaps.append(np.abs(rates[0] - rates[1]))
    table = np.array(gaps)
    unknown = np.isnan(table).all(axis=0)
    return np.asarray(np.where(unknown, np.nan, np.nan_to_num(table, nan=0.0).max(axis=0)))


@dataclass(frozen=True)
class Sides:
    """Two sides with their drawn weights, the same for every head so that heads are paired.

    Attributes:
        trained: test images of the hospitals that trained.
        held_out: images of the hospitals that did not.
        shares: `[K]` P(value 1 | class) in the training images.
        weights: `[1 + R, N]` of `trained`, and of `held_out`.
        value_names: names of the attribute's two values.
    """

    trained: Films
    held_out: Films
    shares: Floats
    weights: tuple[Floats, Floats]
    value_names: tuple[str, str]


def head_figures(trained: Floats, held_out: Floats, sides: Sides) -> Figures:
    """Return every figure of one head.

    Args:
        trained: `[N, K]` logits of `sides.trained`.
        held_out: `[M, K]` logits of `sides.held_out`.
        sides: the images.
    """
    films, (inner, outer) = sides.held_out, sides.weights
    figures = {
        "as_trained": macro_auc(trained, sides.trained.labels, inner),
        "reversed": macro_auc(held_out, films.labels, outer),
    }
    figures["difference"] = figures["as_trained"] - figures["reversed"]
    for value, name in enumerate(sides.value_names):
        mine = np.flatnonzero(films.values == value)
        part = macro_auc(held_out[mine], films.labels[mine], outer[:, mine])
        figures[f"auc.{name}"] = part
    first, second = (figures[f"auc.{name}"] for name in sides.value_names)
    figures["gap"] = first - second
    for name, shares in (("matched", sides.shares), ("turned", mirrored(sides.shares))):
        weights = outer * coupling_weights(films, shares)
        figures[name] = macro_auc(held_out, films.labels, weights)
    figures["matched_difference"] = figures["matched"] - figures["turned"]
    figures["equalised_odds"] = equalised_odds(held_out, films, outer)
    return figures
