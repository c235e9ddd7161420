"""Closed-form classification heads from the atlas, and the choice between them by sums.

Linear discriminant analysis: with class means m_k, the pooled within-class covariance S and priors
p_k, the log posterior is linear in the latent x,

    (x - m)' M (m_k - m) - (m_k - m)' M (m_k - m) / 2 + log p_k,    M = S(shrinkage)^-1,

where m is the mean over patients; taking it away changes no probability and keeps float32 exact.
The shrinkage is towards the identity at the mean variance, as in scikit-learn:
S(g) = (1 - g) S + g (trace(S) / L) I. Nothing new is released for it: the head is computed from
the same latent sums as the axes.

The choice is made by the cross-entropy of the pooled validation images after one temperature per
candidate: a proper score, a plain sum over images, and steady where a rare class has three
validation images and its AUC is mostly luck. The temperature is needed because discriminants from
few patients in many dimensions rank well and are far too sure of themselves; without it the
calibrated (trained) head would win for its scale alone. The winner is divided by its temperature.

Source: paper section 2.5.2 (fine-tuning of the classification layer on latents).
What crosses the hospital's boundary: summed cross-entropies and counts of correct images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mfm_core.atlas import Atlas
from mfm_core.errors import DataError
from mfm_core.sums import Array, Sum

SHRINKAGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 0.9)
"""Shrinkages that `fit_heads` tries when none are given."""

TEMPERATURES: Array = 2.0 ** np.arange(-2.0, 6.5, 0.5)
"""Grid of temperatures, 0.25 to 64; 1 is among them."""

LARGEST_LOSS = 100.0
"""Cross-entropy of one image is cut off here (nats), so that no outlier fills the fixed point."""

MISSING_MARGIN = 10.0
"""How far (nats) a class without patients stays below the smallest bias of the others."""


@dataclass(frozen=True)
class Head:
    """A linear head: logits = x @ weight' + bias.

    Attributes:
        weight: `[K, L] float32`.
        bias: `[K] float32`.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def logits(self, mu: NDArray[np.floating]) -> Array:
        """Return `[N, K] float64` logits of `[N, L]` latents."""
        scores: Array = mu.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias
        return scores

    def cooled(self, temperature: float) -> Head:
        """Return the same decisions with every logit divided by `temperature` > 0."""
        scale = np.float32(1.0 / temperature)
        return Head(self.weight * scale, self.bias * scale)


def fit_heads(
    atlas: Atlas,
    shrinkages: Sequence[float] = SHRINKAGES,
    priors: Literal["data", "equal"] = "data",
) -> tuple[Head, ...]:
    """Return one LDA head per shrinkage.

    Args:
        atlas: class means and covariance.
        shrinkages: each in [0, 1]; 0 is the covariance as it is, 1 nearest class mean.
        priors: "data" for the patients' shares, "equal" for 1/K.

    Returns:
        Heads in the order of `shrinkages`. A class without patients gets zero weights and a bias
        that it never wins with: some present class always has a logit of at least the smallest
        bias about m, because the pull towards the classes averages to zero over patients.
    """
    present = np.flatnonzero(atlas.counts > 0)
    share = atlas.counts[present] / atlas.counts.sum()
    middle = share @ atlas.means[present]
    pulls = atlas.means[present] - middle
    log_prior = np.log(share) if priors == "data" else np.full(len(present), -np.log(len(present)))
    variances, directions = np.linalg.eigh(atlas.covariance)
    rotated = pulls @ directions
    heads = []
    for shrinkage in shrinkages:
        spread = (1.0 - shrinkage) * variances + shrinkage * variances.mean()
        filters = (rotated / spread) @ directions.T
        about_middle = log_prior - 0.5 * (filters * pulls).sum(axis=1)
        weight = np.zeros(atlas.means.shape)
        bias = np.full(len(weight), about_middle.min() - MISSING_MARGIN)
        weight[present], bias[present] = filters, about_middle - filters @ middle
        heads.append(Head(weight.astype(np.float32), bias.astype(np.float32)))
    return tuple(heads)


def candidate_sum(
    mu: NDArray[np.floating], labels: NDArray[np.int64], heads: Sequence[Head]
) -> Sum:
    """Return how well each candidate does on one site's validation images.

    Args:
        mu: `[N, L]` latent means, finite.
        labels: `[N]` class index; -1 is left out.
        heads: the candidates (H); by custom the trained head is the first.

    Returns:
        "cross_entropy" `[H, T]` summed nats at each of TEMPERATURES, "correct" `[H]` and
        "images" `[1]`. A site without validation images returns zeros.

    Raises:
        DataError: a logit is not finite.
    """
    labelled = labels >= 0
    rows, true = np.arange(int(labelled.sum())), labels[labelled]
    losses, correct = np.zeros((len(heads), len(TEMPERATURES))), np.zeros(len(heads))
    for index, head in enumerate(heads):
        logits = head.logits(mu[labelled])
        if not np.isfinite(logits).all():
            raise DataError("heads", [f"candidate {index} gives logits that are not finite"])
        correct[index] = (logits.argmax(axis=1) == true).sum()
        behind = logits - logits[rows, true][:, None]
        for column, temperature in enumerate(TEMPERATURES):
            loss = np.logaddexp.reduce(behind / temperature, axis=1)
            losses[index, column] = np.minimum(loss, LARGEST_LOSS).sum()
    images = np.array([float(len(rows))])
    return Sum({"cross_entropy": losses, "correct": correct, "images": images})


def choose_head(total: Sum) -> int:
    """Return the index of the candidate with the least cross-entropy at its best temperature.

    Of equals the first wins; without a single validation image that is the trained head.
    """
    return int(total["cross_entropy"].min(axis=1).argmin())


def chosen_head(heads: Sequence[Head], total: Sum) -> Head:
    """Return the candidate of `choose_head`, divided by its best temperature.

    Without validation images the first head is returned unchanged.
    """
    index = choose_head(total)
    if total["images"][0] == 0:
        return heads[index]
    return heads[index].cooled(float(TEMPERATURES[total["cross_entropy"][index].argmin()]))
