"""The axis of an attribute when few patients stand against the coupling: by empirical Bayes.

Where value and class go together, cell means say two things: the sum of the effects of class and
value, from almost all patients, and their difference, from the few who stand against the coupling.
Least squares takes the noise of the few for signal, so the axis that it gives is too long by
L / Omega in squared Mahalanobis length (Omega = sum_y n_y1 n_y0 / n_y); what is erased or shifted
along it leaves that part of the true axis in the latents. Here both effects are random,

    mean of cell (y, v) = overall + class_y + effect_v + N(0, S / n_yv),
    class_y ~ N(0, t_c S),  effect_v ~ N(0, t_v S),

S the within-class covariance, t_c and t_v chosen by the likelihood of the cell means, and the
effects are their posterior means. With many patients in every cell that is least squares. One
weighting of the cells serves all latent numbers, so everything follows from the atlas.

Measured with `mfm-simulate run simulation/studies/bias.yaml` (figures in simulation/README.md).
Weighed on seeds that are not reported there, and worse: a prior whose variance follows that of the
latents, with one power or one for classes and one for values (likelier, but more of the view was
left on fresh patients), the axes of both classes erased, least squares with a corrected length.

Source: ours; random effects by Henderson 1975, "Best linear unbiased estimation and prediction
under a selection model"; the likelihood's variances by Efron and Morris 1973.
What crosses the hospital's boundary: nothing; everything here is computed from the atlas.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import null_space
from scipy.optimize import minimize

from mfm_core.sums import Array

VARIANCES = (1e-6, 1e4)
"""Range of t_c and t_v, in within-class variances."""


class Cells(NamedTuple):
    """The cells that hold patients.

    Attributes:
        noise: `[C]` one over the patients.
        class_of: `[C, K]` 1 at the cell's class.
        value_of: `[C, r]` the estimable combinations of values that the cell's value is.
        means: `[C, L]`.
    """

    noise: Array
    class_of: Array
    value_of: Array
    means: Array


def shrunk_span(counts: Array, means: Array, directions: Array, covariance: Array) -> Array:
    """Return `[r, L]`, posterior means of the values' effects along the estimable combinations.

    Args:
        counts: `[K, V]` patients; cells without any are left out.
        means: `[K, V, L]` of the cells.
        directions: `[V, r]` orthonormal combinations of values that classes share.
        covariance: `[L, L]` within classes, positive definite.
    """
    labels, values = np.nonzero(counts > 0)
    noise = 1.0 / counts[labels, values]
    class_of = np.eye(len(counts))[labels]
    cells = Cells(noise, class_of, directions[values], means[labels, values])
    contrasts = null_space(np.ones((1, len(noise))))
    told = contrasts.T @ cells.means
    likeness = told @ np.linalg.solve(covariance, told.T)
    size = means.shape[-1]
    class_part, value_part = _variances(cells, contrasts, likeness, size)
    spread = _spread(cells, contrasts, class_part, value_part)
    posterior: Array = value_part * (contrasts.T @ cells.value_of).T @ np.linalg.solve(spread, told)
    return posterior


def _variances(cells: Cells, contrasts: Array, likeness: Array, size: int) -> tuple[float, float]:
    """Return t_c and t_v of the largest likelihood.

    Args:
        cells: whose means were seen.
        contrasts: `[C, C - 1]` orthonormal, without the overall mean.
        likeness: `[C - 1, C - 1]` inner products of the contrasts' means by S^-1.
        size: L, how many latent numbers say the same.
    """

    def misfit(logs: Array) -> float:
        spread = _spread(cells, contrasts, *np.exp(logs))
        _, log_size = np.linalg.slogdet(spread)
        return float(log_size + np.trace(np.linalg.solve(spread, likeness)) / size)

    bounds = [(np.log(VARIANCES[0]), np.log(VARIANCES[1]))] * 2
    starts = [np.log([0.1, 0.1]), np.log([0.01, 1.0]), np.log([1.0, 0.01])]
    found = [minimize(misfit, start, method="L-BFGS-B", bounds=bounds) for start in starts]
    best = min(found, key=lambda each: float(each.fun))
    class_part, value_part = np.exp(best.x)
    return float(class_part), float(value_part)


def _spread(cells: Cells, contrasts: Array, class_part: float, value_part: float) -> Array:
    """Return `[C - 1, C - 1]`, the covariance of the contrasts in units of S."""
    by_class = cells.class_of @ cells.class_of.T
    by_value = cells.value_of @ cells.value_of.T
    whole = np.diag(cells.noise) + class_part * by_class + value_part * by_value
    spread: Array = contrasts.T @ whole @ contrasts
    return spread
