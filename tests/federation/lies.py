"""Lies a site can tell in a reply that its outbox let through: each alters the very bytes.

A lie keeps everything else true (the digest is made anew unless the lie is about the digest), so
that the check which is meant for it is the one that meets it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from strategies import wire

OTHER = "0" * 64
"""A hash that nothing has."""

Alter = Callable[[RecordDict, str], RecordDict]
"""Returns a record with a lie, given the true one and the name of another site."""


@dataclass(frozen=True)
class Lie:
    """One lie about a training reply.

    Attributes:
        outcome: what the coordinator's ledger must say of the site.
        alter: makes it.
    """

    outcome: str
    alter: Alter


def copy_of(record: RecordDict, **header: Any) -> RecordDict:
    """Return a record of the same arrays under a changed header."""
    fields = {**dict(record.config_records[wire.HEADER]), **header}
    arrays = ArrayRecord(dict(record.array_records[wire.ARRAYS]))
    return RecordDict({wire.HEADER: ConfigRecord(fields), wire.ARRAYS: arrays})


def with_arrays(
    record: RecordDict, arrays: Mapping[str, Array], *, seal: bool = True
) -> RecordDict:
    """Return a record with other arrays, its digest made anew unless told not to."""
    made = copy_of(record)
    made[wire.ARRAYS] = ArrayRecord(dict(arrays))
    if seal:
        made.config_records[wire.HEADER]["payload_hash"] = wire.payload_hash(dict(arrays))
    return made


def with_model(
    record: RecordDict, change: Callable[[NDArray[Any]], NDArray[Any]], *, seal: bool = True
) -> RecordDict:
    """Return a record whose update was changed."""
    arrays = dict(record.array_records[wire.ARRAYS])
    arrays[wire.MODEL] = Array(change(arrays[wire.MODEL].numpy().copy()))
    return with_arrays(record, arrays, seal=seal)


def _first(value: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def change(array: NDArray[Any]) -> NDArray[Any]:
        array[0] = value
        return array

    return change


def _without_sum(record: RecordDict) -> RecordDict:
    arrays = dict(record.array_records[wire.ARRAYS])
    return with_arrays(record, {wire.MODEL: arrays[wire.MODEL]})


def _pickled(record: RecordDict) -> RecordDict:
    arrays = dict(record.array_records[wire.ARRAYS])
    data = b"\x93NUMPY\x01\x00v\x00" + pickle.dumps({"descr": "|O"})
    arrays[wire.MODEL] = Array("object", (1,), "numpy.ndarray", data)
    return with_arrays(record, arrays)


def _false_counts(record: RecordDict) -> RecordDict:
    """Count more images than the agreed run lets a site have."""
    arrays = dict(record.array_records[wire.ARRAYS])
    arrays[wire.TOTAL] = Array(arrays[wire.TOTAL].numpy() + 1e7)
    return with_arrays(record, arrays)


def _smuggled(record: RecordDict) -> RecordDict:
    made = copy_of(record)
    made["more"] = MetricRecord({"age": 61.0})
    return made


def _untyped(record: RecordDict) -> RecordDict:
    """Declare another shape in Flower's own fields than the bytes have."""
    arrays = dict(record.array_records[wire.ARRAYS])
    true = arrays[wire.MODEL]
    arrays[wire.MODEL] = Array("float64", (7, 7), true.stype, true.data[: len(true.data) // 2])
    return with_arrays(record, arrays)


LIES: dict[str, Lie] = {
    "nan": Lie("rejected:nan", lambda r, _: with_model(r, _first(np.nan))),
    "infinite": Lie("rejected:nan", lambda r, _: with_model(r, _first(np.inf))),
    "huge norm": Lie("rejected:norm", lambda r, _: with_model(r, _first(1e9))),
    "wrong shape": Lie("rejected:shape", lambda r, _: with_model(r, lambda a: np.append(a, a[:1]))),
    "cut off": Lie("rejected:shape", lambda r, _: _untyped(r)),
    "wrong type": Lie("rejected:dtype", lambda r, _: with_model(r, lambda a: a.astype(np.float64))),
    "a pickle": Lie("rejected:dtype", lambda r, _: _pickled(r)),
    "an array left out": Lie("rejected:schema", lambda r, _: _without_sum(r)),
    "another record": Lie("rejected:record", lambda r, _: _smuggled(r)),
    "altered after sealing": Lie(
        "rejected:digest", lambda r, _: with_model(r, lambda a: a * 1.5, seal=False)
    ),
    "another run's hash": Lie("rejected:config", lambda r, _: copy_of(r, config_hash=OTHER)),
    "another code's hash": Lie("rejected:code", lambda r, _: copy_of(r, code_hash=OTHER)),
    "another round": Lie("rejected:round", lambda r, _: copy_of(r, round=99)),
    "another site's name": Lie("rejected:site", lambda r, other: copy_of(r, site=other)),
    "a billion images": Lie("rejected:weight", lambda r, _: copy_of(r, num_images=10**9)),
    "fewer than no images": Lie("rejected:weight", lambda r, _: copy_of(r, num_images=-5)),
    "false counts": Lie("rejected:counts", lambda r, _: _false_counts(r)),
}
"""What a site may say of a round of training, by name."""
