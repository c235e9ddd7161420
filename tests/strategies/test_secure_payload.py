"""Answers as integers: what the sum says is what visible answers say."""

from __future__ import annotations

import numpy as np
import pytest

from mfm_core.errors import ConfigError
from mfm_core.sums import Accumulator, Sum
from strategies.quantise import Grain
from strategies.secure_payload import Form, from_integers, to_integers
from strategies.wire import Payload

SCHEMA = (("counts", (2, 2)), ("mean", (3,)))
IMAGES = (620, 400, 37)


def answers(size: int) -> list[Payload]:
    draw = np.random.default_rng(0)
    return [
        Payload(
            draw.normal(0, 0.1, size).astype(np.float32) if size else None,
            Sum({"counts": draw.integers(0, 99, (2, 2)), "mean": draw.normal(0, 50, 3)}),
        )
        for _ in IMAGES
    ]


def summed(form: Form, payloads: list[Payload]):
    draw, total = np.random.default_rng(1), None
    for images, payload in zip(IMAGES, payloads, strict=True):
        found = to_integers(form, images, payload, draw)
        assert (found.update.size, found.total.size) == form.sizes
        total = found if total is None else total.plus(found)
    return from_integers(form, total)


def test_exact_answers_have_the_bits_of_visible_ones():
    payloads, form = answers(50), Form(50, SCHEMA)
    visible = Accumulator(1 + 50 + 7)
    for images, payload in zip(IMAGES, payloads, strict=True):
        update = payload.model.astype(np.float64) * images
        visible.add(np.concatenate([[float(images)], update, payload.total.flatten()]))
    expected, found = visible.result(), summed(form, payloads)
    assert found.images == sum(IMAGES)
    np.testing.assert_array_equal(found.update, expected[1:51] / expected[0])
    np.testing.assert_array_equal(found.total.flatten(), expected[51:])


def test_quantised_updates_are_close_and_their_sums_exact():
    payloads = answers(2000)
    norms = [float(np.linalg.norm(p.model.astype(float))) for p in payloads]
    form = Form(2000, SCHEMA, Grain(2000, max(norms), seed=5), largest=max(IMAGES))
    found, exact = summed(form, payloads), summed(Form(2000, SCHEMA), payloads)
    error = np.linalg.norm(found.update - exact.update) / np.linalg.norm(exact.update)
    assert error < 0.05
    np.testing.assert_array_equal(found.total.flatten(), exact.total.flatten())
    square = sum(n * norm**2 for n, norm in zip(IMAGES, norms, strict=True)) / sum(IMAGES)
    assert found.norm == pytest.approx(square**0.5, rel=1e-6)


def test_a_sum_without_an_update():
    payloads = [Payload(None, p.total) for p in answers(0)]
    found = summed(Form(0, SCHEMA), payloads)
    assert found.update is None
    assert found.images == sum(IMAGES)
    np.testing.assert_allclose(found.total["mean"], sum(p.total["mean"] for p in payloads))


def test_broken_numbers_are_never_masked():
    broken = Sum({"counts": np.full((2, 2), np.nan), "mean": np.zeros(3)})
    with pytest.raises(ConfigError, match="not finite"):
        to_integers(Form(0, SCHEMA), 5, Payload(None, broken), np.random.default_rng(0))
