"""Public pictures: films that everybody may have, in one file whose hash the agreed run names.

They are nobody's patients of the consortium. Of them come the public basis of a private atlas and,
in a private run, the start of the linear path, both without any cost in privacy: neither hangs on a
patient. The file is `public.safetensors` beside every copy of the agreed run.yaml, in the
coordinator's folder, in its run folders and in each site's kit; the run names its SHA-256, so all
have the same pictures or are refused.
What crosses the hospital's boundary: nothing; the file comes in with the kit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mfm_core.config import ImageConfig, ModelConfig
from mfm_core.dataset import ImageSet
from mfm_core.errors import ConfigError, DataError
from mfm_core.images import read_image
from mfm_core.patches import patch_moments
from mfm_core.sums import Sum
from mfm_core.whole_file import write_whole

PUBLIC_FILE = "public.safetensors"
PICTURES = "pictures"
LARGEST_FILE = 64 * 2**20
"""Bytes: 512 films of 256 px take 32 MiB."""

FEWEST = 64
"""Directions found on fewer pictures are those of these pictures and not of their kind."""

Pixels = NDArray[np.uint8]


def write_public(folder: Path, pictures: Pixels) -> str:
    """Write `[N, C, S, S] uint8` pictures as the folder's public file; return its SHA-256 (hex).

    Raises:
        DataError: too few of them, or too many for one file.
    """
    content = save({PICTURES: np.ascontiguousarray(pictures)})
    if len(pictures) < FEWEST or len(content) > LARGEST_FILE:
        found = f"{len(pictures)} pictures, {len(content)} bytes"
        wanted = f"expected {FEWEST} pictures or more and at most {LARGEST_FILE} bytes"
        raise DataError("public pictures", [f"found {found}; {wanted}"])
    write_whole(folder / PUBLIC_FILE, content)
    return hashlib.sha256(content).hexdigest()


def read_public(folder: Path, wanted: str | None, image: ImageConfig) -> Pixels | None:
    """Return the pictures `[N, C, S, S] uint8` beside an agreed run; None where it names none.

    Args:
        folder: of the run.yaml.
        wanted: hash that the run names, or None.
        image: of the run.

    Raises:
        ConfigError: missing, of another hash, or not pictures of the run's size.
    """
    if wanted is None:
        return None
    path = folder / PUBLIC_FILE
    try:
        content = path.read_bytes()
    except OSError:
        raise ConfigError(str(path), [
            f"is missing, the run names public pictures of hash {wanted}; get the file from the "
            "coordinator and put it beside run.yaml"
        ]) from None  # fmt: skip
    return pictures_in(content, wanted, image, str(path))


def pictures_in(content: bytes, wanted: str, image: ImageConfig, where: str) -> Pixels:
    """Return the pictures of a file's content.

    Raises:
        ConfigError: as `read_public`.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        reason = f"has hash {found}, the run names {wanted}; get the file again"
        raise ConfigError(where, [reason])
    try:
        pictures = load(content)[PICTURES]
    except (SafetensorError, KeyError, ValueError):
        reason = f"holds no array {PICTURES!r}; make it with `mfm-server pictures`"
        raise ConfigError(where, [reason]) from None
    shape = (image.channels, image.size_px, image.size_px)
    if pictures.dtype != np.uint8 or pictures.shape[1:] != shape or len(pictures) < FEWEST:
        reason = (
            f"holds {pictures.dtype} {list(pictures.shape)}, expected uint8 [{FEWEST} or more, "
            f"{', '.join(map(str, shape))}]; make it anew for this run's image.size_px"
        )
        raise ConfigError(where, [reason])
    return np.asarray(pictures)


def read_pictures(paths: Sequence[Path], image: ImageConfig) -> Pixels:
    """Return image files as `[N, C, S, S] uint8`.

    Raises:
        DataError: some cannot be read; all are named.
    """
    found, problems = [], []
    for path in paths:
        try:
            found.append(read_image(path, image))
        except DataError as error:
            problems.append(f"{path.name}: {error.problems[0]}")
    if problems or not found:
        raise DataError("public pictures", problems or ["no image file was found"])
    return np.stack(found)


def public_moments(pictures: Pixels, model: ModelConfig) -> Sum:
    """Return the patch moments of public pictures, of which the linear path can start."""
    nobody = np.full(len(pictures), -1, dtype=np.int64)
    none = np.zeros((len(pictures), 0), dtype=np.int64)
    images = ImageSet(pictures, nobody, none, np.arange(len(pictures)), np.zeros_like(nobody))
    return patch_moments(images, np.arange(len(pictures)), model)
