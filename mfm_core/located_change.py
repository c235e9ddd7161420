"""Where in this image the answer lies: the smallest change, held against the image's own evidence.

A change along a class axis or a head's pattern is the same move for every patient, so it tells
what a finding looks like better than where this patient has it. Integrated gradients tell where,
but count every pixel that differs from a reference, and a mean of all patients is a poor one. Here
the reference is the picture that the model draws for the mean latent of those *without* the
finding, which the consortium shares (z0 of the paper's equation 1), and a place counts as far as
both hold: the image speaks for the finding there, and the smallest change that turns the answer
would alter it. The map is the geometric mean

    sqrt( G * max(IG(x; D(z0)), 0)  x  G * |D(z + dz) - D(z)| ),

G a Gaussian blur of a few hundredths of the width. Source: ours; integrated gradients are
Sundararajan et al. 2017, the smallest change is `counterfactual`.
What crosses the hospital's boundary: nothing; frames and maps are pictures of a patient.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from mfm_core.atlas import Atlas
from mfm_core.attribution import evidence_from
from mfm_core.autoencoder import Autoencoder
from mfm_core.counterfactual import counterfactual
from mfm_core.devices import to_array, to_device
from mfm_core.question import Explanation, Question, ask, reading
from mfm_core.sweep import Pixels

BLUR_EVIDENCE, BLUR_CHANGE = 1.5 / 64, 1.0 / 64
"""Standard deviations of the blurs, in widths of the image."""


def located_change(
    model: Autoencoder, atlas: Atlas, image: Pixels, question: Question
) -> Explanation:
    """Return the smallest change that turns the answer, and where the image supports it.

    Frames and figures are those of `counterfactual`; the saliency is the map above.

    Raises:
        CheckpointError: the atlas belongs to another encoder.
        DataError: the question does not fit, or the head does not answer to any move.
    """
    changed = counterfactual(model, atlas, image, question)
    asked = ask(model, atlas, image, question)
    origin = to_device(asked.sides.origin.astype(np.float32), model)[None]
    with reading(model), torch.no_grad():
        without = model.decode(origin).clamp(0, 1)
    evidence = to_array(evidence_from(model, asked, without)[0].sum(dim=0).clamp_min(0).double())
    width = image.shape[-1]
    there = gaussian_filter(evidence, BLUR_EVIDENCE * width)
    change = gaussian_filter(changed.saliency.astype(np.float64), BLUR_CHANGE * width)
    saliency = np.sqrt(there * change).astype(np.float32)
    return replace(changed, method="located_change", saliency=saliency)
