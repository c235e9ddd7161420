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
    assert rows == [("a.b", "1, 2"), ("a.c", "none"), ("d", "not set")]


def test_baselines_start_with_the_run_itself():
    results = {"pooled": {"macro_auc": AUC}, "baselines": [{"name": "n", "kind": "pooled"}]}
    rows = page.baseline_table(results).rows
    assert [row[0].value for row in rows] == ["This run", "n"]
    assert rows[0][2].value == "0.951" and rows[1][1].value == "all images in one place"
    assert page.baseline_table({"pooled": {"macro_auc": AUC}}) is None


def test_a_hospital_reads_its_own_figure_first():
    metrics = {"macro_auc": AUC, "ssim": {"n": 16}, "per_class": [{}, {}]}
    local = page.Local("north", metrics, {})
    text = page.own_headline(local, {"macro_auc": 0.9, "macro_auc_interval": [0.8, 0.95]})
    assert text.startswith("On 16 test images of north the model tells the 2 classes apart")
    assert text.index("0.951") < text.index("0.900 (0.800–0.950)")
    undefined = page.Local("north", {**metrics, "macro_auc": {"value": None}}, {})
    assert "no defined macro AUC" in page.own_headline(undefined, {})


def test_a_hospital_finds_itself_in_the_tables_of_all():
    results = {"per_site": {"a": {"macro_auc": AUC}, "b": {"macro_auc": AUC}}, "site_names": ["a"]}
    shown = page.with_own_name({**results, "audit": {"per_site": {"a": {}}}}, "a")
    assert list(shown["per_site"]) == ["a (this hospital)", "b"]
    assert list(shown["audit"]["per_site"]) == ["a (this hospital)"]
    assert page.hospital_table(shown).rows[0][0].value == "a (this hospital)"
    assert list(results["per_site"]) == ["a", "b"]


def test_only_a_hospitals_page_has_the_words_that_it_must_stay():
    local = page.Local("north", {}, {})
    assert page.page_of({}, page.Pictures(), {}, local)["stays"] == page.STAYS
    assert page.page_of({"study": "x"}, page.Pictures(), {})["stays"] == ""


def test_the_glance_names_the_weakest_class_and_the_ends():
    weak, strong = {**AUC, "value": 0.7}, AUC
    per_class = [{"class": "good", "auc": strong}, {"class": "poor", "auc": weak}]
    sites = {"a": {"macro_auc": weak}, "b": {"macro_auc": strong}}
    results = {"pooled": {"per_class": per_class}, "per_site": sites, "rounds_table": [{}]}
    lines = page.glance(results, None, None)
    assert lines[0][:2] == ("performance", "Performance")
    assert "Weakest class: poor" in lines[0][2] and "0.700 (a) to 0.951 (b)" in lines[0][2]
    assert lines[1] == ("hospitals", "Hospitals", "All answered every round.")
