"""Group reweighting: weights under which class and attribute are independent.

An image of class y and value a weighs n_y n_a / (N n_ya), from the pooled counts of patients in the
atlas: what independence would expect over what there is. The weighted counts n_y n_a / N keep the
shares of the classes and of the values. Every site uses the pooled counts, also a site that has one
value only. An image whose value is not known weighs 1; one of a cell that the pooled counts do not
hold (nobody released it) weighs 0, because what would be expected of it is not known.

Source: Kamiran and Calders 2012, "Data preprocessing techniques for classification without
discrimination", section 4.2. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mfm_core.atlas import Atlas
from mfm_core.errors import ConfigError
from mfm_core.sums import Array

LARGEST_WEIGHT = 20.0
"""A cell with less than a twentieth of what independence expects gets no more than this."""


def group_weights(atlas: Atlas, attribute: str) -> Array:
    """Return `[K, V] float64` weights of the cells; 0 for a cell without patients.

    Raises:
        ConfigError: no such attribute.
    """
    if attribute not in atlas.attribute_counts:
        known = ", ".join(atlas.attribute_counts) or "none"
        reason = f"attribute {attribute!r} is not in the atlas; it has {known}"
        raise ConfigError("mitigation", [reason])
    counts = np.maximum(atlas.attribute_counts[attribute], 0.0)
    people = max(float(counts.sum()), np.finfo(np.float64).tiny)
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / people
    safe = np.where(counts > 0, counts, 1.0)
    weights: Array = np.where(counts > 0, np.minimum(expected / safe, LARGEST_WEIGHT), 0.0)
    return weights


def image_weights(weights: Array, labels: NDArray[np.int64], values: NDArray[np.int64]) -> Array:
    """Return `[N] float64`: each image's weight.

    Args:
        weights: `[K, V]` of `group_weights`.
        labels: `[N]` class index; -1 (left out of training) weighs 1.
        values: `[N]` value index of the attribute; -1 is unknown and weighs 1.
    """
    known = (labels >= 0) & (values >= 0)
    per_image = np.ones(len(labels))
    per_image[known] = weights[labels[known], values[known]]
    return per_image
