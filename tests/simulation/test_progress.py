"""Progress: lines with rate and time left in a log, one bar on a terminal, silence for --json."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from simulation import progress
from simulation.progress import BarDisplay, PlainDisplay, SilentDisplay, Step, choose_display


def test_a_log_gets_a_line_per_phase_and_per_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 20.0, 21.0, 60.0, 80.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    stream = io.StringIO()
    display = PlainDisplay(stream)
    for done in (0, 2, 3, 6, 10):
        display.show(Step("training", done, 10))
    lines = [line.partition(" ")[2] for line in stream.getvalue().splitlines()]
    assert lines == [
        "training",
        "training: 2/10, 6.0/min, 80 s left",
        "training: 6/10, 6.0/min, 40 s left",
        "training: 10/10, 7.5/min",
    ]


def test_a_resumed_phase_counts_its_rate_from_where_it_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter([0.0, 60.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    stream = io.StringIO()
    display = PlainDisplay(stream)
    display.show(Step("training", 8, 12))
    display.show(Step("training", 10, 12))
    assert "10/12, 2.0/min, 60 s left" in stream.getvalue()


def test_a_terminal_gets_a_bar_with_count_and_rate() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    with BarDisplay(console) as display:
        display.show(Step("federated training", 1, 4, "north: ok"))
        display.show(Step("federated training", 4, 4, "done"))
        display.show(Step("baselines", 0, 2))
    text = stream.getvalue()
    assert "federated training" in text and "4/4" in text and "0/2" in text


def test_the_display_fits_where_it_is_shown() -> None:
    assert isinstance(choose_display(stream=io.StringIO()), PlainDisplay)
    assert isinstance(choose_display(quiet=True), SilentDisplay)


def test_a_progress_file_that_is_absent_or_half_written_is_empty(tmp_path: Path) -> None:
    assert progress.read_progress(tmp_path / "progress.json") == {}
    (tmp_path / "progress.json").write_text('{"phase": "tr', encoding="utf-8")
    assert progress.read_progress(tmp_path / "progress.json") == {}
