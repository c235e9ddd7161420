"""Searches bytes for identifiers in every form they could hide in.

`text_forms`, `number_forms` and `pixel_forms` return what an identifier looks like in bytes;
`Search` finds any of them in one pass; `opened` unpacks what can be unpacked (gzip, zlib, zip,
npy, safetensors, base64, SQLite), so that the search sees through it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import math
import re
import sqlite3
import struct
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WINDOW = 5
LARGEST_OPENED = 64 * 2**20
DEEPEST, SMALLEST_OPENED = 4, 16
_BITS = 24


@dataclass(frozen=True)
class Mark:
    """Something that must not leave.

    Attributes:
        name: unique; the identifier itself, or which pixels.
        where: kind of place it was planted in.
        site: whose it is.
        forms: how it may be written, to the bytes of that.
    """

    name: str
    where: str
    site: str
    forms: Mapping[str, bytes]


def text_forms(text: str) -> dict[str, bytes]:
    """Return every form of a text of five or more characters."""
    raw = text.encode()
    forms = {
        "raw": raw,
        "latin-1": text.encode("latin-1", "replace"),
        "lower case": text.lower().encode(),
        "upper case": text.upper().encode(),
        "utf-16-le": text.encode("utf-16-le"),
        "utf-16-be": text.encode("utf-16-be"),
        "utf-32-le": text.encode("utf-32-le"),
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        "url": urllib.parse.quote(text, safe="").encode(),
        "url, every byte": "".join(f"%{byte:02X}" for byte in raw).encode(),
        "json": json.dumps(text)[1:-1].encode(),
        "reversed": raw[::-1],
        **{f"base64 + {offset}": form for offset, form in enumerate(_base64_forms(raw))},
    }
    for name in ("md5", "sha1", "sha256"):
        digest = hashlib.new(name, raw, usedforsecurity=False).digest()
        forms |= {f"{name}": digest, f"{name} hex": digest.hex().encode()}
    if text.isascii() and text.isdigit() and len(text) < 19:
        forms |= number_forms(int(text))
    first = {form: name for name, form in reversed(forms.items()) if len(form) >= WINDOW}
    return {name: form for form, name in reversed(first.items())}


def _base64_forms(raw: bytes) -> Iterator[bytes]:
    """Yield what of a text's base64 does not depend on its neighbours, at three offsets."""
    for offset in range(3):
        coded = base64.b64encode(b"\0" * offset + raw)
        first = math.ceil(offset * 8 / 6)
        last = (offset + len(raw)) * 8 // 6
        yield coded[first:last]


def number_forms(number: int) -> dict[str, bytes]:
    """Return a number as eight bytes in both orders, as float64 likewise, and as a varint."""
    forms = {
        "int64": struct.pack("<q", number),
        "int64, reversed": struct.pack(">q", number),
        "float64": struct.pack("<d", number),
        "float64, reversed": struct.pack(">d", number),
    }
    varint = bytearray()
    while number > 0x7F:
        varint.append(number & 0x7F | 0x80)
        number >>= 7
    varint.append(number)
    return {**forms, "varint": bytes(varint)} if len(varint) > WINDOW else forms


def pixel_forms(values: np.ndarray) -> dict[str, bytes]:
    """Return a row of uint8 pixels as bytes and as floats of usual types and scales."""
    unit = values.astype(np.float64) / 255.0
    return {
        "uint8": values.tobytes(),
        "float32 in [0, 1]": (values.astype(np.float32) / np.float32(255)).tobytes(),
        "float32": values.astype(np.float32).tobytes(),
        "float64 in [0, 1]": unit.tobytes(),
        "float64": values.astype(np.float64).tobytes(),
        "float16 in [0, 1]": unit.astype(np.float16).tobytes(),
    }


class Search:
    """Looks for all forms of all marks at once.

    Args:
        marks: what to look for.
    """

    def __init__(self, marks: Iterable[Mark]) -> None:
        self._anchors: dict[bytes, list[tuple[bytes, int, str, str]]] = {}
        self._table = np.zeros(2**_BITS, dtype=bool)
        for mark in marks:
            for form, pattern in mark.forms.items():
                self._add(pattern, mark.name, form)

    def _add(self, pattern: bytes, name: str, form: str) -> None:
        places = range(len(pattern) - WINDOW + 1)
        at = max(places, key=lambda p: len(set(pattern[p : p + WINDOW])))
        anchor = pattern[at : at + WINDOW]
        self._anchors.setdefault(anchor, []).append((pattern, at, name, form))
        self._table[_hashed(np.frombuffer(anchor, dtype=np.uint8))] = True

    def bare(self, content: bytes) -> set[tuple[str, str]]:
        """Return (mark, form) of all that stands in these bytes as they are."""
        found: set[tuple[str, str]] = set()
        step = 2**22
        for start in range(0, max(len(content) - WINDOW + 1, 0), step):
            part = np.frombuffer(content[start : start + step + WINDOW - 1], dtype=np.uint8)
            for place in np.flatnonzero(self._table[_hashed(part)]).tolist():
                position = start + place
                for pattern, at, name, form in self._anchors.get(
                    content[position : position + WINDOW], ()
                ):
                    begin = position - at
                    if begin >= 0 and content[begin : begin + len(pattern)] == pattern:
                        found.add((name, form))
        return found

    def through(self, content: bytes) -> set[tuple[str, str]]:
        """Return (mark, form) of all that stands in these bytes or in what they pack."""
        found: set[tuple[str, str]] = set()
        for way, part in opened(content):
            inside = f" in {way}" if way else ""
            found |= {(name, form + inside) for name, form in self.bare(part)}
        return found


def _hashed(content: np.ndarray) -> np.ndarray:
    """Return the hash of every window, `[N - WINDOW + 1] uint64` below 2**_BITS."""
    size = len(content) - WINDOW + 1
    words = np.zeros(size, dtype=np.uint64)
    for place in range(WINDOW):
        words |= content[place : place + size].astype(np.uint64) << np.uint64(8 * place)
    return (words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - _BITS)


def opened(content: bytes, way: str = "", depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield how it was unpacked and bytes, the content itself first."""
    yield way, content
    if depth == DEEPEST or len(content) < SMALLEST_OPENED:
        return
    for name, unpack in _UNPACKERS.items():
        for part in unpack(content):
            inner = f"{name} in {way}" if way else name
            yield from opened(part, inner, depth + 1) if name not in _ENDS else [(inner, part)]


def _deflated(content: bytes) -> Iterator[bytes]:
    view = memoryview(content)
    for found in re.finditer(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]", content):
        stream = zlib.decompressobj(wbits=47)
        try:
            part = stream.decompress(view[found.start() :], LARGEST_OPENED)
        except zlib.error:
            continue
        if len(part) >= WINDOW:
            yield part


def _zipped(content: bytes) -> Iterator[bytes]:
    start = content.find(b"PK\x03\x04")
    if start < 0:
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content[start:])) as packed:
            for name in packed.namelist():
                yield name.encode()
                yield packed.read(name)
    except (zipfile.BadZipFile, OSError, RuntimeError, zlib.error, NotImplementedError):
        return


def _npy(content: bytes) -> Iterator[bytes]:
    for found in re.finditer(rb"\x93NUMPY", content):
        try:
            array = np.lib.format.read_array(io.BytesIO(content[found.start() :]))
        except (ValueError, EOFError, OSError, MemoryError):
            continue
        yield from array_bytes(array)


_KINDS = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2"},
    **{"I8": "<i1", "U8": "<u1", "BOOL": "<u1", "U16": "<u2", "U32": "<u4", "U64": "<u8"},
}


def _safetensors(content: bytes) -> Iterator[bytes]:
    for found in re.finditer(rb'\{"', content):
        start = found.start()
        size = int.from_bytes(content[max(start - 8, 0) : start], "little") if start >= 8 else 0
        if not 8 < size < 10_000_000 or start + size > len(content):
            continue
        try:
            header = json.loads(content[start : start + size])
        except ValueError:
            continue
        yield from _tensors(header, memoryview(content)[start + size :])


def _tensors(header: Mapping[str, Any], body: memoryview) -> Iterator[bytes]:
    for entry in header.values():
        if not isinstance(entry, dict) or entry.get("dtype") not in _KINDS:
            continue
        first, last = entry["data_offsets"]
        try:
            yield from array_bytes(np.frombuffer(body[first:last], dtype=_KINDS[entry["dtype"]]))
        except ValueError:
            continue


def array_bytes(array: np.ndarray) -> Iterator[bytes]:
    """Yield an array in both orders, byte-swapped, and as the uint8 its numbers may stand for."""
    flat = np.ascontiguousarray(array).reshape(-1)
    yield flat.tobytes()
    if array.ndim > 1:
        yield array.tobytes(order="F")
    if flat.dtype.kind not in "fiu":
        return
    yield flat.byteswap().tobytes()
    with np.errstate(all="ignore"):
        values = np.nan_to_num(flat.astype(np.float64))
        for scale in (1.0, 255.0):
            yield np.clip(np.rint(values * scale), 0, 255).astype(np.uint8).tobytes()


def _coded(content: bytes) -> Iterator[bytes]:
    """Yield what long runs of hexadecimal digits or of base64 stand for."""
    for found in re.finditer(rb"[A-Za-z0-9+/]{24,}|[A-Za-z0-9_-]{24,}", content):
        run = found[0]
        if re.fullmatch(rb"[0-9a-fA-F]+", run):
            yield bytes.fromhex(run[: len(run) // 2 * 2].decode())
            continue
        run = run.replace(b"-", b"+").replace(b"_", b"/")
        run = run[: len(run) - (len(run) % 4 == 1)]
        yield binascii.a2b_base64(run + b"=" * (-len(run) % 4))


def _sqlite(content: bytes) -> Iterator[bytes]:
    start = content.find(b"SQLite format 3\0")
    if start < 0:
        return
    head = content[start : start + 18] + b"\x01\x01"  # as if it was never in WAL mode
    size = int.from_bytes(content[start + 16 : start + 18], "big") or 1
    pages = int.from_bytes(content[start + 28 : start + 32], "big")
    plain = (head + content[start + 20 :])[: (65536 if size == 1 else size) * pages]
    with sqlite3.connect(":memory:") as base:
        try:
            base.deserialize(plain)
            tables = base.execute("select name from sqlite_master where type='table'").fetchall()
            for (table,) in tables:
                for row in base.execute(f'select * from "{table}"'):
                    yield from (_cell(value) for value in row if value is not None)
        except sqlite3.Error:
            return


def _cell(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


_UNPACKERS = {
    "gzip": _deflated,
    "zip": _zipped,
    "npy": _npy,
    "safetensors": _safetensors,
    "base64 or hex": _coded,
    "SQLite": _sqlite,
}
_ENDS = {"npy", "safetensors"}
"""What they hold is numbers; nothing is unpacked from it."""


def bodies(stream: bytes) -> list[bytes]:
    """Return the bodies of the HTTP/1.1 messages of one direction of a connection, put together."""
    found, at = [], 0
    while (end := stream.find(b"\r\n\r\n", at)) >= 0:
        head, at = stream[at:end].lower(), end + 4
        if b"transfer-encoding: chunked" in head:
            body, at = _dechunked(stream, at)
        else:
            length = re.search(rb"\r\ncontent-length: *(\d+)", head)
            size = int(length[1]) if length else 0
            body, at = stream[at : at + size], at + size
        found.append(body)
    return found


def _dechunked(stream: bytes, at: int) -> tuple[bytes, int]:
    parts: list[bytes] = []
    while (line := stream.find(b"\r\n", at)) >= 0:
        size = int(stream[at:line].split(b";")[0] or b"0", 16)
        at = line + 2
        if size == 0:
            return b"".join(parts), at + 2
        parts.append(stream[at : at + size])
        at += size + 2
    return b"".join(parts), len(stream)


def search_all(search: Search, contents: Sequence[tuple[str, bytes]]) -> list[tuple[str, str, str]]:
    """Return (place, mark, form) of everything found in named contents, sorted."""
    hits = [(place, *hit) for place, content in contents for hit in search.through(content)]
    return sorted(hits)
