"""`mfm-server verify`: is a release folder whole, unaltered and of one piece?

A release comes from outside, so nothing in it is trusted: names are compared with a fixed list and
never followed out of the folder, links and anything but plain files are refused unread, every file
is read once into a private copy (bounded in size) and hashed on the way, and only these copies are
parsed: JSON, plain YAML and safetensors, none of which can run code.
What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mfm_core.errors import ConfigError
from server.release_content import content_problems
from server.release_files import ALLOWED, NEEDED, SUMS

SUMS_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
MOST_FILES = 1000
MAX_BYTES = 512 * 2**20
"""Largest file that is read; the largest model agreed on is far smaller."""

SUMS_BYTES = 64 * 2**10


@dataclass(frozen=True)
class Checked:
    """What was found in a release folder.

    Attributes:
        problems: in words; empty when it is whole and of one piece.
        release_id: as release.json says; None when unreadable.
        facts: of release.json; empty when unreadable.
    """

    problems: tuple[str, ...]
    release_id: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def check_release(folder: Path) -> Checked:
    """Return everything that is wrong with a release folder.

    Raises:
        ConfigError: it is no folder.
    """
    if not folder.is_dir():
        raise ConfigError(str(folder), ["is no folder; give the folder of a release"])
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mfm-verify-") as private:
        copies = Path(private)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            found = _copy_files(handle, _plain_files(handle, problems), copies, problems)
        finally:
            os.close(handle)
        listed = _read_sums(copies / SUMS, found, problems)
        problems += _compare(found, listed)
        release = content_problems(copies, found, listed, problems)
    identity = release.get("release_id")
    facts = release.get("facts")
    return Checked(
        tuple(map(_printable, problems)),
        identity if isinstance(identity, str) else None,
        facts if isinstance(facts, dict) else {},
    )


def _plain_files(handle: int, problems: list[str]) -> list[str]:
    """Return the names of known plain files; say what else is there."""
    names = []
    with os.scandir(handle) as entries:
        for number, entry in enumerate(entries):
            if number >= MOST_FILES:
                problems.append(f"holds more than {MOST_FILES} files; a release has {len(ALLOWED)}")
                break
            if entry.is_symlink():
                problems.append(f"{_shown(entry.name)}: a link; a release holds plain files only")
            elif not entry.is_file(follow_symlinks=False):
                problems.append(f"{_shown(entry.name)}: not a plain file; a release holds no other")
            elif entry.name not in ALLOWED and entry.name != SUMS:
                problems.append(f"{_shown(entry.name)}: no file of a release; take it away")
            else:
                names.append(entry.name)
    return sorted(names)


def _printable(problem: str) -> str:
    """Return a line in which nothing of a stranger's moves the cursor."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in problem)


def _shown(name: str) -> str:
    """Return a foreign name, short and without control characters."""
    return ascii(name)[1:-1][:80]


def _copy_files(handle: int, names: list[str], copies: Path, problems: list[str]) -> dict[str, str]:
    """Copy files into a private folder; return name to SHA-256 (hex) of those that were read."""
    found = {}
    for name in names:
        limit = SUMS_BYTES if name == SUMS else MAX_BYTES
        try:
            found[name] = _copy(handle, name, copies / name, limit)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            problems.append(f"{name}: cannot be read ({reason})")
    return found


def _copy(handle: int, name: str, target: Path, limit: int) -> str:
    """Copy one file of the folder, never through a link, and return its SHA-256 (hex)."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(name, flags, dir_fd=handle), "rb") as source:
        if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
            raise ValueError("not a plain file")
        content = source.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"larger than {limit:,} bytes")
    target.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _read_sums(path: Path, found: dict[str, str], problems: list[str]) -> dict[str, str]:
    """Return name to hash of SHA256SUMS; only names of a release, each once."""
    if SUMS not in found:
        problems.append(f"{SUMS}: is missing; without it nothing can be compared")
        return {}
    listed: dict[str, str] = {}
    text = path.read_bytes().decode("utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        match = SUMS_LINE.fullmatch(line)
        if match is None:
            problems.append(f"{SUMS} line {number}: expected a hash, two spaces and a name")
            continue
        digest, name = match.groups()
        if "/" in name or "\\" in name or name in (".", ".."):
            problems.append(
                f"{SUMS} line {number}: {_shown(name)} leads out of the folder; not read"
            )
        elif name not in ALLOWED:
            problems.append(
                f"{SUMS} line {number}: {_shown(name)} is no file of a release; not read"
            )
        elif name in listed:
            problems.append(f"{SUMS} line {number}: {name} stands twice")
        else:
            listed[name] = digest
    return listed


def _compare(found: dict[str, str], listed: dict[str, str]) -> list[str]:
    """Return what differs between the files and SHA256SUMS."""
    lines = []
    for name in sorted({*listed, *NEEDED}):
        if name not in found:
            lines.append(f"{name}: is missing")
        elif name in listed and found[name] != listed[name]:
            lines.append(f"{name}: was changed; it is {found[name][:12]}, "
                         f"listed is {listed[name][:12]}")  # fmt: skip
    for name in sorted(found.keys() - listed.keys() - {SUMS}):
        lines.append(f"{name}: is not listed in {SUMS}")
    return lines
