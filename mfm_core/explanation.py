"""Visual explanations: what the model would have to see to say something else.

`METHODS` holds every method under one signature, `(model, atlas, image, question) ->
Explanation`, so that they can be compared on the same image. `class_shift` is the paper's:
z* = z + alpha (z1 - z0), decoded (section 2.5.1, equation 1, and 2.5.2); z1 is the latent mean of
the wished class, z0 that of all others or of one other class; both come from the atlas. Asked
about an attribute it moves along the class-conditional axis of its value. What crosses the
hospital's boundary: nothing. Sweeps and difference maps are pictures of a patient and stay where
the image is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch

from mfm_core.atlas import Atlas
from mfm_core.attribution import grad_cam, integrated_gradients
from mfm_core.autoencoder import Autoencoder
from mfm_core.counterfactual import counterfactual
from mfm_core.devices import to_array, to_device
from mfm_core.latent_gradient import latent_gradient
from mfm_core.latent_path import Way, draw_way, with_zero
from mfm_core.located_change import located_change
from mfm_core.question import (
    ALPHA_LIMIT,
    ALPHAS,
    Explanation,
    Method,
    Question,
    ask,
    check_encoder,
    reading,
)
from mfm_core.sweep import Pixels, Sweep

__all__ = (
    "ALPHAS",
    "ALPHA_LIMIT",
    "METHODS",
    "Explanation",
    "Method",
    "Question",
    "check_encoder",
    "class_shift",
    "decode_class_means",
    "shift",
)


def shift(model: Autoencoder, atlas: Atlas, image: Pixels, question: Question) -> Explanation:
    """Return the image moved along the axis of a class or of a value of an attribute.

    The saliency is the size of the change where the answer turns, else at the farther end.

    Raises:
        CheckpointError: the atlas belongs to another encoder.
        DataError: the question does not fit model, atlas or image; all reasons at once.
    """
    asked = ask(model, atlas, image, question)
    way = Way(with_zero(question.alphas), asked.sides.axis)
    sweep = draw_way(model, atlas, asked, way)
    return Explanation("class_shift", question, image, np.abs(sweep.difference), sweep)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "class_shift": shift,
        "counterfactual": counterfactual,
        "located_change": located_change,
        "latent_gradient": latent_gradient,
        "grad_cam": grad_cam,
        "integrated_gradients": integrated_gradients,
    }
)
"""Every method by name, all with one signature."""


def class_shift(
    model: Autoencoder,
    atlas: Atlas,
    image: Pixels,
    target: str,
    versus: str | None = None,
    alphas: Sequence[float] = ALPHAS,
) -> Sweep:
    """Return the sweep of `shift` for a class: one image moved along the axis of `target`.

    Args:
        model: the autoencoder whose latent space the atlas describes.
        atlas: class means of the consortium.
        image: `[C, H, W] float32 in [0, 1]`, the size the model was built for.
        target: class that alpha > 0 moves towards.
        versus: class to move away from; None is all others.
        alphas: steps in [-4, 4]; 0 is added when missing.

    Raises:
        CheckpointError, DataError: as in `shift`.
    """
    asked = ask(model, atlas, image, Question(target, versus, tuple(alphas)))
    return draw_way(model, atlas, asked, Way(with_zero(alphas), asked.sides.axis))


def decode_class_means(model: Autoencoder, atlas: Atlas) -> Pixels:
    """Return what the model draws for the mean latent of each class (paper section 2.5.2).

    Returns:
        `[K, C, H, W] float32 in [0, 1]`; NaN for a class without images.

    Raises:
        CheckpointError: the atlas belongs to another encoder.
    """
    check_encoder(model, atlas)
    means = np.asarray(atlas.means, dtype=np.float32)
    with reading(model), torch.inference_mode():
        drawn = to_array(model.decode(to_device(np.nan_to_num(means), model)).clamp(0, 1))
    drawn[np.asarray(atlas.counts) <= 0] = np.nan
    return np.asarray(drawn, dtype=np.float32)
