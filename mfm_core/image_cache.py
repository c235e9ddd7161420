"""Decoded pixels on disk: no image is decoded twice.

DESIGN section 3. The key is what the pixels depend on: names, sizes and times of change of the
files and the image settings. Labels and splits are not in it, so a corrected mapping decodes
nothing anew. The cache holds patients' images: it belongs in the site's own folder and
never crosses the hospital's boundary.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from mfm_core.config import ImageConfig
from mfm_core.errors import DataError
from mfm_core.images import Frame, decode_image, quiet_decoders
from mfm_core.manifest import Entry

VERSION = 1
"""Raised whenever decoding changes, so that older caches are not used."""

Pixels = NDArray[np.uint8]


def open_pixels(
    entries: Sequence[Entry], image: ImageConfig, frame: Frame, folder: Path
) -> tuple[Pixels, list[tuple[int, str]]]:
    """Return a read-only memory map `[N, C, size, size] uint8`, and the images that failed.

    Decodes only when the folder holds no whole cache of just these files. With failures (index,
    reason) nothing is cached and their pixels are 0.
    """
    shape = (len(entries), image.channels, image.size_px, image.size_px)
    if not entries:
        return np.zeros(shape, dtype=np.uint8), []

    def decode(index: int) -> Pixels:
        return decode_image(entries[index].path, image, frame)

    return keep_pixels(folder, cache_key(entries, image, frame), shape, decode)


def keep_pixels(
    folder: Path,
    key: str,
    shape: tuple[int, ...],
    decode: Callable[[int], Pixels],
    threads: int | None = None,
) -> tuple[Pixels, list[tuple[int, str]]]:
    """Return a read-only memory map of pictures, and those that failed, as `open_pixels` does.

    Args:
        folder: of caches; made when absent.
        key: hex digest of everything that the pixels depend on.
        shape: `(N, C, size, size)`, N above 0.
        decode: from index to one picture; raises DataError with the reason.
        threads: that decode at once; None is one per processor.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"pixels-{key[:32]}.npy"
    cached = _load(target, shape)
    if cached is not None:
        return cached, []
    handle, name = tempfile.mkstemp(prefix="decoding-", suffix=".part", dir=folder)
    os.close(handle)
    part = Path(name)
    try:
        failures = _decode_all(part, shape, decode, threads or os.cpu_count())
        if failures:
            return np.zeros(shape, dtype=np.uint8), failures
        _commit(part, target)
    finally:
        part.unlink(missing_ok=True)
    return np.load(target, mmap_mode="r"), []


def cache_key(entries: Sequence[Entry], image: ImageConfig, frame: Frame) -> str:
    """Return the SHA-256 (hex) of everything that the pixels depend on."""
    files = [[str(entry.path), *entry.stamp] for entry in entries]
    identity = [VERSION, image.model_dump(mode="json"), frame, files]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def _decode_all(
    part: Path, shape: tuple[int, ...], decode: Callable[[int], Pixels], threads: int | None
) -> list[tuple[int, str]]:
    """Decode into the file `part`; return index and reason of those that failed."""
    pixels = open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
    _reserve(part)

    def fill(index: int) -> str | None:
        try:
            pixels[index] = decode(index)
        except DataError as error:
            return error.problems[0]
        return None

    # Decoders work outside Python's lock, so threads pay and nothing has to be copied.
    with quiet_decoders(), ThreadPoolExecutor(threads) as pool:
        reasons = list(pool.map(fill, range(shape[0])))
    pixels.flush()
    return [(index, reason) for index, reason in enumerate(reasons) if reason is not None]


def _reserve(part: Path) -> None:
    """Claim the file's whole space: a map on a full disk would end the process without a word.

    Raises:
        OSError: there is not enough space; names the file.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with part.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(part)) from None


def _commit(part: Path, target: Path) -> None:
    """Give the finished file its name, then its checksum: the checksum makes it valid."""
    _sum_file(target).unlink(missing_ok=True)
    checksum = _checksum(np.load(part, mmap_mode="r"))
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
    note = part.with_suffix(".crc")
    note.write_text(checksum, encoding="ascii")
    os.replace(note, _sum_file(target))


def _load(target: Path, shape: tuple[int, ...]) -> Pixels | None:
    """Return the cached pixels, or None when they are absent or damaged."""
    try:
        expected = _sum_file(target).read_text(encoding="ascii")
        pixels: Pixels = np.load(target, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    if pixels.shape != shape or pixels.dtype != np.uint8 or _checksum(pixels) != expected:
        return None
    return pixels


def _checksum(pixels: Pixels) -> str:
    """Return the CRC-32 of the pixels: finds damage, not forgery."""
    total = 0
    for start in range(0, len(pixels), 1024):
        total = zlib.crc32(np.ascontiguousarray(pixels[start : start + 1024]).data, total)
    return f"{total:08x}"


def _sum_file(target: Path) -> Path:
    return target.with_suffix(".crc")
