"""Control variates against drift: a site adds the mean gradient of all and takes away its own.

SCAFFOLD (Karimireddy et al. 2020, arXiv:1910.06378). Where sites hold unlike patients, many local
steps lead each to its own optimum; with c_i, the gradient that site i found in its last round, and
c, that of all sites, every local gradient g becomes g - c_i + c. The paper's option II takes the
new c_i from the way the weights went, c_i - c + (x - y) / (K rate): with plain gradient steps that
is the mean of the K local gradients. Our local steps are AdamW, whose way is no gradient, so c_i is
that mean itself, of the raw gradients: before the correction, a proximal pull and the clip.

What crosses the hospital's boundary: c_i times images, a sum as any other; it says about a site's
patients what its update says, and is no more protected.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mfm_core.autoencoder import Autoencoder

Flat = NDArray[np.float32]
GRAIN = 2.0**-30
"""Step of a control variate: times images it is added exactly, so like sites have like numbers."""


class ControlVariate:
    """The correction of one local training, and the mean gradient that it found.

    Args:
        correction: `[D] float32`, c - c_i in the order of the flat weights.
    """

    def __init__(self, correction: Flat) -> None:
        self._correction = correction
        self._found = np.zeros_like(correction)

    @property
    def found(self) -> Flat:
        """The site's new c_i `[D] float32`, multiples of `GRAIN`; zeros where nothing learns."""
        return self._found

    def lay_out(
        self, model: Autoencoder, parameters: list[torch.nn.Parameter]
    ) -> tuple[torch.Tensor, NDArray[np.int64]]:
        """Return the correction `[P]` of parameters one after the other, and their places in `[D]`.

        Raises:
            ValueError: the correction is of another model.
        """
        sizes = [parameter.numel() for parameter in model.parameters()]
        if self._correction.shape != (sum(sizes),):
            found = self._correction.shape
            raise ValueError(f"expected a correction of {sum(sizes)} numbers, found {found}")
        starts = dict(zip(map(id, model.parameters()), np.cumsum([0, *sizes]), strict=False))
        places = [np.arange(p.numel()) + starts[id(p)] for p in parameters]
        flat = np.concatenate(places)
        return torch.from_numpy(self._correction[flat]).to(parameters[0].device), flat

    def keep(self, total: torch.Tensor, places: NDArray[np.int64], steps: int) -> None:
        """Take in the sum `[P]` of the raw gradients of so many steps."""
        mean = total.double().cpu().numpy() / max(1, steps)
        self._found[places] = np.rint(mean / GRAIN) * GRAIN
