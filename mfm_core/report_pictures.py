"""The pictures of a report as they stand inside the page.

PNG of at most 150 kB each (`drawing`), base64 in the page, and a bounded number of them
(`gallery`): a page stays below 6 MB. What crosses the hospital's boundary: nothing; pictures of
patients stay where the page is made, and the page says so.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfm_core.gallery import MOST_SWEEPS, Pictures
from mfm_core.pictures import (
    METHOD_NAMES,
    draw_attention,
    draw_class_means,
    draw_methods,
    draw_reconstructions,
)
from mfm_core.pictures import draw_sweep as draw_one
from mfm_core.question import Explanation
from mfm_core.sweep import Sweep, describe, title_of


def drawn(pictures: Pictures) -> dict[str, Any]:
    """Return every picture as a data URL with its words; a part without pictures is empty."""
    rows, means = pictures.reconstructions, pictures.class_means
    shown = means if means is not None and np.isfinite(means).any() else None
    return {
        "no_pictures": pictures.missing,
        "reconstructions": embed(draw_reconstructions(rows)) if rows else None,
        "class_means": None if shown is None else embed(draw_class_means(shown, pictures.classes)),
        "attention": _attention(pictures.attention, shown),
        "axes": [
            {
                "name": f"{axis.attribute}: {axis.value} against {axis.against}",
                "picture": embed(axis.picture),
                "alt": f"The mean image moved along the axis of {axis.attribute}, from "
                f"{axis.against} to {axis.value}, and the difference.",
            }
            for axis in pictures.axes
        ],
        "sweeps": [_sweep(sweep, _methods_of(sweep, pictures)) for sweep in pictures.sweeps],
        "sweeps_left_out": max(0, len(pictures.classes) - MOST_SWEEPS) if pictures.sweeps else 0,
    }


def _attention(maps: NDArray[np.float32] | None, means: NDArray[np.float32] | None) -> str | None:
    """Return the maps of both stages, the second over the mean of the known class means."""
    if maps is None:
        return None
    known = None if means is None else means[np.isfinite(means).all(axis=(1, 2, 3))]
    anatomy = None if known is None or not len(known) else known.mean(axis=0)
    return embed(draw_attention(maps, anatomy))


def _methods_of(sweep: Sweep, pictures: Pictures) -> Sequence[Explanation]:
    """Return what all methods say of the same image and class, or nothing."""
    for row in pictures.methods:
        if len(row) > 1 and row[0].question.target == sweep.target:
            return row
    return ()


def _sweep(sweep: Sweep, methods: Sequence[Explanation]) -> dict[str, Any]:
    names = ", ".join(METHOD_NAMES.get(each.method, each.method) for each in methods)
    return {
        "name": sweep.target,
        "picture": embed(draw_one(sweep)),
        "alt": f"{title_of(sweep)}. {' '.join(describe(sweep))}",
        "methods": embed(draw_methods(methods)) if methods else None,
        "methods_alt": f"Maps of {names} over the same image for {sweep.target}.",
    }


def embed(png: bytes) -> str:
    """Return a PNG as a data URL."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
