"""Records with other arrays than they were made with: what faults and lies in tests are made of."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from strategies import wire


def npy(array: NDArray[Any]) -> bytes:
    """Return an array as it travels."""
    return bytes(Array(np.ascontiguousarray(array)).data)


def numbers(record: RecordDict, name: str) -> NDArray[Any]:
    """Return a copy of one array of a record."""
    return np.load(io.BytesIO(wire.arrays_of(record)[name]), allow_pickle=False)


def with_arrays(
    record: RecordDict, arrays: Mapping[str, bytes], *, seal: bool = True, **header: Any
) -> RecordDict:
    """Return a record of other arrays in the same place, its digest made anew unless told not to.

    Args:
        record: stays as it is.
        arrays: all that the new one holds.
        seal: let the header's digest fit the arrays.
        header: further fields that are changed.
    """
    old = record.config_records[wire.HEADER]
    fields = {name: value for name, value in old.items() if name not in wire.ARRAY_NAMES}
    if seal:
        fields["payload_hash"] = wire.payload_hash(arrays)
    if wire.ARRAYS not in record:
        return RecordDict({wire.HEADER: ConfigRecord({**fields, **arrays, **header})})
    apart = {name: Array("", (), "numpy.ndarray", data) for name, data in arrays.items()}
    return RecordDict(
        {wire.HEADER: ConfigRecord({**fields, **header}), wire.ARRAYS: ArrayRecord(apart)}
    )


def with_array(
    record: RecordDict, name: str, array: NDArray[Any] | bytes, *, seal: bool = True, **header: Any
) -> RecordDict:
    """Return a record with one array exchanged; otherwise as `with_arrays`."""
    data = array if isinstance(array, bytes) else npy(array)
    return with_arrays(record, {**wire.arrays_of(record), name: data}, seal=seal, **header)


def with_header(record: RecordDict, **header: Any) -> RecordDict:
    """Return a record with changed fields of its header."""
    return with_arrays(record, wire.arrays_of(record), seal=False, **header)
