"""Adding is exact in any order, whole or not at all, and takes the same memory for any number."""

from __future__ import annotations

import itertools
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

from mfm_core.errors import UpdateRejected
from mfm_core.evaluation import metric_sum
from mfm_core.sums import Sum
from strategies import wire
from strategies.answers import Answer
from strategies.collector import Collector, Identity, check_counts
from strategies.config import AggregationConfig
from strategies.plan import Kind, Step
from strategies.privacy import Label
from strategies.rounds import Site


def setting(size: int, **identity: Any) -> tuple[Identity, Answer]:
    schema = (("w", (size,)),)
    made = Identity("c" * 64, "d" * 64, schema, schema, AggregationConfig(), **identity)
    return made, Answer(True, (("n", (2,)),))


def reply(site: str, update: np.ndarray, images: int, counts: tuple[float, float]) -> RecordDict:
    header = wire.Header("train", 1, "c" * 64, "d" * 64, site=site, num_images=images)
    payload = wire.Payload(update.astype(np.float32), Sum({"n": np.array(counts)}))
    return wire.encode(header, payload, (("w", update.shape),))


def collect(size: int, **identity: Any) -> Collector:
    made, answer = setting(size, **identity)
    return Collector(made, Step("train", 1), answer, lambda total, images: {})


def test_every_order_of_arrival_gives_the_same_bits() -> None:
    generator = np.random.default_rng(0)
    scales = 10.0 ** np.arange(-4, 1)
    replies = [
        (f"s{i}", generator.normal(0, scale, 50), int(generator.integers(1, 9999)), (i, 0.1 * i))
        for i, scale in enumerate(scales)
    ]
    found = set()
    for order in itertools.permutations(replies):
        collector = collect(50)
        for site, update, images, counts in order:
            collector.add(Site(0, site), reply(site, update, images, counts))
        pooled = collector.result()
        assert pooled.update is not None and pooled.total is not None
        found.add(pooled.update.tobytes() + pooled.total["n"].tobytes())
    assert len(found) == 1
    weights = [images for _, _, images, _ in replies]
    expected = np.average(
        [u.astype(np.float32).astype(np.float64) for _, u, _, _ in replies], axis=0, weights=weights
    )
    assert pooled.images == sum(weights)
    assert np.abs(pooled.update - expected).max() < 1e-9


def test_memory_does_not_grow_with_the_number_of_sites() -> None:
    size = 200_000

    def peak(sites: int) -> int:
        collector = collect(size)
        update = np.ones(size) * 1e-3
        tracemalloc.start()
        for number in range(sites):
            collector.add(Site(number, f"s{number}"), reply(f"s{number}", update, 10, (1, 1)))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    few, many = peak(2), peak(24)
    assert many - few < 4 * size / 2  # not even half of one float32 reply


def test_a_rejected_reply_leaves_no_trace() -> None:
    collector = collect(4)
    collector.add(Site(1, "a"), reply("a", np.ones(4), 3, (1, 2)))
    before = collector.result()
    bad = [
        ("b", reply("b", np.full(4, np.nan), 3, (1, 2)), "nan"),
        ("b", reply("b", np.ones(4), 3, (1e12, 2)), "size"),
        ("b", reply("x", np.ones(4), 3, (1, 2)), "site"),
        ("a", reply("a", np.ones(4), 3, (1, 2)), "site"),
        ("b", reply("b", np.full(4, 1e6), 3, (1, 2)), "norm"),
        ("b", reply("b", np.ones(4), 2_000_000, (1, 2)), "weight"),
    ]
    for name, record, reason in bad:
        with pytest.raises(UpdateRejected) as caught:
            collector.add(Site(2, name), record)
        assert caught.value.reason == reason
    after = collector.result()
    assert after.images == before.images and dict(after.of_site) == dict(before.of_site)
    assert np.array_equal(after.update, before.update)  # type: ignore[arg-type]


def test_private_updates_all_weigh_one() -> None:
    identity, answer = setting(3)
    private = replace(answer, protection=Label("formal", "DP-SGD"))
    assert identity.expect(Step("train", 1), private, None).images == (1, 1)
    assert identity.expect(Step("train", 1), answer, None).images[1] > 1


def test_an_unnamed_site_needs_an_admitted_name() -> None:
    collector = collect(2, admitted=("a", "b"))
    collector.add(Site(7), reply("a", np.ones(2), 1, (0, 0)))
    assert collector.names == {7: "a"}
    with pytest.raises(UpdateRejected, match="not admitted"):
        collector.add(Site(8), reply("z", np.ones(2), 1, (0, 0)))


def metrics(images: int, prefix: str = "") -> dict[str, np.ndarray]:
    labels = np.arange(images) % 2
    logits, ones = np.eye(2)[labels], np.ones(images)
    found = metric_sum(logits, labels, ones, np.arange(images), 3, 0)
    return {f"{prefix}{name}": array for name, array in found.arrays.items()}


LYING: dict[str, tuple[Kind, dict[str, np.ndarray]]] = {
    "too many": ("evaluate", metrics(11)),
    "negative": ("evaluate", {**metrics(8), "confusion": np.array([[-1.0, 5.0], [0.0, 4.0]])}),
    "histogram": ("evaluate", {**metrics(8), "histogram": np.zeros((2, 2, 4096))}),
    "ssim": ("evaluate", {**metrics(8), "ssim": np.array([9.0, 8.0])}),
    "ssim images": ("evaluate", {**metrics(8), "ssim": np.array([8.0, 11.0])}),
    "validation": ("train", {**metrics(8, "val."), "val.ssim": np.array([0.0, 101.0])}),
    "unseen": ("train", {**metrics(8, "val."), "val.ssim": np.array([0.0, 7.0])}),
    "patients": ("latent_sums", {"class.count": np.array([6.0, 5.0])}),
    "no patients": ("latent_sums", {"class.count": np.array([6.0, -1.0])}),
    "cells": (
        "latent_sums",
        {"class.count": np.array([6.0, 3.0]), "attribute.view.count": np.full((2, 2), 2.0)},
    ),
    "patches": ("patch_moments", {"patch.count": np.array([9.0])}),
    "correct": ("heads", {"correct": np.array([-2.0]), "images": np.array([10.0])}),
}


@pytest.mark.parametrize("lie", LYING)
def test_counts_that_the_declared_images_cannot_give_are_refused(lie: str) -> None:
    kind, arrays = LYING[lie]
    with pytest.raises(UpdateRejected) as caught:
        check_counts(kind, Sum(arrays), 10, 100)
    assert caught.value.reason == "counts"


def test_honest_counts_pass() -> None:
    check_counts("evaluate", Sum(metrics(10)), 10, 100)
    check_counts("train", Sum(metrics(40, "val.")), 10, 100)
    check_counts("patch_moments", Sum({"patch.count": np.array([10.0])}), 10, 100)


def test_a_run_that_inspects_updates_is_not_pulled_away_by_a_liar() -> None:
    made, answer = setting(5)
    robust = replace(made, limits=AggregationConfig(combine="median"))
    found = []
    for identity in (made, robust):
        collector = Collector(identity, Step("train", 1), answer, lambda total, images: {})
        for name, value in (("a", 1.0), ("b", 1.1), ("c", 0.9), ("liar", 900.0)):
            collector.add(Site(0, name), reply(name, np.full(5, value), 10, (1, 1)))
        found.append(collector.result())
    mean, median = found
    assert mean.update is not None and median.update is not None
    assert mean.update.min() > 100 and abs(median.update - 1.05).max() < 1e-6
    assert median.images == mean.images and median.total is not None
