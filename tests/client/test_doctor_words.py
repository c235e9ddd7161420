from client.doctor_words import DETAILS_SHOWN, lines_of, summary_of, table_of
from client.dry_run import Exchange, Tensor
from client.finding import Finding


def test_a_failure_says_what_to_do_and_how_many_problems_are_not_shown() -> None:
    details = tuple(f"row {number}" for number in range(DETAILS_SHOWN + 5))
    text = lines_of(Finding("data", "fail", "25 problems", "correct them", details))
    assert text.startswith("FAIL  data") and "-> correct them" in text
    assert "row 19" in text and "row 20" not in text and "5 more" in text


def test_what_is_ok_stays_one_line() -> None:
    assert "\n" not in lines_of(Finding("data", "ok", "fine", "nothing", ("detail",)))


def test_the_summary_counts_and_judges() -> None:
    def made(*levels: str) -> list[Finding]:
        return [Finding("part", level, "text") for level in levels]  # type: ignore[arg-type]

    assert summary_of(made("ok", "warn", "fail")) == "1 ok, 1 warn, 1 fail: NOT ready"
    assert summary_of(made("ok", "skip")) == "1 ok, 1 skip: ready"
    assert "warnings" in summary_of(made("ok", "warn"))


def test_the_table_shows_every_column_and_adds_up_the_rounds() -> None:
    tensor = Tensor("class.count", (2, 3), 48, 12.345678, (1.0, 2.5))
    left = Exchange(
        "latent_sums", 0, 1, "leaves", "", 24, 2**20, 3, "cells below 10 (heuristic)", "none",
        (tensor,), ("01-latent_sums.json",),
    )  # fmt: skip
    train = Exchange("train", 1, 40, "leaves", "", 24, 2**20)
    refused = Exchange("audit", 0, 1, "refused", "limit: audit is not allowed")
    text = table_of((left, train, refused))
    for words in (
        *("class.count", "2 x 3", "48", "12.35", "1, 2.5", "24 images", "3 cells suppressed"),
        *("mechanism cells below 10 (heuristic), epsilon none", "train round 1 (of 40)"),
        *("audit: refused", "limit: audit is not allowed", "01-latent_sums.json", "41.0 MiB"),
    ):
        assert words in text
    assert "Nothing was sent" in text
