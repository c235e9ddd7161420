"""Sums add; the accumulator gives the same bits in any order and refuses what it cannot hold."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mfm_core.sums import FRACTION_BITS, Accumulator, Sum, schema_hash

REPEATABLE = settings(max_examples=50, deadline=None, derandomize=True)
NUMBERS = st.floats(-1e6, 1e6)


def small_sum(seed: int) -> Sum:
    draw = np.random.default_rng(seed)
    return Sum({"b": draw.normal(size=(2, 3)), "a": draw.normal(size=4), "c": np.array(1.0)})


def added(rows: np.ndarray) -> np.ndarray:
    accumulator = Accumulator(rows.shape[1])
    for row in rows:
        accumulator.add(row)
    return accumulator.result()


def test_names_are_kept_sorted_and_arrays_become_float64() -> None:
    total = Sum({"z": np.ones(2, dtype=np.int64), "a": np.ones(1, dtype=np.float32)})
    assert tuple(total.arrays) == ("a", "z")
    assert total.schema == (("a", (1,)), ("z", (2,)))
    assert all(array.dtype == np.float64 for array in total.arrays.values())


def test_merge_adds_and_leaves_both_alone() -> None:
    one, two = small_sum(1), small_sum(2)
    before = one.flatten()
    merged = one.merge(two)
    np.testing.assert_array_equal(merged.flatten(), one.flatten() + two.flatten())
    np.testing.assert_array_equal(one.flatten(), before)


@pytest.mark.parametrize("other", [{"a": np.zeros(5)}, {"b": np.zeros(4)}, {}])
def test_merge_refuses_another_schema(other: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="different schema"):
        Sum({"a": np.zeros(4)}).merge(Sum(other))


def test_flat_vector_gives_the_same_sum_back() -> None:
    total = small_sum(3)
    again = Sum.unflatten(total.schema, total.flatten())
    assert again.schema == total.schema
    for name, array in total.arrays.items():
        np.testing.assert_array_equal(again[name], array)


def test_empty_sum_survives_flattening() -> None:
    assert Sum.unflatten((), Sum().flatten()).schema == ()


@pytest.mark.parametrize("flat", [np.zeros(10), np.zeros(12), np.zeros((11, 1)), np.zeros(0)])
def test_unflatten_refuses_another_length(flat: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected 11 numbers"):
        Sum.unflatten(small_sum(0).schema, flat)


def test_schema_hash_sees_names_and_shapes_only() -> None:
    schema = small_sum(0).schema
    assert schema_hash(schema) == schema_hash(small_sum(1).schema)
    assert schema_hash(schema) != schema_hash(Sum({"a": np.zeros(4)}).schema)
    assert schema_hash(schema) == hashlib.sha256(json.dumps(schema).encode()).hexdigest()


@REPEATABLE
@given(arrays(np.float64, (6, 5), elements=NUMBERS), st.permutations(range(6)))
def test_accumulator_gives_the_same_bits_in_any_order(rows: np.ndarray, order: list[int]) -> None:
    assert added(rows).tobytes() == added(rows[order]).tobytes()


def test_float_addition_alone_would_depend_on_the_order() -> None:
    rows = np.random.default_rng(0).normal(size=(6, 200)) * 10.0 ** np.arange(-3, 3)[:, None]
    forwards, backwards = np.zeros(200), np.zeros(200)
    for one, other in zip(rows, rows[::-1], strict=True):
        forwards, backwards = forwards + one, backwards + other
    assert (forwards != backwards).any()
    np.testing.assert_array_equal(added(rows), added(rows[::-1]))


def test_accumulator_is_within_half_a_step_per_addend() -> None:
    rows = np.random.default_rng(1).uniform(-1, 1, (7, 2000))
    error = added(rows) - rows.sum(axis=0)
    assert np.abs(error).max() <= 7 * 2.0 ** -(FRACTION_BITS + 1) + 1e-14
    assert np.abs(error.mean()) < 0.1 * 2.0**-FRACTION_BITS, "rounding must not drift"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_accumulator_refuses_what_is_not_finite_and_stays_as_it_was(value: float) -> None:
    accumulator = Accumulator(2)
    accumulator.add(np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="not finite"):
        accumulator.add(np.array([1.0, value]))
    np.testing.assert_array_equal(accumulator.result(), [1.0, 2.0])
    assert accumulator.count == 1


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), ()])
def test_accumulator_refuses_another_length(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected 2 numbers"):
        Accumulator(2).add(np.zeros(shape))


def test_accumulator_refuses_before_it_would_wrap_around() -> None:
    accumulator = Accumulator(1)
    step = np.array([2.0**28])
    accepted = 0
    with pytest.raises(ValueError, match="too large"):
        for _ in range(100):
            accumulator.add(step)
            accepted += 1
    assert accepted >= 3
    np.testing.assert_array_equal(accumulator.result(), accepted * step)


@pytest.mark.parametrize("value", [1e10, 1e300, -1e300])
def test_accumulator_refuses_one_value_beyond_its_range(value: float) -> None:
    with pytest.raises(ValueError, match="too large"):
        Accumulator(1).add(np.array([value]))


def test_an_empty_accumulator_is_zero() -> None:
    np.testing.assert_array_equal(Accumulator(3).result(), np.zeros(3))
    accumulator = Accumulator(0)
    accumulator.add(np.zeros(0))
    assert accumulator.result().shape == (0,)
