"""Every file below a folder, and everything there that is no file to read, with the reason.

Nothing is passed over in silence: hidden files, links, pipes and closed folders are in one of the
two lists. What crosses the hospital's boundary: nothing; these are file names of the hospital.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from mfm_core.errors import DataError


@dataclass(frozen=True)
class SourceFiles:
    """What lies below a folder.

    Attributes:
        folder: where the names start.
        names: regular files, relative with `/`, sorted.
        passed: other things, relative, with a reason of `client.intake_reasons`, sorted.
    """

    folder: Path
    names: tuple[str, ...]
    passed: tuple[tuple[str, str], ...]


def list_files(folder: Path) -> SourceFiles:
    """Return all that lies below a folder; links are not followed.

    Raises:
        DataError: there is no such folder, or it may not be opened.
    """
    if not folder.is_dir():
        raise DataError(str(folder), ["is not a folder; give the folder of the DICOM files"])
    refused: list[OSError] = []
    names: list[str] = []
    passed: list[tuple[str, str]] = []
    for place, below, files in os.walk(folder, onerror=refused.append):
        for name in [*below, *files]:
            path = os.path.join(place, name)
            reason = _reason(path)
            relative = os.path.relpath(path, folder)
            if reason:
                passed.append((relative, reason))
            elif name in files:
                names.append(relative)
    for error in refused:
        if os.path.samefile(error.filename, folder):
            raise DataError(str(folder), [f"{error.strerror}; check the folder's permissions"])
        passed.append((os.path.relpath(error.filename, folder), "closed_folder"))
    return SourceFiles(folder, tuple(sorted(names)), tuple(sorted(passed)))


def _reason(path: str) -> str:
    """Return why a path is no file or folder to look into, "" when it is one."""
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return "link"
    return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "no_file"


def name_reason(name: str) -> str:
    """Return "bad_name" for a file name that a manifest cannot hold, else "".

    A manifest is UTF-8, drops spaces around its cells and reads every line ending as one.
    """
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "bad_name"
    plain = name == name.strip() and not any(ord(letter) < 32 for letter in name)
    return "" if plain and "\x85" not in name and "\u2028" not in name else "bad_name"
