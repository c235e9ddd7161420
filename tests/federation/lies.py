"""Lies a site can tell in a reply that its outbox let through: each alters the very bytes.

A lie keeps everything else true (the digest is made anew unless the lie is about the digest), so
that the check which is meant for it is the one that meets it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from strategies import wire
from tests.strategies.records import numbers, with_array, with_arrays, with_header

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


def with_model(
    record: RecordDict, change: Callable[[NDArray[Any]], NDArray[Any]], *, seal: bool = True
) -> RecordDict:
    """Return a record whose update was changed."""
    return with_array(record, wire.MODEL, change(numbers(record, wire.MODEL)), seal=seal)


def _first(value: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def change(array: NDArray[Any]) -> NDArray[Any]:
        array[0] = value
        return array

    return change


def _without_sum(record: RecordDict) -> RecordDict:
    return with_arrays(record, {wire.MODEL: wire.arrays_of(record)[wire.MODEL]})


def _pickled(record: RecordDict) -> RecordDict:
    data = b"\x93NUMPY\x01\x00v\x00" + pickle.dumps({"descr": "|O"})
    return with_array(record, wire.MODEL, data)


def _false_counts(record: RecordDict) -> RecordDict:
    """Count more images than the agreed run lets a site have."""
    return with_array(record, wire.TOTAL, numbers(record, wire.TOTAL) + 1e7)


def _smuggled(record: RecordDict) -> RecordDict:
    return RecordDict({**dict(record.items()), "more": MetricRecord({"age": 61.0})})


def _smuggled_field(record: RecordDict) -> RecordDict:
    return with_header(record, age=61)


def _in_both_places(record: RecordDict) -> RecordDict:
    """Lay an array that nobody asked for beside the header's own."""
    apart = ArrayRecord({wire.MODEL: Array(numbers(record, wire.MODEL))})
    return RecordDict({**dict(record.items()), wire.ARRAYS: apart})


def _no_bytes(record: RecordDict) -> RecordDict:
    """Send numbers where the bytes of an array belong."""
    fields = {**record.config_records[wire.HEADER], wire.MODEL: [1.0, 2.0]}
    return RecordDict({wire.HEADER: ConfigRecord(fields)})


def _untyped(record: RecordDict) -> RecordDict:
    """Send the arrays apart, half of one, under another shape in Flower's own fields."""
    found = wire.arrays_of(record)
    whole = found[wire.MODEL]
    cut = with_array(record, wire.MODEL, whole[: len(whole) // 2])
    fields = dict(cut.config_records[wire.HEADER].items())
    arrays = {name: fields.pop(name) for name in found}
    apart = {
        name: Array("float64", (7, 7), "numpy.ndarray", data)
        for name, data in arrays.items()
        if isinstance(data, bytes)
    }
    return RecordDict({wire.HEADER: ConfigRecord(fields), wire.ARRAYS: ArrayRecord(apart)})


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
    "another field": Lie("rejected:header", lambda r, _: _smuggled_field(r)),
    "arrays in two places": Lie("rejected:record", lambda r, _: _in_both_places(r)),
    "an array of no bytes": Lie("rejected:record", lambda r, _: _no_bytes(r)),
    "altered after sealing": Lie(
        "rejected:digest", lambda r, _: with_model(r, lambda a: a * 1.5, seal=False)
    ),
    "another run's hash": Lie("rejected:config", lambda r, _: with_header(r, config_hash=OTHER)),
    "another code's hash": Lie("rejected:code", lambda r, _: with_header(r, code_hash=OTHER)),
    "another round": Lie("rejected:round", lambda r, _: with_header(r, round=99)),
    "another site's name": Lie("rejected:site", lambda r, other: with_header(r, site=other)),
    "a billion images": Lie("rejected:weight", lambda r, _: with_header(r, num_images=10**9)),
    "fewer than no images": Lie("rejected:weight", lambda r, _: with_header(r, num_images=-5)),
    "false counts": Lie("rejected:counts", lambda r, _: _false_counts(r)),
}
"""What a site may say of a round of training, by name."""
