"""The weights that a run begins with: seeded; a private run may start them from public films.

What crosses the hospital's boundary: towards it, these weights with the first round.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mfm_core.autoencoder import build_autoencoder
from mfm_core.checkpoint import flat_weights
from mfm_core.patches import start_linear_path
from mfm_core.public_pictures import Pixels, public_moments
from strategies.config import RunConfig


def first_weights(run: RunConfig, pictures: Pixels | None = None) -> NDArray[np.float32]:
    """Return `[D] float32`, the weights before the first exchange.

    A private run asks no site for patch moments, which nothing would protect; its linear path
    starts from the PCA of the public pictures that the run names, or from random weights. Other
    runs start theirs from the sites' patches.

    Args:
        run: the agreed run.
        pictures: `[N, C, S, S]` public ones, or None.
    """
    model = build_autoencoder(run.model, run.image, len(run.ontology.classes), run.seed)
    if pictures is not None and run.privacy.private and model.linear_path is not None:
        start_linear_path(model, public_moments(pictures, run.model))
    return flat_weights(model)
