"""The page of a leak audit: whole, escaped, marked, and honest about what it does not know."""

from __future__ import annotations

from mfm_core.leak_page import about, headline, leak_page, sheets
from tests.mfm_core.leak_record import record


def test_the_page_is_one_file_that_says_it_stays():
    page = leak_page(record())
    assert page.count("stays at the site") == 2 and "&lt;none&gt;" in page
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert "not known here" in page and "no proof" in page
    assert "epsilon 4.200 at delta 1e-06, unit patient" in page


def test_the_headline_names_leaks_first_then_what_is_open():
    content = record()
    assert headline(content).endswith("is shown: membership, head, simple.")
    content["attacks"][0]["verdict"] = "within"
    assert "1 of 2 attacks had too few patients" in headline(content)
    content["attacks"][1]["verdict"] = "within"
    assert headline(content).startswith("All 2 attacks on the release stay within")


def test_what_was_not_done_has_no_table_and_a_sentence():
    content = record()
    del content["canaries"], content["inversion"], content["epsilon"]
    assert [sheet.title for sheet in sheets(content)] == [
        "Was a patient learnt from?",
        "Does a decoded class mean show somebody?",
    ]
    words = about(content)
    assert any("nothing bounds these attacks" in line for line in words)
    assert words[-1].startswith("Not done: LiRA")


def test_a_secure_sum_is_named_where_it_hides_the_update():
    masked = {sheet.title: sheet.note for sheet in sheets(record(masked=True))}
    assert "sums of masked updates" in masked["Can an image be drawn back?"]
    assert any("310 patients in 512 numbers" in line for line in about(record()))


def test_bound_formula_and_missing_tests_stand_in_their_cells():
    attacks, *_, drawings = sheets(record())
    assert attacks.rows[0][4] == "<= 0.700" and attacks.rows[0][6] == "<= 0.100"
    assert attacks.rows[1][4] == "formula 0.800" and attacks.rows[1][8] == "not excluded"
    assert drawings.rows[1] == ("rare", "", "", "", "too few patients")
    assert "p 0.400" in drawings.note
    assert "No class could be tested" in sheets(record(nearest_p=None))[-1].note
