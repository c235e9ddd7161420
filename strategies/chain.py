"""Append-only files in which every line holds the hash of the line before it.

An edited, removed or reordered line shows. A second small file beside the first, the head, holds
number and hash of the last line, which shows a cut-off end: it exists before the first line and is
at most one line behind, after a crash. Who can write both files can write the whole chain anew:
against that helps only a hash that somebody else holds.

What crosses the hospital's boundary: nothing; these files stay where they are written.
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START = "0" * 64
"""What the first line names as the line before it."""

Lines = list[dict[str, Any]]


def line_hash(line: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of a line without its own hash."""
    content = {key: value for key, value in line.items() if key != "hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def linked(facts: Mapping[str, Any], previous: str) -> dict[str, Any]:
    """Return facts as the line that follows the one with hash `previous`."""
    line = {**facts, "previous": previous}
    return {**line, "hash": line_hash(line)}


def last_hash(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the hash of the last line, START where there is none."""
    return str(lines[-1].get("hash")) if lines else START


def read(path: Path) -> Lines:
    """Return the lines of a chain; an end cut off in mid-line by a crash is left out.

    Raises:
        ValueError: a line is not a JSON object.
        OSError: the file cannot be read.
    """
    if not path.is_file():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    lines = [json.loads(line) for line in whole.splitlines()]
    if not all(isinstance(line, dict) for line in lines):
        raise ValueError("a line is not a JSON object")
    return lines


def append(
    path: Path, facts: Mapping[str, Any], admit: Callable[[Lines], None] = lambda lines: None
) -> str:
    """Write one line with the time, synced before this returns; return its hash.

    Args:
        path: the chain; its folder is made.
        facts: what the line says, JSON-ready, without "time", "previous" and "hash".
        admit: called with the lines so far while no other process can add one; raises to add none.

    Raises:
        OSError: it cannot be written.
        ValueError: file and head contradict each other, or a line is not JSON.
    """
    with _locked(path):
        _drop_torn_end(path)
        lines = read(path)
        if problems := _head_problems(path, lines):
            raise ValueError(f"{problems[0]}; run the ledger check")
        admit(lines)
        if not lines:
            _write_head(path, 0, START)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = linked({"time": now, **facts}, last_hash(lines))
        _write_synced(path, "ab", (json.dumps(line, sort_keys=True) + "\n").encode())
        _write_head(path, len(lines) + 1, line["hash"])
        return str(line["hash"])


def verify(path: Path, witnessed: Iterable[str] = ()) -> tuple[str, ...]:
    """Return every problem of a chain; an empty result means that it is whole.

    Args:
        path: the chain.
        witnessed: hashes of lines that someone else holds.
    """
    try:
        lines = read(path)
    except ValueError:
        return ("a line is not JSON: the file was edited or damaged",)
    known = {line.get("hash") for line in lines}
    unknown = [hash_ for hash_ in witnessed if hash_ not in known]
    return (
        *link_problems(lines),
        *_head_problems(path, lines),
        *(f"line {hash_[:12]} is known elsewhere but missing" for hash_ in unknown),
    )


def link_problems(lines: Lines) -> list[str]:
    """Return which lines do not follow the one before or were changed."""
    problems, previous = [], START
    for number, line in enumerate(lines, start=1):
        if line.get("previous") != previous:
            problems.append(f"line {number}: does not follow the line before it")
        if line.get("hash") != line_hash(line):
            problems.append(f"line {number}: was changed after it was written")
        previous = str(line.get("hash"))
    return problems


def _head_path(path: Path) -> Path:
    return path.with_suffix(".head")


def _head_problems(path: Path, lines: Lines) -> list[str]:
    """Return in which way the head contradicts the lines; a crash leaves it one line behind."""
    head = _head_path(path)
    if not head.is_file():
        missing = f"{head.name} is missing, it was deleted: nothing shows whether lines are too"
        return [missing] if lines else []
    try:
        content = json.loads(head.read_bytes())
        count, last = int(content["lines"]), str(content["hash"])
    except (ValueError, KeyError, TypeError):
        return [f"{head.name} is damaged: nothing shows whether lines were removed"]
    end = lines[count - 1].get("hash") if 0 < count <= len(lines) else START
    if len(lines) < count or end != last:
        return [f"expected {count} lines ending in {last[:12]}: lines were removed"]
    if len(lines) > count + 1:
        return [f"{len(lines)} lines where {head.name} knows {count}: lines or head were replaced"]
    return []


def _write_head(path: Path, count: int, last: str) -> None:
    """Replace the head of a chain, synced with its folder."""
    head = _head_path(path)
    temporary = head.with_suffix(".part")
    _write_synced(temporary, "wb", json.dumps({"lines": count, "hash": last}).encode())
    temporary.replace(head)
    folder = os.open(head.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the chain's lock: two processes never write at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _drop_torn_end(path: Path) -> None:
    """Cut off what a crash left of a line that was never finished; nothing counted on it."""
    if not path.is_file():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def _write_synced(path: Path, mode: str, content: bytes) -> None:
    with path.open(mode) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
