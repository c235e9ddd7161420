"""A decoded picture of any size and how it becomes the model's square.

DESIGN section 3. Nothing here crosses the hospital's boundary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mfm_core.config import ImageConfig
from mfm_core.errors import DataError

RANGE_PERCENTILES = (0.1, 99.9)
"""What becomes black and white when nothing else says so (see `own_range`)."""

MAX_PIXELS = 2**27
"""Pixels of one frame; more is taken for a damaged header or an attack on the memory."""

_SAMPLE = 2**20


@dataclass(frozen=True)
class Raster:
    """One frame as people see it.

    Attributes:
        pixels: `[H, W] uint8` or `[H, W, 3] uint8` (RGB); 0 is black.
        aspect: height of a pixel over its width.
    """

    pixels: NDArray[np.uint8]
    aspect: float = 1.0


def unreadable(reason: str) -> DataError:
    """Return the error of one image; `problems[0]` is the reason, which names no file."""
    return DataError("image", [reason])


def pick_frame(count: int, frame: int | Literal["middle"]) -> int:
    """Return the index of the frame to read out of `count`; a single frame is always the one.

    Raises:
        DataError: there is no such frame.
    """
    if count == 1:
        return 0
    index = count // 2 if frame == "middle" else frame
    if not 0 <= index < count:
        raise unreadable(f"has {count} frames (0 to {count - 1}), frame {index} was asked for")
    return index


def own_range(values: NDArray[Any], ignored: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Return values of any range as uint8: black and white are the image's own range.

    Black is the 0.1 and white the 99.9 percentile of the finite values (a few hot pixels must not
    darken the rest); minimum and maximum where these two are equal. A constant image is black.

    Args:
        values: any shape, any real dtype.
        ignored: same shape; True where a value is padding, which is painted black.

    Raises:
        DataError: no finite value is left.
    """
    known = np.isfinite(values)
    if ignored is not None and not ignored.all():
        known &= ~ignored
    sample = values[known]
    if sample.size == 0:
        raise unreadable("holds no finite pixel value")
    thinned = sample[:: max(1, sample.size // _SAMPLE)].astype(np.float64)
    low, high = (float(edge) for edge in np.percentile(thinned, RANGE_PERCENTILES))
    if low >= high:
        low, high = float(sample.min()), float(sample.max())
    scaled = np.where(known, values, low).astype(np.float32)
    return from_unit((scaled - np.float32(low)) / np.float32(max(high - low, 1e-30)))


def from_unit(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return numbers in [0, 1] as uint8, rounded; what lies outside is clipped."""
    return np.asarray(np.rint(np.clip(values, 0.0, 1.0) * 255.0), dtype=np.uint8)


def to_square(raster: Raster, image: ImageConfig) -> NDArray[np.uint8]:
    """Return the picture as `[C, size, size] uint8`.

    `pad` keeps all of it on black, `crop` keeps the largest centred square, `stretch` changes the
    proportions; the first two honour the shape of a pixel. Bicubic with the filter widened by the
    reduction, so fine structure is averaged and not aliased. Gray is ITU-R 601 luma.
    """
    picture = Image.fromarray(raster.pixels).convert("L" if image.channels == 1 else "RGB")
    size = image.size_px
    width, height = picture.width, picture.height * raster.aspect
    box = None
    target = (size, size)
    if image.fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2 / raster.aspect
        box = (left, top, left + side, min(top + side / raster.aspect, float(picture.height)))
    elif image.fit == "pad":
        scale = size / max(width, height)
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = picture.resize(target, Image.Resampling.BICUBIC, box=box)
    square = Image.new(picture.mode, (size, size))
    square.paste(resized, ((size - target[0]) // 2, (size - target[1]) // 2))
    pixels = np.asarray(square, dtype=np.uint8)
    return pixels[None] if image.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
