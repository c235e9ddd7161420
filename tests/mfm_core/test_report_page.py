import pytest

from mfm_core import report_page as page

AUC = {"value": 0.9512, "low": 0.93, "high": 0.971, "n": 40}


def test_the_headline_names_sites_rounds_figure_and_interval():
    results = {"sites": 3, "rounds": 12, "macro_auc": 0.9512, "macro_auc_interval": [0.93, 0.971]}
    text = page.headline({**results, "n_test": 240, "pooled": {"per_class": [{}, {}]}})
    assert text == (
        "3 hospitals trained one model together in 12 rounds; no image left a hospital. "
        "On 240 test images it tells the 2 classes apart with a macro AUC of 0.951 (0.930–0.971)."
    )


def test_the_headline_compares_with_the_mean_of_hospitals_alone():
    alone = [{"kind": "local", "macro_auc": {"value": value}} for value in (0.7, 0.8, None)]
    text = page.headline({"macro_auc": 0.9, "baselines": [*alone, {"kind": "pooled"}]})
    assert text.endswith("Hospitals that train alone reach 0.750 on average.")


def test_a_failed_run_claims_nothing():
    assert "0.9" not in page.headline({"status": "failed", "macro_auc": 0.9})


def test_estimates_without_interval_or_value():
    assert str(page.span(AUC)) == "0.951 (0.930–0.971)"
    assert str(page.span({"value": 0.5, "low": None, "high": None})) == "0.500"
    assert str(page.span(None)) == str(page.span({"value": None})) == "–"


def test_settings_are_flattened_by_dotted_path():
    rows = page.flatten({"a": {"b": [1, 2], "c": {}}, "d": None})
    assert rows == [("a.b", "1, 2"), ("a.c", "{}"), ("d", "None")]


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ("no-reply", "no answer came in time"),
        ("refused:limit", "limits said no"),
        ("error:2", "could not do the work"),
        ("rejected:norm", "was not used"),
        ("not-sent", "could not be delivered"),
    ],
)
def test_every_outcome_has_a_reason(outcome, reason):
    line = {"round": 4, "sites": {"a": "ok", "b": outcome}}
    (text,) = page.missing_lines({"site_names": ["a", "b"], "rounds_table": [line]})
    assert text.startswith(f"Round 4: b is missing ({outcome})") and reason in text


def test_a_site_that_was_not_asked_is_missing_too():
    results = {"site_names": ["a", "b"], "rounds_table": [{"round": 1, "sites": {"a": "ok"}}]}
    assert "b is missing (not asked): it could not be reached" in page.missing_lines(results)[0]
    cells = page.round_rows(results)[0]["cells"]
    assert cells == [("0 kB", True), ("not asked", False)]


def test_baselines_start_with_the_run_itself():
    results = {"pooled": {"macro_auc": AUC}, "baselines": [{"name": "n", "kind": "pooled"}]}
    rows = page.baseline_rows(results)
    assert [row[0].value for row in rows] == ["This run", "n"]
    assert rows[0][2].value == "0.951" and rows[1][1].value == "all images in one place"
    assert page.baseline_rows({"pooled": {"macro_auc": AUC}}) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.6, "5 s"), (131, "2 min"), (9000, "2.5 h")]
)  # fmt: skip
def test_durations(seconds, text):
    assert page.duration(seconds) == text


def test_bytes_are_in_powers_of_ten():
    assert (page.size(5_531_000), page.size(2048)) == ("5.53 MB", "2 kB")


def test_curves_need_two_rounds():
    line = {"round": 1, "loss": {"loss": 1.0}, "val": {"macro_auc": 0.5}}
    assert page.page_of({"rounds_table": [line]}, page.Pictures(), {})["curves"] is None
    both = {"rounds_table": [line, {**line, "round": 2}]}
    assert page.page_of(both, page.Pictures(), {})["curves"].startswith("data:image/png;base64,")


def test_explanations_show_the_class_shift_and_dashes_for_what_nobody_knows():
    none = {"value": None, "low": None, "high": None, "n": 0, "goal": None, "met": None}
    known = {**none, "value": 0.456, "n": 4}
    row = {
        "class": "effusion", "n": 4, "spearman": known, "flip_rate": none,
        "iou": {"class_shift": known, "grad_cam": none}, "pointing": {"class_shift": none},
    }  # fmt: skip
    (shown,) = page.explanation_rows({"explanations": [row]})
    assert shown == ["effusion", "4", "0.46", "–", "–", "–", "–", "–", "0.46", "–"]
