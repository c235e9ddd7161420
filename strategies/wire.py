"""The wire contract: what a message and a reply hold, and every check on receipt.

A message holds one header and at most two arrays: the model as one flat `[D] float32` (weights on
the way out, a site's change of them on the way back) and one `Sum` as a flat `[S] float64`, its
names and shapes in the header. Under a secure sum the same two are masked integers, `[P] uint16`
and `[S] uint64`, and the exchanges of its keys hold bytes. Flower's cost is per object, not per
byte: an array of its own is two objects or more beside the record of arrays. So arrays lie in the
header's record as the bytes they would have there, unless they are too long for that. Nothing is
unpickled and nothing is allocated before its declared size has been compared with what is expected.

What crosses the hospital's boundary: exactly these records.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from mfm_core.errors import UpdateRejected
from mfm_core.sums import Schema, Sum, schema_hash
from strategies.ring import Masked

HEADER, ARRAYS, MODEL, TOTAL, SEALED = "header", "arrays", "model", "sum", "sealed"
ARRAY_NAMES = (MODEL, TOTAL, SEALED)
LONGEST_TEXT = 100_000
INLINE_BYTES = 8 * 2**20
"""Arrays of so many bytes together lie in the header's record; a gateway lets 16 MiB through."""

SHARED_BYTES = 64 * 2**10
"""As many of a message to all sites: longer arrays lie apart, and Flower keeps one copy for all."""

SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LEDGER_HASH = re.compile(r"(?:[0-9a-f]{64})?")
NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '([<>|=][A-Za-z0-9]{1,9})', "
    rb"'fortran_order': False, 'shape': (\([0-9, ]{0,99}\)), \} {0,200}\n",
    re.DOTALL,
)
"""The one form in which numpy writes a plain array: header length, type, shape."""


@dataclass(frozen=True)
class Header:
    """What stands beside the arrays of every message and reply.

    Attributes:
        kind: which exchange.
        round: training round, 0 outside training.
        config_hash: canonical hash of the agreed run.
        code_hash: hash of the sender's code.
        schema_hash: hash of what the arrays are called and their shapes.
        site: name of the sending site; empty from the server.
        num_images: images behind the reply, the site's weight; 0 from the server.
        payload_hash: SHA-256 of the arrays' bytes.
        sum_schema: JSON of the Sum's names and shapes; empty without one.
        ledger_hash: the line of the site's own ledger that lists this reply; empty from the server.
        about: JSON that the server adds where an exchange belongs to a secure sum; else empty.
    """

    kind: str
    round: int
    config_hash: str
    code_hash: str
    schema_hash: str = ""
    site: str = ""
    num_images: int = 0
    payload_hash: str = ""
    sum_schema: str = ""
    ledger_hash: str = ""
    about: str = ""


@dataclass(frozen=True)
class Payload:
    """The arrays of a record: flat weights or their change `[D] float32`, and a Sum.

    In their place, under a secure sum: both as `masked` integers, or the bytes of its keys.
    """

    model: NDArray[np.float32] | None = None
    total: Sum | None = None
    masked: Masked | None = None
    sealed: bytes = b""


@dataclass(frozen=True)
class Expected:
    """What a receiver accepts.

    Attributes:
        kind, round, config_hash, code_hash: must be equal.
        model: schema of the weights, or None when no model may come.
        total: schema of the Sum, or None when no Sum may come.
        site: the sender's known name; None when it introduces itself.
        images: smallest and largest number of images.
        max_norm: largest L2 norm of the model array; None does not ask.
        max_bytes: largest size of the arrays together.
        masked: how many masked integers of 16 and 64 bits must come in place of both.
        sealed: bytes of keys or shares must come, how many the receiver checks.
    """

    kind: str
    round: int
    config_hash: str
    code_hash: str
    model: Schema | None = None
    total: Schema | None = None
    site: str | None = None
    images: tuple[int, int] = (0, 0)
    max_norm: float | None = None
    max_bytes: int = 256 * 2**20
    masked: tuple[int, int] | None = None
    sealed: bool = False


def model_size(schema: Schema) -> int:
    """Return D, the numbers of a flat model."""
    return sum(int(np.prod(shape, dtype=np.int64)) for _, shape in schema)


def contents_hash(model: Schema | None, total: Schema | None) -> str:
    """Return the hash of what a record's arrays are."""
    parts = [schema_hash(part) if part is not None else "-" for part in (model, total)]
    return hashlib.sha256("/".join(parts).encode()).hexdigest()


def masked_hash(sizes: tuple[int, int]) -> str:
    """Return the hash of what a masked record's arrays are."""
    return hashlib.sha256(f"masked {sizes[0]} {sizes[1]}".encode()).hexdigest()


def encode(
    header: Header, payload: Payload, model: Schema | None = None, inline: int = INLINE_BYTES
) -> RecordDict:
    """Return the records of a header and its arrays; fills the hashes of schema and payload.

    Args:
        header: without schema_hash, payload_hash and sum_schema.
        payload: what travels.
        model: schema of the weights when `payload.model` is given.
        inline: most bytes of arrays that lie in the header's record.
    """
    arrays: dict[str, Array] = {}
    total = payload.total
    if payload.model is not None:
        arrays[MODEL] = Array(np.ascontiguousarray(payload.model, dtype=np.float32))
    if total is not None:
        arrays[TOTAL] = Array(total.flatten())
    arrays |= _masked_arrays(payload.masked)
    if payload.sealed:
        arrays[SEALED] = Array(np.frombuffer(payload.sealed, dtype=np.uint8))
    schemas = (model if payload.model is not None else None, total.schema if total else None)
    masked, within = payload.masked, {name: array.data for name, array in arrays.items()}
    filled = {
        **asdict(header),
        "schema_hash": contents_hash(*schemas) if masked is None else masked_hash(masked.sizes),
        "payload_hash": payload_hash(within),
        "sum_schema": json.dumps(total.schema) if total is not None else "",
    }
    if sum(map(len, within.values())) <= inline:
        return RecordDict({HEADER: ConfigRecord({**filled, **within})})
    return RecordDict({HEADER: ConfigRecord(filled), ARRAYS: ArrayRecord(arrays)})


def _masked_arrays(masked: Masked | None) -> dict[str, Array]:
    if masked is None:
        return {}
    update = {MODEL: Array(masked.update)} if masked.update.size else {}
    return {**update, TOTAL: Array(masked.total)}


def payload_hash(arrays: Mapping[str, bytes]) -> str:
    """Return the SHA-256 (hex) of the arrays' bytes in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name}\0{len(arrays[name])}\0".encode())
        digest.update(arrays[name])
    return digest.hexdigest()


def declared(record: RecordDict) -> tuple[str, str] | None:
    """Return the hash of a reply's arrays and the ledger line it names; None where it names none.

    Nothing else of the reply has been checked.
    """
    try:
        header, arrays = _open(record)
    except UpdateRejected:
        return None
    return (payload_hash(arrays), header.ledger_hash) if header.ledger_hash else None


def record_bytes(record: RecordDict) -> int:
    """Return the bytes of a message's arrays as they travel, wherever they lie.

    Flower's `config_records` and `array_records` are not used on what has arrived: they make cycles
    that keep the whole of it until the garbage collector looks.
    """
    values = [value for part in record.values() for value in part.values()]
    found = (value.data if isinstance(value, Array) else value for value in values)
    return sum(len(data) for data in found if isinstance(data, bytes))


def decode(record: RecordDict, expected: Expected) -> tuple[Header, Payload]:
    """Return header and arrays of a record that passes every check.

    Raises:
        UpdateRejected: with the reason "record", "header", "kind", "round", "config", "code",
            "site", "weight", "schema", "size", "digest", "dtype", "shape", "nan" or "norm".
    """
    header, arrays = _open(record)
    _check_identity(header, expected)
    _check_declared(header, arrays, expected)
    if expected.masked is not None:
        return header, Payload(masked=_read_masked(arrays, expected.masked))
    model = total = None
    if expected.model is not None:
        model = _read(arrays[MODEL], np.dtype("<f4"), model_size(expected.model))
        _check_norm(model, expected.max_norm)
    if expected.total is not None:
        flat = _read(arrays[TOTAL], np.dtype("<f8"), model_size(expected.total))
        total = Sum.unflatten(expected.total, flat)
    sealed = _read_bytes(arrays[SEALED]) if expected.sealed else b""
    return header, Payload(model, total, sealed=sealed)


def _read_masked(arrays: Mapping[str, bytes], sizes: tuple[int, int]) -> Masked:
    update = np.zeros(0, np.uint16)
    if sizes[0]:
        update = _read(arrays[MODEL], np.dtype("<u2"), sizes[0])
    return Masked(update, _read(arrays[TOTAL], np.dtype("<u8"), sizes[1]))


def _read_bytes(data: bytes) -> bytes:
    """Return the bytes that an array of any length holds."""
    head = NPY_HEADER.match(data)
    size = len(data) - (head.end() if head is not None else 0)
    return _read(data, np.dtype("|u1"), size).tobytes()


def arrays_of(record: RecordDict) -> dict[str, bytes]:
    """Return the arrays of a message as bytes, by name: in the header's record or apart, not both.

    Raises:
        UpdateRejected: "record".
    """
    if not {HEADER} <= set(record) <= {HEADER, ARRAYS}:
        raise UpdateRejected("record", f"expected {HEADER} and {ARRAYS}, found {sorted(record)}")
    config, apart = record[HEADER], record.get(ARRAYS)
    if not isinstance(config, ConfigRecord) or not isinstance(apart, ArrayRecord | None):
        raise UpdateRejected("record", "header or arrays are of another record type")
    within = {name: config[name] for name in ARRAY_NAMES if name in config}
    if apart is not None and (within or not set(apart) <= set(ARRAY_NAMES)):
        raise UpdateRejected("record", f"unknown arrays, or some in each place: {sorted(apart)}")
    found = within if apart is None else {name: array.data for name, array in apart.items()}
    arrays = {name: data for name, data in found.items() if isinstance(data, bytes)}
    if len(arrays) != len(found):
        raise UpdateRejected("record", "an array is no bytes")
    return arrays


def _open(record: RecordDict) -> tuple[Header, dict[str, bytes]]:
    arrays = arrays_of(record)
    config = {name: v for name, v in record[HEADER].items() if name not in ARRAY_NAMES}
    wanted = {field.name: (int if field.type == "int" else str) for field in fields(Header)}
    if set(config) != set(wanted) or any(type(config[n]) is not t for n, t in wanted.items()):
        raise UpdateRejected("header", "the header has other fields or types than agreed")
    values: dict[str, Any] = dict(config)
    if any(isinstance(v, str) and len(v) > LONGEST_TEXT for v in values.values()):
        raise UpdateRejected("header", "the header is too long")
    if not LEDGER_HASH.fullmatch(values["ledger_hash"]):
        raise UpdateRejected("header", "ledger_hash: expected 64 hex digits or nothing")
    return Header(**values), arrays


def _check_identity(header: Header, expected: Expected) -> None:
    for reason, found, wanted in (
        ("kind", header.kind, expected.kind),
        ("round", header.round, expected.round),
        ("config", header.config_hash, expected.config_hash),
        ("code", header.code_hash, expected.code_hash),
    ):
        if found != wanted:
            raise UpdateRejected(reason, f"{reason}: expected {wanted}, found {found!r:.80}")
    if expected.site is not None and header.site != expected.site:
        raise UpdateRejected("site", f"expected site {expected.site}, found {header.site!r:.80}")
    if expected.site is None and not SITE_NAME.fullmatch(header.site):
        raise UpdateRejected(
            "site", "the site's name has other characters than letters, digits .-_"
        )
    lowest, highest = expected.images
    if not lowest <= header.num_images <= highest:
        found = f"found num_images {header.num_images}"
        raise UpdateRejected("weight", f"expected {lowest} to {highest} images, {found}")


def _check_declared(header: Header, arrays: Mapping[str, bytes], expected: Expected) -> None:
    """Compare names, schema and size with what is expected, before anything is decoded."""
    names = _names_of(expected)
    if set(arrays) != names:
        raise UpdateRejected("schema", f"expected arrays {sorted(names)}, found {sorted(arrays)}")
    size = sum(len(data) for data in arrays.values())
    if size > expected.max_bytes:
        raise UpdateRejected("size", f"expected at most {expected.max_bytes} bytes, found {size}")
    schema = contents_hash(expected.model, expected.total)
    if header.schema_hash != (masked_hash(expected.masked) if expected.masked else schema):
        raise UpdateRejected("schema", "names or shapes of the arrays differ from the agreed ones")
    if header.payload_hash != payload_hash(arrays):
        raise UpdateRejected("digest", "the arrays are not those that the header was made for")


def _names_of(expected: Expected) -> set[str]:
    """Return the arrays that a record must hold."""
    if expected.masked is not None:
        return {MODEL, TOTAL} if expected.masked[0] else {TOTAL}
    wanted = {MODEL: expected.model, TOTAL: expected.total, SEALED: expected.sealed or None}
    return {name for name, asked in wanted.items() if asked is not None}


def _read(data: bytes, dtype: np.dtype[Any], size: int) -> NDArray[Any]:
    """Return `[size]` numbers of `dtype`; the foreign .npy header is matched, never evaluated."""
    head = NPY_HEADER.match(data)
    if head is None or int.from_bytes(head[1], "little") != head.end() - head.end(1):
        raise UpdateRejected("dtype", "the array is not in the .npy format, version 1.0, of numpy")
    if head[2] != dtype.str.encode():
        raise UpdateRejected("dtype", f"expected {dtype.str}, found {head[2].decode()}")
    if head[3] != f"({size},)".encode() or len(data) - head.end() != size * dtype.itemsize:
        raise UpdateRejected("shape", f"expected ({size},), found {head[3].decode()}")
    values = np.frombuffer(data, dtype=dtype, offset=head.end())
    if not np.isfinite(values).all():
        raise UpdateRejected("nan", "a value is not finite")
    return values


def _check_norm(model: NDArray[np.float32], largest: float | None) -> None:
    if largest is None:
        return
    norm = float(np.linalg.norm(model.astype(np.float64)))
    if norm > largest:
        raise UpdateRejected("norm", f"expected a norm of at most {largest:g}, found {norm:g}")
