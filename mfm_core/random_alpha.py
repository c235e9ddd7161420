"""Random alpha: shift latents at random along an attribute's axis and train the head again.

A head that sees z + alpha d, alpha ~ N(0, sigma^2), cannot rely on what lies along d. The default
axis is class-conditional. The paper's is the difference of the marginal means, which carries
disease where value and disease go together: strong shifts along it teach the opposite bias.

Alpha is not sampled: the expected cross-entropy is an integral over one Gaussian number, taken
with 15 Gauss-Hermite points (for r > 1 directions with 128 points of a Sobol sequence and their
mirror images). That is what sampling tends to with ever more draws; it needs no seed, and sites
that average one step a round equal the pooled training. To second order in alpha the penalty is
(sigma^2 / 2) (w' d)^2 E[p (1 - p)]: a ridge on the axis, which tends to projection as sigma grows.

Source: paper section 3.3 ("randomly modify the alpha value of AP-PA projections and retrain only
the classification layer"); class-conditional axes and the integral are ours.
What crosses the hospital's boundary: nothing; the shifts are computed from the atlas.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm, qmc

from mfm_core.atlas import Atlas
from mfm_core.erasure import value_span
from mfm_core.errors import ConfigError
from mfm_core.head_training import Shifts
from mfm_core.sums import Array

HERMITE_POINTS = 15
SOBOL_POINTS = 128


def axis_shifts(
    atlas: Atlas, attribute: str, sigma: float, *, conditional: bool = True, shrunk: bool = False
) -> Shifts:
    """Return the random shifts along an attribute.

    Args:
        atlas: pooled.
        attribute: name in the ontology; of more than two values all are moved against each other,
            none favoured.
        sigma: >= 0, standard deviation of alpha in lengths of the axis.
        conditional: False is the paper's marginal axis.
        shrunk: as in `erasure.value_span`.

    Raises:
        ConfigError: no such attribute, or sigma is negative or not finite.
        DataError: no class has patients with two of the values.
    """
    if not (np.isfinite(sigma) and sigma >= 0):
        raise ConfigError("mitigation", [f"sigma is {sigma}; expected a number of at least 0"])
    span = value_span(atlas, attribute, conditional=conditional, shrunk=shrunk)
    points, weights = normal_points(len(span))
    return Shifts(np.sqrt(2.0) * sigma * points @ span, weights)


def normal_points(rank: int) -> tuple[Array, Array]:
    """Return points `[Q, rank]` and weights `[Q]` that stand for independent N(0, 1) numbers."""
    if rank == 1:
        points, weights = np.polynomial.hermite_e.hermegauss(HERMITE_POINTS)
        return points[:, None], weights / weights.sum()
    even = qmc.Sobol(rank, scramble=True, rng=0).random(SOBOL_POINTS)
    half = norm.ppf(np.clip(even, 1e-6, 1.0 - 1e-6))
    both = np.concatenate([half, -half])
    whitened = np.linalg.solve(np.linalg.cholesky(both.T @ both / len(both)), both.T).T
    return whitened, np.full(len(both), 1.0 / len(both))
