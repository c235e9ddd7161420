"""The control of the egress proof: identifiers that a leaky hospital sends, one per encoding.

Whoever finds nothing must show that there was nothing to find. Each of these must be found by the
same search, in the form it was sent in.
"""

from __future__ import annotations

import base64
import gzip
import io
import random
import sqlite3
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import save

from tests.federation.identifiers import Words
from tests.federation.searching import Mark, pixel_forms, text_forms

SITE = "control"


@dataclass(frozen=True)
class Piece:
    """One identifier as it is leaked.

    Attributes:
        form: how, as the search names it.
        mark: the identifier.
        content: the bytes that are sent.
    """

    form: str
    mark: Mark
    content: bytes


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _letters(raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, dtype=np.uint8).astype(np.float64)


def _zipped(raw: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.txt", raw)
    return file.getvalue()


def _database(raw: bytes) -> bytes:
    with sqlite3.connect(":memory:") as base:
        base.execute("create table t (x)")
        base.execute("insert into t values (?)", (raw.decode(),))
        base.commit()
        return base.serialize()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "raw in gzip": gzip.compress,
    "raw in gzip (zlib)": zlib.compress,
    "raw in zip": _zipped,
    "raw in npy": lambda raw: _npy(_letters(raw)),
    "raw in npy (shares of 255, float32)": lambda raw: _npy(
        (_letters(raw) / 255).astype(np.float32)
    ),
    "raw in safetensors": lambda raw: save({"x": _letters(raw)}),
    "raw in gzip in base64 or hex": lambda raw: base64.b64encode(gzip.compress(raw)),
    "raw in SQLite": _database,
}
"""What packs a text; the search names the way it opened it, a remark in brackets left out."""


def control_pieces() -> tuple[Piece, ...]:
    """Return one new identifier per form, and bytes around it that change from piece to piece."""
    words, pieces = Words(SITE, random.Random("control")), []
    known = text_forms("Zorück-4821")
    for form in known:
        text = words.keep(f"Grünquill{words.word('control')}", "control")
        pieces.append(_piece(form, words, text))
    for form in ("int64", "int64, reversed", "float64", "float64, reversed", "varint"):
        pieces.append(_piece(form, words, words.number("control")))
    for form, pack in PACKERS.items():
        text = words.word("control")
        mark = words.marks[text]
        pieces.append(Piece(form.partition(" (")[0], mark, b"<" + pack(text.encode()) + b">"))
    row = np.random.default_rng(7).integers(0, 256, 32).astype(np.uint8)
    for form, content in pixel_forms(row).items():
        mark = Mark(f"pixels as {form}", "control", SITE, {form: content})
        pieces.append(Piece(form, mark, b"<" + content + b">"))
    return tuple(pieces)


def _piece(form: str, words: Words, text: str) -> Piece:
    mark = words.marks[text]
    return Piece(form, mark, b"<" + mark.forms[form] + b">")
