"""The one door: nothing leaves the hospital but through `Outbox.release`, which writes it down.

Every outgoing record is held against the agreed schema of its kind, checked for finite numbers
and size, and listed in an append-only ledger before it may leave; if the line cannot be written,
nothing leaves. Each line holds the hash of the line before, so an edited, removed or reordered
line shows. A second small file, the head, holds number and hash of the last line, which shows a
cut-off end: it exists before the first line and is at most one line behind, after a crash. The
hash also travels with the record, so the coordinator's ledger is a witness to the site's.

What crosses the hospital's boundary: exactly what the ledger lists.
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from client.config import LimitsConfig
from client.held import wait_for_person
from mfm_core.errors import OutboxRefusal
from mfm_core.sums import Schema
from strategies import wire
from strategies.answers import Answer

START = "0" * 64
"""What the first line names as the line before it."""


def line_hash(line: dict[str, Any]) -> str:
    """Return the SHA-256 (hex) of a line without its own hash."""
    content = {key: value for key, value in line.items() if key != "hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a ledger; an end cut off in mid-line by a crash is left out.

    Raises:
        ValueError: a line is not a JSON object.
    """
    if not path.is_file():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    lines = [json.loads(line) for line in whole.splitlines()]
    if not all(isinstance(line, dict) for line in lines):
        raise ValueError("a line is not a JSON object")
    return lines


def verify(path: Path, witnessed: Iterable[str] = ()) -> tuple[str, ...]:
    """Return every problem of a ledger; an empty result means that the chain is whole.

    Args:
        path: the ledger.
        witnessed: hashes of lines that someone else holds (the coordinator's rounds.jsonl).
    """
    try:
        lines = read_ledger(path)
    except ValueError:
        return ("a line is not JSON: the file was edited or damaged",)
    problems, previous = [], START
    for number, line in enumerate(lines, start=1):
        if line.get("previous") != previous:
            problems.append(f"line {number}: does not follow the line before it")
        if line.get("hash") != line_hash(line):
            problems.append(f"line {number}: was changed after it was written")
        previous = str(line.get("hash"))
    problems += _head_problems(path, lines)
    known = {line.get("hash") for line in lines}
    problems += [
        f"line {h[:12]} is known elsewhere but missing" for h in witnessed if h not in known
    ]
    return tuple(problems)


def _head_path(path: Path) -> Path:
    return path.with_suffix(".head")


def _head_problems(path: Path, lines: list[dict[str, Any]]) -> list[str]:
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
    """Replace the head of a ledger, synced with its folder."""
    head = _head_path(path)
    temporary = head.with_suffix(".part")
    _write_synced(temporary, "wb", json.dumps({"lines": count, "hash": last}).encode())
    temporary.replace(head)
    folder = os.open(head.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Outbox:
    """The door of one site with its ledger."""

    def __init__(self, ledger: Path, limits: LimitsConfig) -> None:
        self.ledger, self.limits = ledger, limits

    def release(
        self, header: wire.Header, payload: wire.Payload, model: Schema, answer: Answer
    ) -> RecordDict:
        """Return the record to send, after it has been checked and listed in the ledger.

        Args:
            header: kind, round, hashes, site and number of images.
            payload: what is about to leave.
            model: schema of the weights.
            answer: what was agreed to leave in an exchange of this kind.

        Raises:
            OutboxRefusal: not on the list, not finite, too large, not approved by a person where
                that is asked for, or the ledger cannot be written.
        """
        self._check(header, payload, model, answer)
        record = wire.encode(header, payload, model)
        size = wire.record_bytes(record)
        if size > self.limits.max_message_bytes:
            limit = self.limits.max_message_bytes
            raise OutboxRefusal(f"{header.kind} has {size} bytes, the limit is {limit}")
        sealed = str(record.config_records[wire.HEADER]["payload_hash"])
        facts: dict[str, Any] = {
            "run": header.config_hash,
            "round": header.round,
            "kind": header.kind,
            "images": header.num_images,
            "arrays": _describe(payload),
            "bytes": size,
            "sha256": sealed,
        }
        if self.limits.manual:
            wait_s = self.limits.manual_minutes * 60
            state, arrays = self.ledger.parent, _arrays(payload)
            facts["approved_by"] = wait_for_person(state, facts, arrays, wait_s)
        record.config_records[wire.HEADER]["ledger_hash"] = self._append(facts)
        return record

    def _check(
        self, header: wire.Header, payload: wire.Payload, model: Schema, answer: Answer
    ) -> None:
        if header.kind not in self.limits.allowed_kinds:
            raise OutboxRefusal(f"{header.kind} is not in limits.allowed_kinds")
        if (payload.model is not None) != answer.update:
            raise OutboxRefusal(f"{header.kind}: weights where none were agreed, or the reverse")
        schema = payload.total.schema if payload.total is not None else None
        if schema != answer.total:
            raise OutboxRefusal(f"{header.kind}: the Sum has other names or shapes than agreed")
        if payload.model is not None and payload.model.shape != (wire.model_size(model),):
            raise OutboxRefusal(f"{header.kind}: the update has shape {payload.model.shape}")
        arrays = _arrays(payload)
        broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        if broken:
            raise OutboxRefusal(f"{header.kind}: not finite: {', '.join(broken)}")

    def _append(self, facts: dict[str, Any]) -> str:
        """Write one line, synced; return its hash."""
        try:
            with _locked(self.ledger):
                return self._append_locked(facts)
        except (OSError, ValueError, KeyError) as error:
            raise OutboxRefusal(
                f"{self.ledger}: the ledger cannot be written ({error}); nothing leaves without "
                "its line"
            ) from None

    def _append_locked(self, facts: dict[str, Any]) -> str:
        _drop_torn_end(self.ledger)
        lines = read_ledger(self.ledger)
        if problems := _head_problems(self.ledger, lines):
            raise ValueError(f"{problems[0]}; run the ledger check")
        if not lines:
            _write_head(self.ledger, 0, START)
        previous = str(lines[-1]["hash"]) if lines else START
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": now, **facts, "previous": previous}
        line["hash"] = line_hash(line)
        _write_synced(self.ledger, "ab", (json.dumps(line, sort_keys=True) + "\n").encode())
        _write_head(self.ledger, len(lines) + 1, line["hash"])
        return str(line["hash"])


def _arrays(payload: wire.Payload) -> dict[str, NDArray[Any]]:
    """Return every array of a payload by name."""
    arrays: dict[str, NDArray[Any]] = {} if payload.total is None else dict(payload.total.arrays)
    if payload.model is not None:
        arrays[wire.MODEL] = payload.model
    return arrays


def _describe(payload: wire.Payload) -> list[dict[str, Any]]:
    """Return name, shape and L2 norm of every array."""
    arrays: dict[str, Any] = {} if payload.total is None else dict(payload.total.arrays)
    if payload.model is not None:
        arrays[wire.MODEL] = payload.model.astype(np.float64)
    return [
        {"name": name, "shape": list(array.shape), "norm": float(np.linalg.norm(array.ravel()))}
        for name, array in arrays.items()
    ]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the ledger's lock: two processes of a site never write at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _drop_torn_end(path: Path) -> None:
    """Cut off what a crash left of a line that was never finished; its record never left."""
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
