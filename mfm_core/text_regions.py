"""Regions of an image that look like burned-in text, found without reading it.

Ours. Characters are thin strokes of one brightness that stand out from what lies around them, of
about one height, on one line, one close to the next. Strokes are what a flat opening or closing
takes away (top-hat; Serra, Image Analysis and Mathematical Morphology, 1982); connected ones of a
character's shape are joined into lines. A line of fewer than MIN_CHARACTERS is no finding: a side
marker ("L") names nobody. Handwriting, single letters and text drawn in the brightness of its
surroundings are not found: a clean result is no proof that an image holds no text.
Nothing here crosses the hospital's boundary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

MIN_CHARACTERS = 4
"""Fewest characters of a line."""
STROKE_PX = 5
"""Widest stroke at one level of the pyramid; the next level halves the image."""
HEIGHTS_PX = (5, 26)
"""Height of a character at one level."""
LARGEST_SIDE = 2048
"""Larger images are reduced by whole factors first."""
ENLARGED_SIDE = 700
"""Smaller images are doubled first."""
SMALLEST_SIDE = 100
"""No level below this."""
MIN_CONTRAST = 30
"""Least difference between stroke and surroundings, of 255."""
LONG_LINE = 6
"""Characters from which a line counts as long, and may be turned by 90 degrees."""
SHORT = (0.10, 0.07, 0.6, 0.35, 0.12)
LONG = (0.22, 0.10, 0.8, 0.50, 0.40)
"""Largest spread of heights, of base lines, gap, spread of gaps (of the mean height) and of
brightness (of the contrast) within a line. Tuned on synthetic films and looked at on real ones."""

Gray = NDArray[np.uint8]


@dataclass(frozen=True)
class Region:
    """A line of what looks like text, in pixels of the image.

    Attributes:
        top, left, bottom, right: its box; bottom and right are one past the last pixel.
        characters: number of parts that look like characters.
    """

    top: int
    left: int
    bottom: int
    right: int
    characters: int


@dataclass(frozen=True)
class _Parts:
    """Connected strokes of one level: boxes `[P, 4]` (top, left, bottom, right) and measures."""

    boxes: NDArray[np.float64]
    area: NDArray[np.float64]
    peak: NDArray[np.float64]
    around: NDArray[np.float64]

    def height(self, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the heights of some parts."""
        return np.asarray(self.boxes[chosen, 2] - self.boxes[chosen, 0])


def find_text(gray: Gray) -> tuple[Region, ...]:
    """Return the lines of an image that look like text, largest first.

    Args:
        gray: `[H, W] uint8` as shown; 0 is black.
    """
    if min(gray.shape) < HEIGHTS_PX[0]:
        return ()
    factor: float = -(-max(gray.shape) // LARGEST_SIDE)
    level = _reduced(gray, int(factor))
    if max(gray.shape) <= ENLARGED_SIDE:
        level, factor = _doubled(gray), 0.5
    found: list[Region] = []
    while True:
        for turned in (False, True):
            picture = np.ascontiguousarray(level.T) if turned else level
            for bright in (True, False):
                lines = _lines(picture if bright else 255 - picture, turned)
                found += [_placed(line, factor, turned) for line in lines]
        if min(level.shape) // 2 < SMALLEST_SIDE:
            break
        level, factor = _reduced(level, 2), factor * 2
    return _distinct(found)


def _doubled(gray: Gray) -> Gray:
    """Return the image at twice its size, so that letters a pixel apart come apart."""
    large = ndimage.zoom(gray.astype(np.float32), 2, order=3, mode="nearest", grid_mode=True)
    return np.asarray(np.rint(np.clip(large, 0, 255)), dtype=np.uint8)


def _reduced(gray: Gray, factor: int) -> Gray:
    """Return means of blocks of `factor` pixels a side."""
    if factor == 1:
        return gray
    rows, columns = (side // factor * factor for side in gray.shape)
    blocks = gray[:rows, :columns].reshape(rows // factor, factor, columns // factor, factor)
    return np.asarray(np.rint(blocks.mean(axis=(1, 3), dtype=np.float32)), dtype=np.uint8)


def _placed(line: tuple[float, float, float, float, int], factor: float, turned: bool) -> Region:
    top, left, bottom, right = (round(edge * factor) for edge in line[:4])
    if turned:
        top, left, bottom, right = left, top, right, bottom
    return Region(top, left, bottom, right, line[4])


def _distinct(found: list[Region]) -> tuple[Region, ...]:
    """Return the regions without those that mostly lie in a larger one."""
    kept: list[Region] = []
    for region in sorted(found, key=lambda r: (-_size(r), r.top, r.left, -r.characters)):
        if not any(_shared(region, other) > 0.5 * _size(region) for other in kept):
            kept.append(region)
    return tuple(kept)


def _size(region: Region) -> int:
    return (region.bottom - region.top) * (region.right - region.left)


def _shared(one: Region, other: Region) -> int:
    down = min(one.bottom, other.bottom) - max(one.top, other.top)
    across = min(one.right, other.right) - max(one.left, other.left)
    return max(0, down) * max(0, across)


def _lines(gray: Gray, turned: bool) -> list[tuple[float, float, float, float, int]]:
    """Return boxes of lines of bright characters, with their number."""
    parts = _characters(gray)
    order = np.lexsort((parts.boxes[:, 0], parts.boxes[:, 1]))
    chains = _chains(parts, order)
    return [_box(parts, chain) for chain in chains if _is_text(parts, chain, turned)]


def _characters(gray: Gray) -> _Parts:
    """Return the strokes that have the size and shape of a character."""
    size = STROKE_PX + 2
    framed = np.pad(gray, size, mode="edge")  # a gap beside the edge is no stroke
    ground = ndimage.grey_opening(framed, size=(size, size))[size:-size, size:-size]
    lift = gray - ground  # an opening lies nowhere above its image
    near = ndimage.maximum_filter(lift, size=2 * size + 1)
    mask = (lift > MIN_CONTRAST) & (lift > near // 2)
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    slices = ndimage.find_objects(labels)
    boxes = np.array(
        [[s[0].start, s[1].start, s[0].stop, s[1].stop] for s in slices], dtype=np.float64
    ).reshape(count, 4)
    area = np.bincount(labels.ravel(), minlength=count + 1)[1:].astype(np.float64)
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    fill = area / np.maximum(height * width, 1)
    fits = (height >= HEIGHTS_PX[0]) & (height <= HEIGHTS_PX[1])
    fits &= (width <= 1.6 * height) & (width >= 1) & (fill >= 0.18) & (area >= 5)
    chosen = np.flatnonzero(fits)
    of_pixel = labels[mask]
    peak = np.zeros(count + 1)
    np.maximum.at(peak, of_pixel, gray[mask].astype(np.float64))
    around = np.bincount(of_pixel, ground[mask], count + 1)[1:] / np.maximum(area, 1)
    return _Parts(boxes[chosen], area[chosen], peak[1:][chosen], around[chosen])


def _chains(parts: _Parts, order: NDArray[np.int64]) -> list[list[int]]:
    """Return runs of characters of one height on one line, from left to right."""
    chains: list[list[int]] = []
    last = np.empty(0, dtype=np.int64)
    for index in order:
        follows = np.flatnonzero(_follows(parts, last, int(index)))
        if len(follows):
            nearest = int(follows[np.argmax(parts.boxes[last[follows], 3])])
            chains[nearest].append(int(index))
            last[nearest] = index
        else:
            chains.append([int(index)])
            last = np.append(last, index)
    return [chain for chain in chains if len(chain) >= MIN_CHARACTERS]


def _follows(parts: _Parts, last: NDArray[np.int64], new: int) -> NDArray[np.bool_]:
    """Return for the ends of chains `[C]` whether a part may be their next character."""
    left, bottom = parts.boxes[new, 1], parts.boxes[new, 2]
    tall, before = bottom - parts.boxes[new, 0], parts.height(last)
    high, low = np.maximum(tall, before), np.minimum(tall, before)
    gap = left - parts.boxes[last, 3]
    near = (gap >= -0.3 * before) & (gap <= 1.3 * high)
    alike = (high <= 1.6 * low) & (
        np.abs(bottom - parts.boxes[last, 2]) <= _at_least_1(0.15 * high)
    )
    return np.asarray(near & alike)


def _at_least_1(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(values, 1.0)


def _is_text(parts: _Parts, chain: list[int], turned: bool) -> bool:
    """Return whether a chain is as even as print; short ones must be more so."""
    boxes, height = parts.boxes[chain], parts.height(np.array(chain))
    tall = float(height.mean())
    gaps = (boxes[1:, 1] - boxes[:-1, 3]) / tall
    contrast = parts.peak[chain] - parts.around[chain]
    limits = LONG if len(chain) >= LONG_LINE else SHORT
    if turned and len(chain) < LONG_LINE:
        return False
    measured = (
        float(height.std()) / tall,
        float(boxes[:, 2].std()) / tall,
        float(np.median(gaps)),
        float(gaps.std()),
        float(parts.peak[chain].std() / np.median(contrast)),
    )
    return all(value <= limit for value, limit in zip(measured, limits, strict=True))


def _box(parts: _Parts, chain: list[int]) -> tuple[float, float, float, float, int]:
    boxes = parts.boxes[chain]
    low, high = boxes.min(axis=0), boxes.max(axis=0)
    return float(low[0]), float(low[1]), float(high[2]), float(high[3]), len(chain)
