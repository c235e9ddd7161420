"""The card's rows are there where a card is, and the benchmark says so where none is."""

from __future__ import annotations

import pytest

from simulation.benchmark import describe_machine, draw_image_set, make_table
from simulation.card_speed import bench_card, name_card


def test_without_a_card_there_are_no_rows_and_the_table_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert bench_card(1, draw_image_set(64, 8), 8) == []
    assert name_card() == describe_machine()["card"] == "no GPU found"
    assert "no GPU found, so its rows are left out" in str(make_table([]).caption)


@pytest.mark.gpu
def test_a_card_is_faster_than_a_core_at_every_precision() -> None:
    rows = bench_card(2, draw_image_set(64), 32)
    assert len(rows) >= 3 and all(row.measured > 1 for row in rows)
