"""Every check refuses what it is for, by its own reason, and lets honest records pass."""

from __future__ import annotations

import gc
import io
import weakref
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from mfm_core.errors import UpdateRejected
from mfm_core.sums import Schema, Sum
from strategies import wire
from tests.strategies import records

SCHEMA = (("a", (2, 3)), ("b", (4,)))
TOTAL = Sum({"count": np.arange(3.0), "table": np.ones((2, 2))})
MODEL = np.linspace(-1, 1, 10, dtype=np.float32)
HEADER = wire.Header("train", 2, "c" * 64, "d" * 64, site="north", num_images=7)
EXPECTED = wire.Expected(
    "train",
    2,
    "c" * 64,
    "d" * 64,
    model=SCHEMA,
    total=TOTAL.schema,
    site="north",
    images=(1, 100),
    max_norm=10.0,
)


PLACES = {"within": wire.INLINE_BYTES, "apart": 0}
"""Where arrays lie, and how many bytes of them the header's record takes."""


class Place:
    """Where the arrays of the records of a test lie."""

    inline = wire.INLINE_BYTES


@pytest.fixture(autouse=True, params=PLACES)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let every check be made of both."""
    monkeypatch.setattr(Place, "inline", PLACES[request.param])
    return str(request.param)


def encoded(header: wire.Header, payload: wire.Payload, schema: Schema = SCHEMA) -> RecordDict:
    return wire.encode(header, payload, schema, Place.inline)


def honest(header: wire.Header = HEADER, model: np.ndarray = MODEL) -> RecordDict:
    return encoded(header, wire.Payload(model, TOTAL))


def with_array(array: np.ndarray | bytes, name: str = wire.MODEL) -> RecordDict:
    """Return the honest record with one array exchanged and the payload's hash made to fit."""
    return records.with_array(honest(), name, array)


def with_header(**changed: object) -> RecordDict:
    return records.with_header(honest(), **changed)


def reason_of(record: RecordDict, expected: wire.Expected = EXPECTED) -> str:
    with pytest.raises(UpdateRejected) as caught:
        wire.decode(record, expected)
    return caught.value.reason


BAD_HEADERS = ("{1:2,'a':3}", "(((", "-" * 9000)
"""Each makes numpy's own reader fail with an error of another kind."""


def array_with_header(text: str) -> bytes:
    """Return an array whose .npy header is `text`."""
    header = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def test_round_trip_keeps_every_bit() -> None:
    header, payload = wire.decode(honest(), EXPECTED)
    assert (header.site, header.num_images, header.round) == ("north", 7, 2)
    assert payload.model is not None and payload.total is not None
    assert payload.model.tobytes() == MODEL.tobytes()
    assert payload.total.schema == TOTAL.schema
    assert np.array_equal(payload.total["table"], TOTAL["table"])


def test_arrays_lie_in_the_headers_record_unless_they_are_too_long(place: str) -> None:
    within = wire.encode(HEADER, wire.Payload(MODEL, TOTAL), SCHEMA, wire.record_bytes(honest()))
    apart = wire.encode(HEADER, wire.Payload(MODEL, TOTAL), SCHEMA, wire.record_bytes(honest()) - 1)
    assert set(within) == {wire.HEADER} and set(apart) == {wire.HEADER, wire.ARRAYS}
    assert wire.arrays_of(within) == wire.arrays_of(apart)
    assert not set(apart[wire.HEADER]) & set(wire.ARRAY_NAMES)
    for record in (within, apart):
        assert wire.decode(record, EXPECTED)[0] == wire.decode(honest(), EXPECTED)[0]


def test_an_array_lies_in_one_place_and_is_bytes() -> None:
    record = honest()
    other = wire.encode(HEADER, wire.Payload(MODEL, TOTAL), SCHEMA, 0)
    both = RecordDict({wire.HEADER: record[wire.HEADER], wire.ARRAYS: other[wire.ARRAYS]})
    if Place.inline:
        assert reason_of(both) == "record"
    none = RecordDict({wire.HEADER: record[wire.HEADER], wire.ARRAYS: ArrayRecord({})})
    assert reason_of(none) == ("record" if Place.inline else "schema")
    for value in (1.0, "text", [1.0, 2.0], [b"a", b"b"]):
        header = ConfigRecord({**record[wire.HEADER], wire.MODEL: value})
        assert reason_of(RecordDict({wire.HEADER: header})) == "record"


def test_nothing_of_a_record_is_kept_once_it_was_read() -> None:
    record = honest()
    watched = [weakref.ref(part) for part in (record, record[wire.HEADER])]
    gc.disable()
    try:
        assert wire.record_bytes(record) and wire.declared(record) is None
        wire.decode(record, EXPECTED)
        del record
        assert [part() for part in watched] == [None, None], "a cycle waits for the collector"
    finally:
        gc.enable()


def test_the_model_is_one_array_and_the_sum_another() -> None:
    assert sorted(wire.arrays_of(honest())) == ["model", "sum"]
    assert wire.record_bytes(honest()) == 10 * 4 + 7 * 8 + 2 * 128


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"kind": "evaluate"}, "kind"),
        ({"round": 3}, "round"),
        ({"config_hash": "0" * 64}, "config"),
        ({"code_hash": "0" * 64}, "code"),
        ({"site": "south"}, "site"),
        ({"num_images": 0}, "weight"),
        ({"num_images": -5}, "weight"),
        ({"num_images": 101}, "weight"),
        ({"num_images": 7.0}, "header"),
        ({"num_images": True}, "header"),
        ({"schema_hash": "0" * 64}, "schema"),
        ({"payload_hash": "0" * 64}, "digest"),
        ({"extra": 1}, "header"),
        ({"ledger_hash": "x" * 200_000}, "header"),
        ({"ledger_hash": "x" * 64}, "header"),
        ({"ledger_hash": "a" * 63}, "header"),
    ],
)
def test_a_wrong_header_is_refused_by_name(changed: dict[str, object], reason: str) -> None:
    assert reason_of(with_header(**changed)) == reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(value: float) -> None:
    broken = MODEL.copy()
    broken[3] = value
    assert reason_of(honest(model=broken)) == "nan"
    assert reason_of(with_array(np.full(7, value), wire.TOTAL)) == "nan"


def test_shapes() -> None:
    for shape in [(1,), (9,), (11,), (10, 1), (1, 10), ()]:
        assert reason_of(with_array(np.zeros(shape, dtype=np.float32))) == "shape"


def test_the_decoded_dtype_counts_not_the_claimed_one() -> None:
    wide = with_array(np.zeros(10))
    if not Place.inline:
        data = wire.arrays_of(wide)[wire.MODEL]
        wide[wire.ARRAYS][wire.MODEL] = Array("float32", (10,), "numpy.ndarray", data)
    assert reason_of(wide) == "dtype"
    swapped = np.zeros(10, dtype=">f4")
    assert reason_of(with_array(swapped)) == "dtype"


def test_a_pickle_is_not_opened() -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}] * 10, dtype=object), allow_pickle=True)
    assert reason_of(with_array(stream.getvalue())) == "dtype"
    assert reason_of(with_array(b"\x80\x04junk")) == "dtype"


@pytest.mark.parametrize("text", BAD_HEADERS)
def test_a_malformed_array_header_is_refused_and_never_evaluated(text: str) -> None:
    assert reason_of(with_array(array_with_header(text))) == "dtype"


def test_a_header_of_another_declared_length_is_refused() -> None:
    data = records.npy(MODEL)
    assert reason_of(with_array(data[:8] + b"\x00\x00" + data[10:])) == "dtype"


def test_a_declared_terabyte_is_refused_before_it_is_allocated() -> None:
    stream = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (2**40,)}
    np.lib.format.write_array_header_1_0(stream, header)
    assert reason_of(with_array(stream.getvalue())) == "shape"


def test_size_is_compared_before_anything_else_is_read() -> None:
    assert reason_of(with_array(b"\0" * 5000), replace(EXPECTED, max_bytes=4999)) == "size"


def test_norm() -> None:
    assert reason_of(honest(model=MODEL * 100)) == "norm"
    wire.decode(honest(model=MODEL * 100), replace(EXPECTED, max_norm=None))


def test_missing_and_surplus_arrays() -> None:
    only_model = encoded(HEADER, wire.Payload(MODEL))
    assert reason_of(only_model) == "schema"
    assert reason_of(honest(), replace(EXPECTED, model=None)) == "schema"
    assert reason_of(with_array(MODEL, "more")) == ("header" if Place.inline else "record")


def test_other_records_are_refused() -> None:
    record = honest()
    assert reason_of(RecordDict()) == "record"
    others = {**dict(record.items()), "more": MetricRecord({"a": 1})}
    assert reason_of(RecordDict(others)) == "record"
    swapped = {**dict(record.items()), wire.HEADER: MetricRecord({"a": 1})}
    assert reason_of(RecordDict(swapped)) == "record"
    numbers = RecordDict({wire.HEADER: record[wire.HEADER], wire.ARRAYS: MetricRecord({"a": 1})})
    assert reason_of(numbers) == "record"
    if not Place.inline:
        assert reason_of(RecordDict({wire.HEADER: record[wire.HEADER]})) == "schema"


def test_other_names_of_the_same_sizes_are_another_schema() -> None:
    renamed = Sum({"count": np.arange(3.0), "other": np.ones((2, 2))})
    assert reason_of(encoded(HEADER, wire.Payload(MODEL, renamed))) == "schema"
    other = (("a", (3, 2)), ("b", (4,)))
    assert reason_of(encoded(HEADER, wire.Payload(MODEL, TOTAL), other)) == "schema"


def test_a_site_that_introduces_itself_needs_a_plain_name() -> None:
    unknown = replace(EXPECTED, site=None)
    assert wire.decode(honest(), unknown)[0].site == "north"
    for name in ["", "../x", "a b", "-a", "x" * 65]:
        assert reason_of(honest(replace(HEADER, site=name)), unknown) == "site"
