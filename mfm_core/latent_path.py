"""Frames along a straight way through latent space, each drawn, read again and judged again.

z* = z + alpha d, decoded (paper section 2.5.1, equation 1), for any direction d. Differences from
the paper: every frame is also encoded and judged again, f(E(D(z*))), because the direct score
f(z*) is monotone by construction with a linear judge; and `mu` is used, never a sampled z. All
frames are decoded, and encoded again, in one batch.

Supported frames (ours): seen along d alone, the latents of class c lie about d'm_c with variance
d'S d, S the pooled within-class covariance of the training patients. A frame is supported while
(d'(z* - m_c))^2 / d'S d is at most the 0.999 quantile of chi-square with one degree of freedom
(3.3 standard deviations) for the class c that is nearest. Only d is looked at because nothing else
changes along the way: in all L dimensions chi-square allows L, and a move of ten standard
deviations along one of a thousand directions would pass.

What crosses the hospital's boundary: nothing; frames are pictures of a patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chi2

from mfm_core.atlas import Atlas
from mfm_core.autoencoder import Autoencoder
from mfm_core.devices import to_array, to_device
from mfm_core.question import Asked, reading
from mfm_core.ssim import ssim
from mfm_core.sums import Array
from mfm_core.sweep import Floats, Sweep

SUPPORT = float(chi2.ppf(0.999, df=1))
"""Largest squared distance, in within-class variances along the way, of a supported frame."""


@dataclass(frozen=True)
class Way:
    """Where the frames lie.

    Attributes:
        alphas: `[A] float64` that rise and hold 0.
        direction: `[L]`, the move of alpha = 1.
    """

    alphas: Floats
    direction: Array


def with_zero(alphas: Sequence[float]) -> Floats:
    """Return the steps in rising order, each once, with 0 among them."""
    return np.array(sorted({0.0, *(float(alpha) for alpha in alphas)}))


def is_supported(atlas: Atlas, latents: Array, direction: Array) -> NDArray[np.bool_]:
    """Return `[A] bool`: whether latents `[A, L]` lie where the decoder was trained, seen along d.

    A direction along which no patient differs within a class supports nothing but the means.
    """
    means = atlas.means[np.asarray(atlas.counts) > 0]
    far = (latents @ direction)[:, None] - means @ direction
    variance = max(float(direction @ atlas.covariance @ direction), np.finfo(np.float64).tiny)
    return np.asarray((far**2).min(axis=1) <= SUPPORT * variance)


def draw_way(model: Autoencoder, atlas: Atlas, asked: Asked, way: Way) -> Sweep:
    """Return the frames of a way, decoded, encoded again and judged both ways."""
    sides, latent = asked.sides, asked.latent
    direction = to_device(way.direction.astype(np.float32), model)
    with reading(model), torch.inference_mode():
        moved = latent + to_device(way.alphas.astype(np.float32), model)[:, None] * direction
        frames = model.decode(moved).clamp(0, 1)
        again, _ = model.encode(frames)
        direct, reencoded = sides.judge(moved), sides.judge(again)
        zero = int(np.flatnonzero(way.alphas == 0.0)[0])
        cycle = (again[zero] - latent[0]).norm() / latent[0].norm().clamp_min(1e-12)
        likeness = ssim(frames[zero : zero + 1], asked.picture)
        readings = _softmax(model.classify(again))
    return Sweep(
        target=sides.names[sides.label],
        versus=asked.question.versus,
        classes=sides.names,
        alphas=way.alphas,
        images=to_array(frames),
        probabilities_direct=_softmax(direct),
        probabilities_reencoded=_softmax(reencoded),
        log_odds=_log_odds(reencoded, sides.label),
        original=to_array(asked.picture[0]),
        cycle=float(to_array(cycle)),
        ssim=float(likeness),
        supported=is_supported(atlas, to_array(moved.double()), way.direction),
        attribute=asked.question.attribute,
        findings=tuple(atlas.ontology.classes),
        readings=readings,
    )


def _softmax(logits: torch.Tensor) -> Floats:
    """Return `[A, K] float64`."""
    return np.asarray(to_array(logits.double().softmax(dim=1)))


def _log_odds(logits: torch.Tensor, label: int) -> Floats:
    """Return `[A] float64`, logit of the class minus the log-sum-exp of the others."""
    exact = logits.double()
    others = torch.cat([exact[:, :label], exact[:, label + 1 :]], dim=1)
    return np.asarray(to_array(exact[:, label] - others.logsumexp(dim=1)))
