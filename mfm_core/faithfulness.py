"""How far an explanation can be believed: scores of a sweep and of a difference map.

The class axis is added to the latent and the head is linear, so the probability read straight
from the moved latent rises by construction and proves nothing. Every score here is therefore
meant for the re-encoded curve f(E(D(z*))): the picture is drawn, read again and judged again.
Source: paper section 2.5.1 (equation 1) and 3.2.1; the scores are ours (the paper has none).
What crosses the hospital's boundary: nothing here; scores of many patients leave as histograms
(`explanation_sums`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from scipy.stats import rankdata

from mfm_core.ssim import WINDOW, ssim, window_centres

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CurveScore:
    """How a probability answers to alpha.

    Attributes:
        spearman: rank correlation of alpha and probability in [-1, 1]; 0 for a flat curve.
        strictly_monotone: the probability rises at every step.
        flip_alpha: the signed alpha of smallest size at which the answer turns, else None.
    """

    spearman: float
    strictly_monotone: bool
    flip_alpha: float | None


@dataclass(frozen=True)
class Localisation:
    """How a difference map agrees with the true region.

    Attributes:
        iou: intersection over union in [0, 1] of the mask and the equally large set of pixels
            that change most.
        pointing: the one pixel that changes most lies in the mask.
    """

    iou: float
    pointing: bool


def score_curve(alphas: Floats, curve: Floats, says_target: NDArray[np.bool_]) -> CurveScore:
    """Return how the probability of the target, or its log odds, follows alpha.

    A flip counts only in the direction that was asked for: an answer "not the target" has to
    become the target at some alpha > 0, an answer "target" has to be lost at some alpha < 0.

    Args:
        alphas: `[A] float64`, rising, with 0 among them.
        curve: `[A] float64` probability or log odds of the target.
        says_target: `[A] bool`, whether the target is the most probable class.

    Raises:
        ValueError: alphas do not rise strictly or 0 is missing.
    """
    if np.any(np.diff(alphas) <= 0) or 0.0 not in alphas:
        raise ValueError("alphas must rise strictly and hold 0")
    ranks_x, ranks_y = rankdata(alphas), rankdata(curve)
    flat = np.ptp(curve) == 0 or len(alphas) < 2
    spearman = 0.0 if flat else float(np.corrcoef(ranks_x, ranks_y)[0, 1])
    start = bool(says_target[np.flatnonzero(alphas == 0.0)[0]])
    turned = (says_target != start) & ((alphas < 0) if start else (alphas > 0))
    flips = alphas[turned]
    return CurveScore(
        spearman=spearman,
        strictly_monotone=bool(len(alphas) > 1 and np.all(np.diff(curve) > 0)),
        flip_alpha=float(flips[np.abs(flips).argmin()]) if flips.size else None,
    )


def localise(difference: NDArray[np.float32], mask: NDArray[np.bool_]) -> Localisation:
    """Return how well the largest changes of a picture cover the true region.

    Args:
        difference: `[H, W]`, signed; only its size counts.
        mask: `[H, W] bool`, at least one true pixel.

    Raises:
        ValueError: shapes differ or the mask is empty.
    """
    if difference.shape != mask.shape or not mask.any():
        raise ValueError(f"need a mask of shape {difference.shape} with a true pixel")
    strength = np.abs(difference).ravel()
    truth = mask.ravel()
    area = int(truth.sum())
    chosen = np.zeros_like(truth)
    chosen[np.argsort(-strength, kind="stable")[:area]] = True
    shared = int((chosen & truth).sum())
    return Localisation(
        iou=shared / (2 * area - shared), pointing=bool(truth[int(strength.argmax())])
    )


def likeness_outside(
    frame: NDArray[np.float32], reference: NDArray[np.float32], region: NDArray[np.bool_]
) -> float | None:
    """Return the SSIM of two pictures where no SSIM window touches a region.

    Args:
        frame: `[C, H, W] float32 in [0, 1]`.
        reference: as `frame`.
        region: `[H, W] bool`, what must not count; without a true pixel it is the plain SSIM.

    Returns:
        SSIM in [-1, 1], None where every window touches the region.
    """
    touched = maximum_filter(region, size=WINDOW, mode="constant")
    weight = torch.from_numpy((~touched).astype(np.float32))[None, None]
    part = window_centres(weight).mean()
    if part == 0:
        return None
    x, y = (torch.from_numpy(np.ascontiguousarray(picture))[None] for picture in (frame, reference))
    with torch.inference_mode():
        return float(ssim(x, y, weight / part)[0])


def map_likeness(one: NDArray[np.float32], other: NDArray[np.float32]) -> float | None:
    """Return the SSIM of the sizes of two maps `[H, W]`, each scaled to a largest value of 1.

    An explanation that looks the same whatever it explains has a likeness near 1 (Adebayo et al.,
    "Sanity checks for saliency maps", NeurIPS 2018). A map of zeros has none: None.
    """
    sizes = [np.abs(saliency).astype(np.float32) for saliency in (one, other)]
    if min(float(size.max()) for size in sizes) <= 0:
        return None
    x, y = (torch.from_numpy(size / size.max())[None, None] for size in sizes)
    with torch.inference_mode():
        return float(ssim(x, y)[0])
