"""A line that was touched shows, a crash does not."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from strategies import chain
from strategies.chain import START, _write_head, append, line_hash, read, verify

Edit = Callable[[list[str]], list[str]]


@pytest.fixture
def full(tmp_path: Path) -> Path:
    path = tmp_path / "state" / "outbox.jsonl"
    hashes = [append(path, {"images": 9, "round": number}) for number in range(1, 6)]
    assert verify(path) == () and [line["hash"] for line in read(path)] == hashes
    return path


def rehash(lines: list[str]) -> list[str]:
    """Edit a line and make its own hash fit again."""
    line = json.loads(lines[1])
    line["images"] = 8
    line["hash"] = line_hash(line)
    return [lines[0], json.dumps(line), *lines[2:]]


TAMPERINGS: dict[str, Edit] = {
    "edited": lambda lines: [lines[0], lines[1].replace('"images": 9', '"images": 8'), *lines[2:]],
    "edited and hashed anew": rehash,
    "removed from the middle": lambda lines: lines[:2] + lines[3:],
    "removed from the start": lambda lines: lines[1:],
    "removed from the end": lambda lines: lines[:-1],
    "emptied": lambda lines: [],
    "reordered": lambda lines: [lines[1], lines[0], *lines[2:]],
    "repeated": lambda lines: [*lines[:2], lines[1], *lines[2:]],
    "not JSON": lambda lines: ["{", *lines[1:]],
    "not an object": lambda lines: ["5", *lines[1:]],
}


def tamper(path: Path, how: str) -> None:
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in TAMPERINGS[how](lines)))


@pytest.mark.parametrize("how", TAMPERINGS)
def test_tampering_shows(full: Path, how: str) -> None:
    tamper(full, how)
    assert verify(full)


@pytest.mark.parametrize("how", ["removed from the end", "not JSON", "emptied"])
def test_nothing_is_added_to_a_broken_chain(full: Path, how: str) -> None:
    tamper(full, how)
    before = full.read_bytes()
    with pytest.raises(ValueError):
        append(full, {"round": 6})
    assert full.read_bytes() == before


def test_a_witness_finds_a_chain_written_anew(full: Path) -> None:
    """A forger who rewrites file and head cannot rewrite what somebody else noted."""
    witnessed = [str(line["hash"]) for line in read(full)]
    assert verify(full, witnessed) == ()
    full.unlink()
    full.with_suffix(".head").unlink()
    append(full, {"images": 9, "round": 1})
    assert verify(full) == ()
    assert len(verify(full, witnessed)) == 5


def test_a_line_cut_off_by_a_crash_never_counted(full: Path) -> None:
    with full.open("a") as file:
        file.write('{"time": "2026-01-01T00:00')
    assert verify(full) == ()
    append(full, {"round": 6})
    assert verify(full) == () and len(read(full)) == 6


def test_a_crash_between_line_and_head_is_not_tampering(full: Path) -> None:
    head = full.with_suffix(".head")
    before = head.read_text()
    append(full, {"round": 6})
    head.write_text(before)
    assert verify(full) == ()
    append(full, {"round": 7})
    assert verify(full) == ()


def test_a_head_two_lines_behind_is_a_problem(full: Path) -> None:
    head = full.with_suffix(".head")
    before = head.read_text()
    append(full, {"round": 6})
    append(full, {"round": 7})
    head.write_text(before)
    assert "replaced" in verify(full)[0]


def test_a_crash_after_the_very_first_line_is_not_tampering(tmp_path: Path) -> None:
    path = tmp_path / "outbox.jsonl"

    def crash(path: Path, count: int, last: str) -> None:
        if count == 1:
            raise OSError("crash")
        _write_head(path, count, last)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain, "_write_head", crash)
        with pytest.raises(OSError, match="crash"):
            append(path, {"round": 1})
    assert len(read(path)) == 1 and verify(path) == ()
    append(path, {"round": 2})
    assert len(read(path)) == 2 and verify(path) == ()


HEADS: dict[str, tuple[str | None, str]] = {
    "deleted": (None, "missing"),
    "empty": ("", "damaged"),
    "cut off": ('{"lines": 5, "ha', "damaged"),
    "not an object": ("[5]", "damaged"),
    "other fields": ("{}", "damaged"),
    "of no line": (json.dumps({"lines": 0, "hash": START}), "replaced"),
    "of another chain": (json.dumps({"lines": 3, "hash": "e" * 64}), "removed"),
}


@pytest.mark.parametrize("how", HEADS)
def test_a_head_that_was_touched_is_a_problem_and_nothing_is_added(full: Path, how: str) -> None:
    text, word = HEADS[how]
    full.write_text("".join(full.read_text().splitlines(keepends=True)[:3]))
    full.with_suffix(".head").unlink()
    if text is not None:
        full.with_suffix(".head").write_text(text)
    (problem,) = verify(full)
    assert word in problem
    with pytest.raises(ValueError, match=word):
        append(full, {"round": 6})
    assert len(read(full)) == 3


def test_who_may_not_add_a_line_adds_none(full: Path) -> None:
    def at_most_five(lines: chain.Lines) -> None:
        if len(lines) >= 5:
            raise PermissionError("five lines are enough")

    with pytest.raises(PermissionError):
        append(full, {"round": 6}, at_most_five)
    assert len(read(full)) == 5 and verify(full) == ()


def add_twenty(path: Path) -> None:
    for number in range(20):
        append(path, {"round": number})


def test_two_processes_keep_one_chain(tmp_path: Path) -> None:
    path, context = tmp_path / "outbox.jsonl", multiprocessing.get_context("fork")
    both = [context.Process(target=add_twenty, args=(path,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
    assert len(read(path)) == 40 and verify(path) == ()
