"""The look that every picture shares, and its PNG.

Small files (at most MAX_BYTES), legible type, colours that the colour-blind can tell apart (Okabe
and Ito), no metadata. Figures are made without pyplot, so no window or global figure is made. What
crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from scipy.spatial import cKDTree

MAX_BYTES = 150_000
"""Largest PNG; above it the picture gets fewer colours, then fewer pixels."""

DPI = 120
INK, FADED, GRID = "#1d2733", "#5b6775", "#d5dae0"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FADED,
    "axes.labelcolor": INK,
    "xtick.color": FADED,
    "ytick.color": FADED,
    "text.parse_math": False,
}

MANY = 20_000
"""A photograph with more colours than this is brought to steps of 8 before they are counted."""


def encode_png(figure: Figure) -> bytes:
    """Return the figure as PNG of at most MAX_BYTES, without metadata."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib leaves it without types
    drawn = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]  # as above
    full = Image.fromarray(np.ascontiguousarray(drawn[..., :3]))
    content = b""
    for greys, vivid, scale in ((96, 160, 1.0), (64, 96, 1.0), (64, 64, 0.75), (16, 16, 0.4)):
        size = (round(full.width * scale), round(full.height * scale))
        small = full if scale == 1.0 else full.resize(size, Image.Resampling.LANCZOS)
        packed = io.BytesIO()
        _reduce_colours(small, greys, vivid).save(packed, "PNG", optimize=True)
        content = packed.getvalue()
        if len(content) <= MAX_BYTES:
            break
    return content


def _reduce_colours(picture: Image.Image, greys: int, vivid: int) -> Image.Image:
    """Return a picture of `greys` even greys and `vivid` fitted colours: anatomy keeps its tones.

    A palette fitted to everything at once spends itself on grey and loses blue and orange.
    """
    pixels = np.asarray(picture).reshape(-1, 3)
    packed = pixels.astype(np.int64) @ np.array([65536, 256, 1])
    if len(np.unique(packed[::7])) > MANY:
        pixels = pixels // 8 * 8 + 4
        packed = pixels.astype(np.int64) @ np.array([65536, 256, 1])
    _, first, place = np.unique(packed, return_index=True, return_inverse=True)
    colours = pixels[first]
    even = np.repeat(np.linspace(0, 255, greys).round(), 3).reshape(-1, 3)
    strong = colours[np.ptp(colours, axis=1) > 12]
    palette = even
    if len(strong):
        strip = Image.fromarray(np.ascontiguousarray(strong[None]))
        fitted = strip.quantize(vivid, Image.Quantize.MAXCOVERAGE).getpalette() or []
        palette = np.concatenate([even, np.reshape(fitted[: 3 * vivid], (-1, 3))])
    nearest = cKDTree(palette).query(colours.astype(float))[1].astype(np.uint8)
    reduced = Image.fromarray(nearest[place].reshape(picture.height, picture.width))
    reduced.putpalette(palette.astype(np.uint8).tobytes())
    return reduced
