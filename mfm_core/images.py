"""One image file as the model's input: PNG, JPEG, TIFF or DICOM, known by content.

DESIGN section 3. The name of a file decides nothing. Nothing here crosses the hospital's
boundary; a reason names no file, the caller knows which one it asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mfm_core.config import ImageConfig
from mfm_core.dicom import is_dicom, read_dicom
from mfm_core.errors import DataError
from mfm_core.raster import MAX_PIXELS, Raster, own_range, pick_frame, to_square, unreadable

_MAGIC = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "TIFF": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
}

Frame = int | Literal["middle"]


def read_image(path: Path, image: ImageConfig, frame: Frame = "middle") -> NDArray[np.uint8]:
    """Return one image as `[C, size, size] uint8`.

    Gray of more than 8 bits is scaled by its own range (`own_range`), as is colour of 16 bits in
    a PNG; colour of 16 bits in a TIFF keeps its high byte. DICOM is shown as `read_dicom` says.
    Transparency lies on black, a camera's rotation mark is honoured.

    Args:
        path: a file; recognised by content.
        image: side, channels and fit.
        frame: frame of a multi-frame DICOM or page of a TIFF, from 0.

    Raises:
        DataError: why it cannot be used, as `problems[0]`; names no file.
    """
    with quiet_decoders():
        return decode_image(path, image, frame)


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Silence decoder warnings, which quote headers. Not thread-safe: enter it outside a pool."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode_image(path: Path, image: ImageConfig, frame: Frame) -> NDArray[np.uint8]:
    """Do the work of `read_image` without touching Python's warning filters, for a pool."""
    try:
        raster = _read_raster(path, image, frame)
    except DataError:
        raise
    except Exception as error:  # decoders raise struct.error, zlib.error, SyntaxError, ...
        raise unreadable(_reason(error)) from None
    return to_square(raster, image)


_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (FileNotFoundError, "is not there"),
    (IsADirectoryError, "is a folder"),
    (PermissionError, "may not be read; check its permissions"),
    (UnidentifiedImageError, "is damaged: its header cannot be read"),
    (Image.DecompressionBombError, f"is larger than {MAX_PIXELS} pixels; reduce it first"),
    (MemoryError, "needs more memory than there is; reduce it first"),
)


def _reason(error: Exception) -> str:
    """Return why a file failed, without quoting the exception (Pillow's quotes paths)."""
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return "is cut off: it ends before its pixels do; copy it again"
    return f"is damaged: its pixels cannot be decoded ({type(error).__name__})"


def _read_raster(path: Path, image: ImageConfig, frame: Frame) -> Raster:
    with path.open("rb") as file:
        head = file.read(132)
    if not head:
        raise unreadable("is empty (0 bytes)")
    if is_dicom(head):
        return read_dicom(path, frame)
    for name, starts in _MAGIC.items():
        if head.startswith(starts):
            return _read_pillow(path, name, image, frame)
    raise unreadable("is not a PNG, JPEG, TIFF or DICOM (another format, or a damaged start)")


def _read_pillow(path: Path, name: str, image: ImageConfig, frame: Frame) -> Raster:
    with Image.open(path, formats=[name]) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise unreadable(f"is larger than {MAX_PIXELS} pixels; reduce it first")
        if name == "TIFF":
            opened.seek(pick_frame(getattr(opened, "n_frames", 1), frame))
        if name == "PNG" and _is_deep_colour(opened):
            return Raster(_deep_png(path))
        if name == "JPEG" and opened.mode in ("L", "RGB"):
            side = 2 * image.size_px  # decode large ones reduced, never below twice the target
            opened.draft("L" if image.channels == 1 else None, (side, side))
        upright = ImageOps.exif_transpose(opened)
        if upright.mode == "F" or upright.mode.startswith("I"):
            return Raster(own_range(np.asarray(upright)))
        return Raster(np.asarray(_opaque(upright)))


def _is_deep_colour(opened: Image.Image) -> bool:
    """Return whether a PNG holds 16-bit colour, of which Pillow would keep the high byte."""
    tiles = getattr(opened, "tile", None) or [("", None, 0, "")]
    return ";16" in str(tiles[0][3]) and not opened.mode.startswith("I")


def _deep_png(path: Path) -> NDArray[np.uint8]:
    """Return a 16-bit gray-alpha, RGB or RGBA PNG as uint8 by the own range of its colours."""
    from torchvision.io import ImageReadMode, decode_image, read_file

    tensor = decode_image(read_file(str(path)), mode=ImageReadMode.UNCHANGED)
    values = tensor.numpy().transpose(1, 2, 0)
    bands = values.shape[2]
    colours = own_range(values[..., : 1 if bands < 3 else 3])
    if bands in (2, 4):
        alpha = values[..., -1:].astype(np.float32) / 65535.0
        colours = np.asarray(np.rint(colours * alpha), dtype=np.uint8)
    return colours[..., 0] if bands < 3 else colours


def _opaque(picture: Image.Image) -> Image.Image:
    """Return an 8-bit picture as L or RGB, transparency laid on black."""
    if picture.mode in ("L", "RGB"):
        return picture
    if picture.mode == "1":
        return picture.convert("L")
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        ground = Image.new("RGBA", layered.size, (0, 0, 0, 255))
        return Image.alpha_composite(ground, layered).convert("RGB")
    return picture.convert("RGB")
