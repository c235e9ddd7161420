"""Small cells stay, nothing shown lets them be subtracted back, and limits say no before work."""

from __future__ import annotations

import datetime

import numpy as np
import pytest
from flwr.app import RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from client.config import LimitsConfig
from client.limits import (
    check_arrays,
    check_norm,
    check_request,
    guarded_latent_sum,
    within_hours,
)
from mfm_core.config import OntologyConfig
from mfm_core.errors import LimitRefusal, OutsideHours
from mfm_core.latent_sums import latent_sum
from strategies import wire
from strategies.answers import SUPPRESSED

ONTOLOGY = OntologyConfig(classes=("a", "b", "c"), attributes={"view": ("AP", "PA", "LAT")})
RUN = "1" * 64


def limits(**changed: object) -> LimitsConfig:
    return LimitsConfig.model_validate({"accepted_runs": ["any"], **changed})


def cells(counts: list[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, attributes, patients: one patient an image, counts[class][value + 1]."""
    labels = [k for k, row in enumerate(counts) for n in row for _ in range(n)]
    values = [v - 1 for row in counts for v, n in enumerate(row) for _ in range(n)]
    return (
        np.array(labels, dtype=np.int64),
        np.array(values, dtype=np.int64).reshape(-1, 1),
        np.arange(len(labels)),
    )


def release(counts: list[list[int]], smallest: int):
    rows = cells(counts)
    mu = np.random.default_rng(0).normal(size=(len(rows[0]), 4))
    return guarded_latent_sum(mu, rows, ONTOLOGY, smallest), mu, rows


def test_nothing_small_means_nothing_changed() -> None:
    total, mu, rows = release([[0, 12, 15, 20], [0, 11, 11, 11], [0, 30, 10, 10]], 10)
    plain = latent_sum(mu, *rows, ONTOLOGY)
    assert total[SUPPRESSED] == 0
    assert all(np.array_equal(total[name], array) for name, array in plain.arrays.items())


def test_a_small_class_is_left_out_of_the_second_moment_too() -> None:
    total, mu, rows = release([[0, 20, 20, 20], [0, 2, 1, 1], [0, 20, 20, 20]], 10)
    assert total["class.count"].tolist() == [60, 0, 60]
    assert not total["class.sum"][1].any() and not total["attribute.view.sum"][1].any()
    shown = mu[rows[0] != 1]
    assert np.allclose(total["second_moment"], shown.T @ shown)
    assert total["images"] == 120 and total[SUPPRESSED] == 1


def test_a_lone_small_cell_takes_a_second_one_with_it() -> None:
    """AP 3, PA 20, LAT 40 of 63: with only AP hidden, 63 - 20 - 40 gives it away."""
    total, *_ = release([[0, 3, 20, 40], [0, 20, 20, 20], [0, 20, 20, 20]], 10)
    assert total["attribute.view.count"][0].tolist() == [0, 0, 40]
    assert total[SUPPRESSED] == 2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 25), min_size=4, max_size=4), min_size=3, max_size=3),
    st.integers(1, 15),
)
def test_no_cell_and_no_difference_is_small(counts: list[list[int]], smallest: int) -> None:
    if not sum(map(sum, counts)):
        return
    total, *_ = release(counts, smallest)
    shown = total["attribute.view.count"]
    for number in (*total["class.count"], *shown.ravel()):
        assert number == 0 or number >= smallest
    for hidden in total["class.count"] - shown.sum(axis=1):
        assert hidden == 0 or hidden >= smallest


def test_requests_are_refused_before_work() -> None:
    record = wire.encode(wire.Header("train", 1, RUN, "c"), wire.Payload(np.zeros(1000)), ())
    check_request(LimitsConfig(accepted_runs=(RUN,)), RUN, "train", record)
    check_request(LimitsConfig(accepted_runs=("any",)), RUN, "train", record)
    for limits, text in (
        (LimitsConfig(accepted_runs=("2" * 64,)), "accepted_runs"),
        (LimitsConfig(accepted_runs=(RUN,), allowed_kinds=("hello",)), "allowed_kinds"),
        (LimitsConfig(accepted_runs=(RUN,), max_message_mib=0.001), "max_message_mib"),
    ):
        with pytest.raises(LimitRefusal, match=text):
            check_request(limits, RUN, "train", record)


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [("08:00-17:00", "08:00", "17:00"), ("18:00-06:00", "23:59", "06:00"),
     ("18:00-06:00", "00:00", "17:59")],
)  # fmt: skip
def test_hours_may_run_over_midnight(hours: str, inside: str, outside: str) -> None:
    assert within_hours(hours, datetime.time.fromisoformat(inside))
    assert not within_hours(hours, datetime.time.fromisoformat(outside))


def test_outside_its_hours_a_site_says_so_with_a_word_of_its_own() -> None:
    now = datetime.datetime.now()
    first, last = now + datetime.timedelta(hours=2), now + datetime.timedelta(hours=3)
    limits = LimitsConfig(accepted_runs=(RUN,), hours=f"{first:%H:%M}-{last:%H:%M}")
    with pytest.raises(OutsideHours) as caught:
        check_request(limits, RUN, "hello", RecordDict())
    assert caught.value.code == "hours"


def test_a_site_lets_fewer_arrays_out_than_were_agreed() -> None:
    shapes = {"class.count": (2,), "second_moment": (4, 4), "model": (9,)}
    check_arrays(limits(), "latent_sums", shapes)
    narrow = limits(allowed_arrays={"latent_sums": ["class.*", "model"]})
    check_arrays(narrow, "train", shapes)
    with pytest.raises(LimitRefusal, match=r"allowed_arrays: second_moment$"):
        check_arrays(narrow, "latent_sums", shapes)
    with pytest.raises(LimitRefusal, match=r"class\.count, model, second_moment"):
        check_arrays(limits(allowed_arrays={"latent_sums": []}), "latent_sums", shapes)


def test_a_site_lets_fewer_numbers_out_than_were_agreed() -> None:
    shapes = {"second_moment": (4, 4), "model": (9,)}
    check_arrays(limits(max_numbers={"train": 25}), "train", shapes)
    check_arrays(limits(max_numbers={"atlas": 0}), "train", shapes)
    with pytest.raises(LimitRefusal, match="has 25 numbers"):
        check_arrays(limits(max_numbers={"train": 24}), "train", shapes)


def test_a_change_that_is_too_long_is_refused_not_made_smaller() -> None:
    update = np.array([3.0, 4.0], dtype=np.float32)
    check_norm(limits(), update)
    check_norm(limits(max_update_norm=5.0), update)
    with pytest.raises(LimitRefusal, match="norm 5"):
        check_norm(limits(max_update_norm=4.9), update)
    assert update.tolist() == [3.0, 4.0]
