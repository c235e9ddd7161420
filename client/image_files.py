"""The images that a command was pointed at: one file, or all files below a folder.

What crosses the hospital's boundary: nothing; these are file names of the hospital.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mfm_core.errors import DataError

OWN = re.compile(
    r"explanation-.+-[0-9a-f]{10}(-methods\.png|\.png|\.gif|\.json)"
    r"|explanation-.+-[0-9a-f]{10}-[0-9a-f]{6}-(report|panel|map)\.dcm"
    r"|explanations-.+\.html|explanations-index\.json"
)
"""What `mfm-client explain` writes; never taken for an image of the hospital."""


@dataclass(frozen=True)
class Images:
    """Files below a folder.

    Attributes:
        folder: where `names` start.
        names: relative, sorted; hidden files and earlier explanations are left out.
        closed: what could not be looked into, relative, with the reason.
        own: number of files of earlier explanations that were left out.
    """

    folder: Path
    names: tuple[str, ...]
    closed: tuple[tuple[str, str], ...] = ()
    own: int = 0


def find_images(place: Path) -> Images:
    """Return the files at `place`; whether each is an image shows when it is read.

    Raises:
        DataError: there is nothing at this path, or no file below the folder.
    """
    if not place.exists():
        raise DataError(str(place), ["no such file or folder; check the path"])
    if not place.is_dir():
        return Images(place.parent, (place.name,))
    refused: list[OSError] = []
    found = sorted(_walk(place, refused))
    closed = [(_below(place, str(error.filename)), _reason(error)) for error in refused]
    names = []
    for name in found:
        path = place / name
        if path.is_file() or not path.exists():  # a link that leads nowhere is named when read
            names.append(name)
        else:  # a pipe would wait for ever
            closed.append((name, "is a pipe, socket or device and no file; leave it out"))
    images = tuple(name for name in names if not OWN.fullmatch(Path(name).name))
    if not images and not closed:
        raise DataError(str(place), ["holds no file to explain; give a folder with images"])
    return Images(place, images, tuple(sorted(closed)), len(names) - len(images))


def _walk(place: Path, refused: list[OSError]) -> Iterator[str]:
    for folder, below, files in os.walk(place, onerror=refused.append):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield _below(place, os.path.join(folder, name))


def _reason(error: OSError) -> str:
    return f"{error.strerror}; check the folder's permissions"


def _below(place: Path, path: str) -> str:
    return os.path.relpath(path, place)
