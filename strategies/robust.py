"""Updates that a few lying sites cannot pull away: median, trimmed mean, a bound on norms.

These look at every site's update, so they belong to *inspectable* runs: a secure sum, which hides
single updates, excludes them, and the agreed run refuses both together. Sites count the same here,
because a weight is the site's own word.

Source: Yin et al. 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates"
(median and trimmed mean, definitions 1 and 2); the norm bound against the median of the norms is
ours, after Sun et al. 2019 (arXiv:1911.07963). What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import trim_mean

from mfm_core.sums import Array

Combine = Literal["mean", "trimmed_mean", "median"]


def bounded(updates: Sequence[NDArray[np.floating]], factor: float | None) -> Array:
    """Return `[N, D] float64`, updates scaled down to `factor` times the median of their norms.

    Args:
        updates: N changes of the weights, `[D]` each.
        factor: None leaves them as they are.
    """
    stacked = np.stack([np.asarray(update, dtype=np.float64) for update in updates])
    if factor is None:
        return stacked
    norms = np.linalg.norm(stacked, axis=1)
    most = factor * float(np.median(norms))
    scale = np.minimum(1.0, most / np.maximum(norms, np.finfo(np.float64).tiny))
    return np.asarray(stacked * scale[:, None])


def combined(updates: Array, how: Combine, trim: float) -> Array:
    """Return `[D] float64`, what `[N, D]` updates come to.

    Args:
        updates: one row a site.
        how: mean, coordinate-wise trimmed mean or median.
        trim: trimmed_mean: share of the sites cut off at either end, in [0, 0.5).
    """
    if how == "median":
        return np.asarray(np.median(updates, axis=0))
    return np.asarray(trim_mean(updates, trim if how == "trimmed_mean" else 0.0, axis=0))
