import pytest

from mfm_core.report_rounds import (
    answered,
    chart_rounds,
    missing_lines,
    protection_table,
    round_table,
    timing_table,
)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ("no-reply", "no answer came in time"),
        ("refused:limit", "limits said no"),
        ("error:2", "could not do the work"),
        ("rejected:norm", "was not used"),
        ("not-sent", "could not be delivered"),
        ("left-out", "had no part in the secure sum"),
    ],
)
def test_every_outcome_has_a_reason(outcome, reason):
    line = {"round": 4, "sites": {"a": "ok", "b": outcome}}
    (text,) = missing_lines({"site_names": ["a", "b"], "rounds_table": [line]})
    assert text.startswith(f"Round 4: b is missing ({outcome})") and reason in text


def test_a_site_that_was_not_asked_is_missing_too():
    results = {"site_names": ["a", "b"], "rounds_table": [{"round": 1, "sites": {"a": "ok"}}]}
    assert "b is missing (not asked): it could not be reached" in missing_lines(results)[0]
    cells = round_table(results).rows[0][-2:]
    assert [(cell.value, cell.verdict) for cell in cells] == [
        ("0 kB", ""),
        ("not asked", "missing"),
    ]


def test_answers_and_bytes_count_usable_rounds_only():
    lines = [
        {"round": 1, "sites": {"a": "ok"}, "bytes": {"a": 2_000_000}},
        {"round": 2, "sites": {"a": "rejected:nan"}, "bytes": {"a": 2_000_000}},
    ]
    assert answered({"rounds_table": lines}, "a") == ("1 of 2", "2.00 MB")
    assert answered({}, "a") == ("–", "–")


def test_curves_need_two_rounds():
    line = {"round": 1, "loss": {"loss": 1.0}, "val": {"macro_auc": 0.5}}
    assert chart_rounds({"rounds_table": [line]}) is None
    both = {"rounds_table": [line, {**line, "round": 2}]}
    assert chart_rounds(both).startswith("data:image/png;base64,")


def test_without_rounds_there_is_no_table():
    assert round_table({}) is None and timing_table({}) is None
    assert timing_table({"timing": {"train": 131}}).rows[0][1].value == "2 min"


def test_every_exchange_shows_its_label() -> None:
    label = {"level": "formal", "words": "DP-SGD (formal: patient)"}
    table = protection_table({"privacy": {"train": label}})
    assert table is not None and protection_table({}) is None
    assert [cell.value for cell in table.rows[0]] == ["train", "formal", label["words"]]
