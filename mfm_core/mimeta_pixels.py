"""The pictures of a data set in the MIMeta layout, from images.hdf5 or images/*.tiff.

Either is enough. HDF5 is read where it is there (one file, no decoding); then the TIFF files are
held against it: their numbers all, their content at up to CHECKED rows. Colour follows info.yaml:
grey is `[N, H, W]`, RGB `[N, H, W, 3]`, both uint8. A grey picture becomes three equal channels
and RGB its luma where the run says so. Nothing here crosses the hospital's boundary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mfm_core.config import ImageConfig
from mfm_core.errors import DataError
from mfm_core.image_cache import Pixels, keep_pixels
from mfm_core.images import quiet_decoders
from mfm_core.mimeta import MimetaSet, row_of, rows_of
from mfm_core.mimeta_info import MimetaInfo
from mfm_core.raster import Raster, to_square

CHECKED = 256
"""TIFF files whose content is compared with the HDF5 file, evenly spread over the rows."""

HDF5, DATASET, TIFFS = "images.hdf5", "images", "images"

Picture = NDArray[np.uint8]
Read = Callable[[int], Picture]


def mimeta_pixels(found: MimetaSet, image: ImageConfig, folder: Path) -> Pixels:
    """Return `[N, C, size, size] uint8`, the pictures of a data set as the model's square.

    Args:
        found: the data set, its tables read.
        image: side, channels and fit.
        folder: where decoded pixels are kept between calls; made when absent.

    Raises:
        DataError: every problem of the pictures at once.
    """
    shape = (len(found), image.channels, image.size_px, image.size_px)
    with _opened(found) as (read, problems):
        if problems:
            raise DataError(f"MIMeta data set {found.folder.name}", problems)

        def decode(row: int) -> NDArray[np.uint8]:
            return to_square(Raster(read(row)), image)

        kept, failures = keep_pixels(folder, _key(found, image), shape, decode, threads=1)
    if failures:
        grouped: dict[str, list[int]] = {}
        for row, reason in failures:
            grouped.setdefault(reason, []).append(row)
        lines = [f"images: {rows_of(rows)}: {reason}" for reason, rows in grouped.items()]
        raise DataError(f"MIMeta data set {found.folder.name}", lines)
    return kept


def picture_problems(folder: Path, info: MimetaInfo) -> list[str]:
    """Return what is wrong with a data set's files of pictures, whatever its tables say.

    Args:
        folder: of the data set.
        info: what its info.yaml says of their number and size.
    """
    nowhere = np.zeros(0, dtype=np.int64)
    bare = MimetaSet(folder, info, {}, {}, nowhere, nowhere, {})
    with _opened(bare) as (_, problems):
        return problems


def picture_shape(found: MimetaSet) -> tuple[int, ...]:
    """Return `(H, W)` of a grey and `(H, W, 3)` of a colour data set."""
    channels, height, width = found.info.input_size
    return (height, width) if channels == 1 else (height, width, 3)


def _key(found: MimetaSet, image: ImageConfig) -> str:
    """Return the SHA-256 (hex) of what the pixels depend on: paths, sizes and times of change."""
    files = [found.folder / HDF5, *sorted((found.folder / TIFFS).glob("*"))]
    stamps = [
        (str(path), path.stat().st_size, path.stat().st_mtime_ns)
        for path in files
        if path.is_file()
    ]
    identity = ["mimeta", image.model_dump(mode="json"), stamps]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


@contextmanager
def _opened(found: MimetaSet) -> Iterator[tuple[Read, list[str]]]:
    """Give a function from row to picture, and what is wrong with the files."""
    tiffs, problems = _list_tiffs(found)
    path = found.folder / HDF5
    if not path.is_file():
        if not tiffs and not problems:
            problems.append(f"neither {HDF5} nor {TIFFS}/000000.tiff is there")
        with quiet_decoders():
            yield lambda row: _read_tiff(tiffs[row], found), problems
        return
    try:
        file = h5py.File(path, "r")
    except OSError:
        yield _nothing, [*problems, f"{HDF5}: is damaged or no HDF5 file; copy it again"]
        return
    with file, quiet_decoders():
        wrong = _hdf5_problems(file, found)
        if wrong:
            yield _nothing, [*problems, *wrong]
            return
        pictures = file[DATASET]
        read = _reader(pictures)
        yield read, [*problems, *_differences(read, tiffs, found)]


def _reader(pictures: h5py.Dataset) -> Read:
    def read(row: int) -> Picture:
        try:
            return np.asarray(pictures[row], dtype=np.uint8)
        except (OSError, RuntimeError):
            raise DataError("image", [f"{HDF5} is damaged there; copy it again"]) from None

    return read


def _nothing(row: int) -> Picture:
    raise DataError("image", ["cannot be read"])


def _hdf5_problems(file: h5py.File, found: MimetaSet) -> list[str]:
    pictures = file.get(DATASET)
    if not isinstance(pictures, h5py.Dataset):
        names = ", ".join(sorted(file)) or "nothing"
        if DATASET in names.split(", "):
            names = f"{DATASET!r} as a group or as a link that leads nowhere"
        return [f"{HDF5}: expected the data set {DATASET!r}, found {names}"]
    problems, shape, there = [], picture_shape(found), pictures.shape or (0,)
    if pictures.dtype != np.uint8:
        problems.append(f"{HDF5}: holds {pictures.dtype}, expected uint8")
    if there[0] != len(found):
        problems.append(f"{HDF5}: holds {there[0]} images, info.yaml says {len(found)}")
    if there[1:] != shape:
        size = list(found.info.input_size)
        problems.append(
            f"{HDF5}: an image has shape {there[1:]}, expected {shape} "
            f"(info.yaml input_size {size}: channels, height, width)"
        )
    return problems


def _list_tiffs(found: MimetaSet) -> tuple[dict[int, Path], list[str]]:
    """Return the TIFF files by row, and what is wrong with their names and numbers."""
    folder = found.folder / TIFFS
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [path for path in files if not path.name.startswith(".")]  # e.g. .DS_Store
    if not files:
        return {}, []
    names = {path: row_of(f"{TIFFS}/{path.name}") for path in files}
    tiffs = {row: path for path, row in names.items() if row is not None}
    strange = sum(row is None for row in names.values())
    problems = []
    if strange:
        problems.append(
            f"{TIFFS}: files not called like 000012.tiff: {strange}; rename or remove them"
        )
    if len(tiffs) + strange < len(names):
        problems.append(f"{TIFFS}: two files have the same number")
    if beyond := sorted(row for row in tiffs if row >= len(found)):
        problems.append(f"{TIFFS}: {rows_of(beyond)}: info.yaml says {len(found)} images")
    if missing := sorted(set(range(len(found))) - set(tiffs)):
        problems.append(f"{TIFFS}: no file for {rows_of(missing)} of {len(found)}")
    return tiffs, problems


def _read_tiff(path: Path, found: MimetaSet) -> Picture:
    """Return one picture as it lies in its file.

    Raises:
        DataError: damaged, or of another size, depth or colour than info.yaml says.
    """
    try:
        with Image.open(path, formats=["TIFF"]) as opened:
            mode, pages = opened.mode, getattr(opened, "n_frames", 1)
            pixels = np.asarray(opened)
    except Exception:  # decoders raise whatever they like
        raise DataError("image", ["the TIFF file is damaged or no TIFF; copy it again"]) from None
    shape = picture_shape(found)
    if pages > 1:
        raise DataError("image", [f"the TIFF file has {pages} pages, expected one picture"])
    if mode not in ("L", "RGB"):
        reason = f"the TIFF file has the mode {mode}, expected 8-bit grey or RGB"
        raise DataError("image", [reason])
    if pixels.shape != shape:
        reason = f"the TIFF file has shape {pixels.shape}, expected {shape} as info.yaml says"
        raise DataError("image", [reason])
    return np.asarray(pixels, dtype=np.uint8)


def _differences(read: Read, tiffs: dict[int, Path], found: MimetaSet) -> list[str]:
    """Return where TIFF files are wrong or show something else than the same row of HDF5."""
    rows = sorted(row for row in tiffs if row < len(found))
    spread = np.unique(np.linspace(0, len(rows) - 1, min(CHECKED, len(rows))).astype(int))
    different, failed = list[int](), dict[str, list[int]]()
    for row in (rows[at] for at in spread):
        try:
            if not np.array_equal(read(row), _read_tiff(tiffs[row], found)):
                different.append(row)
        except DataError as error:
            failed.setdefault(error.problems[0], []).append(row)
    problems = [f"{TIFFS}: {rows_of(rows)}: {reason}" for reason, rows in failed.items()]
    if different:
        problems.append(
            f"{TIFFS}: {rows_of(different)} differ from the same rows of {HDF5}; the number in a "
            "file name is the row everywhere"
        )
    return problems
