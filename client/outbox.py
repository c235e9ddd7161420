"""The one door: nothing leaves the hospital but through `Outbox.release`, which writes it down.

Every outgoing record is held against the agreed schema of its kind, checked for finite numbers
and size, and listed in an append-only ledger before it may leave; if the line cannot be written,
nothing leaves. The ledger is a chain of `strategies.chain`: an edited, removed or reordered line
shows, and a cut-off end. A line's hash also travels with its record, so the coordinator's ledger
is a witness to the site's.

What crosses the hospital's boundary: exactly what the ledger lists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from client.config import LimitsConfig
from client.held import wait_for_person
from client.limits import check_arrays, check_norm
from mfm_core.errors import OutboxRefusal
from mfm_core.sums import Schema
from strategies import chain, wire
from strategies.answers import Answer

Seal = Callable[[int, wire.Payload], wire.Payload]
"""Puts an answer under its masks; takes the number of images and the plain arrays."""


class Outbox:
    """The door of one site with its ledger."""

    def __init__(self, ledger: Path, limits: LimitsConfig) -> None:
        self.ledger, self.limits = ledger, limits

    def release(
        self,
        header: wire.Header,
        payload: wire.Payload,
        model: Schema,
        answer: Answer,
        seal: Seal | None = None,
    ) -> RecordDict:
        """Return the record to send, after it has been checked and listed in the ledger.

        Args:
            header: kind, round, hashes, site and number of images.
            payload: what is about to leave.
            model: schema of the weights.
            answer: what was agreed to leave in an exchange of this kind.
            seal: puts the checked arrays under the masks of a secure sum; None sends them as
                they are.

        Raises:
            OutboxRefusal: not on the list, not finite, too large, not approved by a person where
                that is asked for, or the ledger cannot be written.
        """
        self._check(header, payload, model, answer)
        leaving = payload if seal is None else seal(header.num_images, payload)
        sent = header if seal is None else replace(header, num_images=0)  # it is in the sum
        record = wire.encode(sent, leaving, model)
        size = wire.record_bytes(record)
        if size > self.limits.max_message_bytes:
            limit = self.limits.max_message_bytes
            raise OutboxRefusal(f"{header.kind} has {size} bytes, the limit is {limit}")
        sealed = str(record.config_records[wire.HEADER]["payload_hash"])
        facts: dict[str, Any] = {
            "run": header.config_hash,
            "round": header.round,
            "kind": header.kind,
            "protection": answer.protection.to_dict(),
            "images": header.num_images,
            "arrays": _describe(payload),
            "masked": seal is not None,
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
        if bool(payload.sealed) != answer.sealed or payload.masked is not None:
            raise OutboxRefusal(f"{header.kind}: keys or masked numbers where none were agreed")
        schema = payload.total.schema if payload.total is not None else None
        if schema != answer.total:
            raise OutboxRefusal(f"{header.kind}: the Sum has other names or shapes than agreed")
        if payload.model is not None and payload.model.shape != (wire.model_size(model),):
            raise OutboxRefusal(f"{header.kind}: the update has shape {payload.model.shape}")
        arrays = _arrays(payload)
        check_arrays(self.limits, header.kind, {name: a.shape for name, a in arrays.items()})
        broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        if broken:
            raise OutboxRefusal(f"{header.kind}: not finite: {', '.join(broken)}")
        if payload.model is not None:
            check_norm(self.limits, payload.model)

    def _append(self, facts: dict[str, Any]) -> str:
        """Write one line, synced; return its hash."""
        try:
            return chain.append(self.ledger, facts)
        except (OSError, ValueError) as error:
            raise OutboxRefusal(
                f"{self.ledger}: the ledger cannot be written ({error}); nothing leaves without "
                "its line"
            ) from None


def _arrays(payload: wire.Payload) -> dict[str, NDArray[Any]]:
    """Return every array of a payload by name."""
    arrays: dict[str, NDArray[Any]] = {} if payload.total is None else dict(payload.total.arrays)
    if payload.model is not None:
        arrays[wire.MODEL] = payload.model
    if payload.sealed:
        arrays[wire.SEALED] = np.frombuffer(payload.sealed, dtype=np.uint8)
    return arrays


def _norm(array: NDArray[Any]) -> float:
    return float(np.linalg.norm(array.ravel().astype(np.float64)))


def _describe(payload: wire.Payload) -> list[dict[str, Any]]:
    """Return name, shape and L2 norm of every array; keys and shares have no norm to speak of."""
    return [
        {
            "name": name,
            "shape": list(array.shape),
            "norm": 0.0 if name == wire.SEALED else _norm(array),
        }
        for name, array in _arrays(payload).items()
    ]
