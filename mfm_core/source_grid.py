"""From the model's square back to the pixels of the picture it was made of.

`to_square` pads, crops or stretches a picture; here is the way back, for maps and outlines that
must lie on the source's own rows and columns. Source: ours; the inverse of `raster.to_square`.
What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mfm_core.config import ImageConfig

Floats = NDArray[np.float32]

STRONG = 0.5
"""Part of the largest change from which a pixel belongs to the region of strongest change. Ours."""


@dataclass(frozen=True)
class Placement:
    """Where a picture of `rows` x `columns` lies in the model's square.

    Boxes are (left, top, right, bottom) with (0, 0) at the outer corner of the upper left pixel,
    as in DICOM's spatial coordinates (PS3.3 C.18.6.1.2).

    Attributes:
        rows, columns: the source picture.
        side: of the square, in pixels.
        source: the part of the source that the square shows; parts of pixels can occur.
        square: the part of the square that the source covers, in whole pixels.
    """

    rows: int
    columns: int
    side: int
    source: tuple[float, float, float, float]
    square: tuple[int, int, int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the source per pixel of the square, (across, down)."""
        source, square = self.source, self.square
        across = (source[2] - source[0]) / (square[2] - square[0])
        return across, (source[3] - source[1]) / (square[3] - square[1])


def placement_of(rows: int, columns: int, aspect: float, image: ImageConfig) -> Placement:
    """Return where `raster.to_square` puts a picture.

    Args:
        rows: height of the picture in pixels.
        columns: its width.
        aspect: height of a pixel over its width.
        image: side and fit of the model's square.
    """
    side = image.size_px
    width, height = float(columns), rows * aspect
    whole = (0.0, 0.0, float(columns), float(rows))
    if image.fit == "crop":
        edge = min(width, height)
        left, top = (width - edge) / 2, (height - edge) / 2 / aspect
        shown = (left, top, left + edge, min(top + edge / aspect, float(rows)))
        return Placement(rows, columns, side, shown, (0, 0, side, side))
    if image.fit == "stretch":
        return Placement(rows, columns, side, whole, (0, 0, side, side))
    scale = side / max(width, height)
    across, down = max(1, round(width * scale)), max(1, round(height * scale))
    left_px, top_px = (side - across) // 2, (side - down) // 2
    square = (left_px, top_px, left_px + across, top_px + down)
    return Placement(rows, columns, side, whole, square)


def to_source(values: Floats, placement: Placement) -> Floats:
    """Return a map of the square on the source's own grid; 0 where the square does not show it.

    Bilinear, averaged where the source is coarser than the square. A pixel of the source that the
    square shows only in part counts as not shown.

    Args:
        values: `[side, side] float32`.
        placement: of the source.

    Returns:
        `[rows, columns] float32`.
    """
    left, top, right, bottom = placement.source
    columns, rows = (ceil(left), floor(right)), (ceil(top), floor(bottom))
    grid = np.zeros((placement.rows, placement.columns), dtype=np.float32)
    size = (columns[1] - columns[0], rows[1] - rows[0])
    if min(size) <= 0:
        return grid
    (across, down), square = placement.scale, placement.square
    x = [square[0] + (edge - left) / across for edge in columns]
    y = [square[1] + (edge - top) / down for edge in rows]
    box = (max(x[0], 0.0), max(y[0], 0.0), min(x[1], square[2]), min(y[1], square[3]))
    # The part that holds the picture is cut out first, so that padding never bleeds into it.
    held = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32)).crop(square)
    inside = (box[0] - square[0], box[1] - square[1], box[2] - square[0], box[3] - square[1])
    drawn = held.resize(size, Image.Resampling.BILINEAR, box=inside)
    grid[rows[0] : rows[1], columns[0] : columns[1]] = np.asarray(drawn)
    return grid


def strongest_region(change: Floats, placement: Placement) -> NDArray[np.float64]:
    """Return the outline of the region of strongest change, on the source's own grid.

    The connected region around the largest change in which it reaches `STRONG` of its size,
    between the first and the last such pixel of each row.

    Args:
        change: `[side, side]`, signed; only its size counts, and only where the source lies.
        placement: of the source.

    Returns:
        `[P, 2] float64` of (column, row), a closed line (the first point is also the last),
        within the source. The whole shown part where nothing changes.
    """
    left, top, right, bottom = placement.square
    strength = np.abs(change[top:bottom, left:right])
    largest = float(strength.max())
    parts, _ = ndimage.label(strength >= STRONG * largest)
    peak = np.unravel_index(int(strength.argmax()), strength.shape)
    points = _outline(parts == parts[peak])
    across, down = placement.scale
    points = points * (across, down) + placement.source[:2]
    inside: NDArray[np.float64] = np.clip(points, 0, (placement.columns, placement.rows))
    return inside


def _outline(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the closed outline `[P, 2]` of (column, row) around each row's first to last pixel."""
    rows = np.flatnonzero(region.any(axis=1))
    first = region.argmax(axis=1)[rows]
    last = region.shape[1] - region[:, ::-1].argmax(axis=1)[rows]
    ends = np.stack([rows, rows + 1], axis=1).ravel()
    down = np.stack([np.repeat(first, 2), ends], axis=1)
    up = np.stack([np.repeat(last, 2), ends], axis=1)[::-1]
    points = np.concatenate([down, up, down[:1]]).astype(np.float64)
    before, here, after = points[:-2], points[1:-1], points[2:]
    one, two = here - before, after - here
    turns = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0] != 0
    kept: NDArray[np.float64] = points[np.concatenate([[True], turns, [True]])]
    return kept
