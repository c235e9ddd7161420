import pytest

from mfm_core.report_words import (
    NONE,
    Cell,
    Table,
    chance,
    counts,
    duration,
    judged,
    listed,
    number,
    percent,
    several,
    size,
    span,
)


def test_numbers_that_are_not_defined_are_dashes():
    assert number(None) == percent(None) == chance(None) == span(None).value == NONE


def test_a_minus_is_a_minus_and_zero_has_none():
    assert number(-1.25, 1) == "−1.2" and number(-0.001) == "0.00" and number(0.0) == "0.00"


def test_an_interval_with_a_minus_is_written_in_words():
    estimate = {"value": -0.1, "low": -0.2, "high": 0.1}
    assert span(estimate) == Cell("−0.100", "−0.200 to 0.100")


def test_a_goal_is_a_word_and_only_where_there_is_a_figure():
    known = {"value": 0.5, "low": None, "high": None}
    assert judged(known, True).verdict == "met" and judged(known, False).verdict == "missed"
    assert judged(known, None).verdict == "" and judged({"value": None}, False).verdict == ""


def test_small_chances_are_not_zero():
    assert chance(0.0) == "< 0.001" and chance(0.0312) == "0.031"


def test_lists_and_counts_read_as_sentences():
    assert listed([]) == "" and listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c"
    assert several(1, "goal") == "1 goal" and several(2, "goal") == "2 goals"
    assert counts({"a": 3, "b": 0, "c": 1}) == "a 3, c 1"


def test_a_table_without_rows_is_nothing():
    assert not Table(("a",), []) and Table(("a",), [[Cell("x")]])


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.6, "5 s"), (131, "2 min"), (9000, "2.5 h")]
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_bytes_are_in_powers_of_ten():
    assert (size(5_531_000), size(2048)) == ("5.53 MB", "2 kB")
