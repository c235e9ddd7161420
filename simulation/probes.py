"""Probes: how well a small classifier reads an attribute off latents or logits.

A probe is fitted with weights that make the attribute independent of the class, w = P(a) P(y) /
P(a, y): otherwise it may learn the class in place of the attribute where the two go together, and
its AUC at a hospital with the opposite coupling would fall below 0.5 and look like a success.

- linear: logistic regression on standardised inputs; the strength of its penalty is chosen by
  patient-wise folds of the images it is fitted on;
- mlp: one hidden layer, with a fixed number of passes; it sees what a linear one cannot.

What crosses a hospital's boundary: nothing; only a researcher who holds the images can do this.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
ProbeKind = Literal["linear", "mlp"]

PENALTIES = (0.0003, 0.003, 0.03, 0.3, 3.0)
"""Inverse strengths C of the logistic regression's penalty to choose from."""
FOLDS = 5
HIDDEN = 32
PASSES = 60


@dataclass(frozen=True)
class Seen:
    """What a probe looks at, one row an image.

    Attributes:
        x: `[N, F] float64` latents or logits.
        values: `[N] int64` 0 or 1, the attribute to read.
        labels: `[N] int64` class.
        patients: `[N] int64`.
    """

    x: Floats
    values: Integers
    labels: Integers
    patients: Integers

    def take(self, rows: Integers) -> Seen:
        """Return some rows."""
        return Seen(self.x[rows], self.values[rows], self.labels[rows], self.patients[rows])


def balancing_weights(values: Integers, labels: Integers) -> Floats:
    """Return `[N] float64` weights under which attribute and class are independent."""
    weights = np.zeros(len(values))
    for value in np.unique(values):
        for label in np.unique(labels):
            cell = (values == value) & (labels == label)
            if cell.any():
                expected = (values == value).mean() * (labels == label).mean()
                weights[cell] = expected / cell.mean()
    return weights


def choose_penalty(seen: Seen) -> float:
    """Return the C of PENALTIES with the best out-of-fold AUC; the strongest where none can be.

    Of one number per image every penalty gives the same order, so none is tried.
    """
    if not _usable(seen) or seen.x.shape[1] == 1:
        return PENALTIES[0]
    scores = [inside_scores("linear", seen, penalty) for penalty in PENALTIES]
    weights = balancing_weights(seen.values, seen.labels)
    aucs = [roc_auc_score(seen.values, score, sample_weight=weights) for score in scores]
    return PENALTIES[int(np.argmax(aucs))]


def across_scores(kind: ProbeKind, fitted: Seen, read: Seen, penalty: float) -> Floats:
    """Return `[M]` scores of the images of `read` by a probe fitted on other images.

    Args:
        kind: linear or mlp.
        fitted: images to fit on; zeros are returned where they show one value only.
        read: images to score.
        penalty: C of the logistic regression.
    """
    if len(np.unique(fitted.values)) < 2:
        return np.zeros(len(read.values))
    probe = _make(kind, penalty)
    weights = balancing_weights(fitted.values, fitted.labels)
    name = "logisticregression" if kind == "linear" else "mlpclassifier"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(fitted.x, fitted.values, **{f"{name}__sample_weight": weights})
    chance = np.clip(probe.predict_proba(read.x)[:, 1], 1e-9, 1 - 1e-9)
    return np.asarray(np.log(chance) - np.log1p(-chance))


def inside_scores(kind: ProbeKind, seen: Seen, penalty: float) -> Floats:
    """Return `[N]` out-of-fold scores: each patient is scored by a probe that never saw them."""
    scores = np.zeros(len(seen.values))
    if not _usable(seen):
        return scores
    folds = GroupKFold(min(FOLDS, len(np.unique(seen.patients))))
    for train, test in folds.split(seen.x, seen.values, seen.patients):
        scores[test] = across_scores(kind, seen.take(train), seen.take(test), penalty)
    return scores


def _usable(seen: Seen) -> bool:
    """Tell whether both values and two patients are there."""
    return len(np.unique(seen.values)) == 2 and len(np.unique(seen.patients)) >= 2


def _make(kind: ProbeKind, penalty: float) -> Pipeline:
    model: Any
    if kind == "linear":
        model = LogisticRegression(C=penalty, max_iter=300)
    else:
        model = MLPClassifier(
            (HIDDEN,),
            alpha=0.01,
            batch_size=64,
            learning_rate_init=3e-3,
            max_iter=PASSES,
            random_state=0,
        )
    return make_pipeline(StandardScaler(), model)
