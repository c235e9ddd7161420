"""What a bias axis looks like: the mean latent moved along a field's axis, decoded.

The start is the mean latent of all patients, so no patient is shown; the axis is class-conditional
(`contrasts`), so that disease which goes together with the field stays out of it. A radiologist
can then say what the field is made of: a marker in a corner, a higher diaphragm, a harder grey
curve. Source: ours (design section 10), after paper section 3.3.
What crosses the hospital's boundary: nothing; model and atlas have been released already.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mfm_core.atlas import Atlas
from mfm_core.autoencoder import Autoencoder
from mfm_core.contrasts import contrast_to, sides_of
from mfm_core.devices import to_array, to_device
from mfm_core.drawing import DPI, FADED, INK, STYLE, encode_png
from mfm_core.errors import DataError
from mfm_core.pictures import GAP, HEADER, TILE, overlay
from mfm_core.question import ALPHA_LIMIT, check_encoder, reading

ALPHAS = (-2.0, -1.0, 0.0, 1.0, 2.0)
"""Steps when none are given; 1 is the whole mean difference of the two sides."""

SHOWN = 1.0
"""Step of the picture: from the mean one whole difference to either side."""

LEAST_SCALE = 0.05
"""Smallest full colour of the difference, part of full scale; noise stays pale."""

CAPTION, FOOT = 0.3, 0.45

Pixels = NDArray[np.float32]


def decode_bias_axis(
    model: Autoencoder,
    atlas: Atlas,
    attribute: str,
    value: str,
    alphas: Sequence[float] = ALPHAS,
) -> Pixels:
    """Return what the decoder draws for the mean latent + alpha * axis.

    Args:
        model: the autoencoder whose latents the atlas describes.
        atlas: with the attribute; "site" after `with_sites` or `here_or_elsewhere`.
        attribute: the field.
        value: where alpha > 0 leads; the other side is every other value, pooled by patients.
        alphas: A steps in [-4, 4].

    Returns:
        `[A, C, H, W] float32 in [0, 1]`.

    Raises:
        CheckpointError: the atlas belongs to another encoder.
        ConfigError: no such attribute or value.
        DataError: an alpha out of range, no axis (one side only), or an atlas without patients or
            with numbers that are not finite.
    """
    check_encoder(model, atlas)
    sides = sides_of(atlas, contrast_to(atlas.ontology, attribute, value))
    problems = [f"{attribute} {value}: {sides.problem}; choose another"] if sides.problem else []
    bad = [f"{alpha:g}" for alpha in alphas if not abs(alpha) <= ALPHA_LIMIT]
    if bad:
        limits = f"[-{ALPHA_LIMIT:g}, {ALPHA_LIMIT:g}]"
        problems.append(f"alpha {', '.join(bad)} is outside {limits}; choose smaller steps")
    if not np.isfinite(atlas.means).all() or not np.isfinite(sides.means).all():
        problems.append("the atlas is not finite; ask the coordinator for a new one")
    if problems:
        raise DataError("bias axis", problems)
    middle = atlas.counts @ atlas.means / atlas.counts.sum()
    moved = middle + np.outer(np.asarray(alphas, dtype=np.float64), sides.axis)
    with reading(model), torch.inference_mode():
        drawn = model.decode(to_device(moved.astype(np.float32), model)).clamp(0, 1)
    frames: Pixels = to_array(drawn)
    return frames


def draw_bias_axis(
    model: Autoencoder, atlas: Atlas, attribute: str, value: str, alpha: float = SHOWN
) -> bytes:
    """Return one row as PNG: away from the value, the mean, towards it, and the difference.

    Orange gets brighter towards the value and blue darker.

    Raises:
        As `decode_bias_axis`; DataError for alpha <= 0 too.
    """
    if not alpha > 0:
        raise DataError("bias axis", [f"alpha is {alpha:g}; the picture needs a step above 0"])
    frames = decode_bias_axis(model, atlas, attribute, value, (-alpha, 0.0, alpha))
    change = (frames[2] - frames[0]).mean(axis=0)
    scale = max(float(np.abs(change).max()), LEAST_SCALE)
    against = contrast_to(atlas.ontology, attribute, value).against
    names = (f"towards {against}", "mean of all patients", f"towards {value}", "difference")
    tiles = [*frames, overlay(change, frames[1].mean(axis=0), scale)]
    width = len(tiles) * (TILE + GAP) + GAP
    height = HEADER + TILE + CAPTION + FOOT
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        title = f"{attribute}: what the model's “{value}” looks like"
        figure.text(GAP / width, 1 - 0.08 / height, title, va="top", weight="bold", size=11)
        for column, (name, tile) in enumerate(zip(names, tiles, strict=True)):
            left = (GAP + column * (TILE + GAP)) / width
            size = (TILE / width, TILE / height)
            axes = figure.add_axes((left, 1 - (HEADER + TILE) / height, *size))
            picture = tile if tile.shape[-1] == 3 else np.moveaxis(tile, 0, -1)
            picture = picture if picture.shape[-1] == 3 else np.repeat(picture, 3, axis=-1)
            axes.imshow(np.clip(picture, 0, 1), interpolation="bicubic")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            axes.set_xlabel(_short(name), size=9.5, color=INK)
        note = (
            f"Mean latent moved by {alpha:g} times the mean difference within classes; no patient "
            f"is shown.\nOrange: brighter with {_short(value)}; blue: darker; "
            f"full colour at ±{scale:.2f} of full scale."
        )
        figure.text(GAP / width, 0.08 / height, note, va="bottom", size=9, color=FADED)
        return encode_png(figure)


def _short(text: str) -> str:
    return text if len(text) <= 24 else text[:23] + "…"
