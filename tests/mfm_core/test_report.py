import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import mfm_core
from mfm_core.evaluation import metric_sum, metrics_from
from mfm_core.explanation_sums import explanation_figures, explanation_sum
from mfm_core.gallery import Pictures, take_pictures
from mfm_core.inference import infer
from mfm_core.report import finite, write_report, write_results
from mfm_core.report_rounds import missing_lines
from mfm_core.report_words import span
from tests.federation.browser import BROWSER, browse, complaints
from tests.mfm_core.blob_world import CLASSES, blob_world

SITES = ("north", "harbour")


def metrics_of(sites: int) -> list[dict]:
    """Real figures of the blob world, pooled and per site, of `sites` parts of the test split."""
    world = blob_world()
    rows = world.images.select("test")
    found = infer(world.model, world.images, rows)
    sums = []
    for site in range(sites):
        part = np.arange(len(rows)) % sites == site
        labels, patients = world.images.labels[rows][part], world.images.patients[rows][part]
        sums.append(
            metric_sum(found.logits[part], labels, found.ssim[part], patients, 20, seed=site)
        )
    total = sums[0]
    for other in sums[1:]:
        total = total.merge(other)
    return [metrics_from(each, CLASSES).to_dict() for each in (total, *sums)]


@pytest.fixture(scope="module")
def results() -> dict:
    world = blob_world()
    pooled, *own = metrics_of(len(SITES))
    rows = world.images.select("test")
    line = {"phase": "train", "seconds": 1.5, "images": 60, "loss": {"loss": 0.7}}
    line |= {"val": {"macro_auc": 0.8, "accuracy": 0.7, "ssim": 0.75}}
    sent = dict.fromkeys(SITES, 4_700_000)
    everyone = dict.fromkeys(SITES, "ok")
    rounds = [{**line, "round": n, "sites": everyone, "bytes": sent} for n in (1, 2, 3)]
    rounds[1] = {**rounds[1], "sites": {"north": "ok", "harbour": "rejected:nan"}}
    return {
        "study": "blobs",
        "status": "degraded",
        "parameters": 123_456,
        "macro_auc": pooled["macro_auc"]["value"],
        "macro_auc_interval": [pooled["macro_auc"]["low"], pooled["macro_auc"]["high"]],
        "reconstruction_ssim": pooled["ssim"]["value"],
        "reconstruction_ssim_interval": [pooled["ssim"]["low"], pooled["ssim"]["high"]],
        "n_test": len(rows),
        "rounds": 3,
        "sites": 2,
        "site_names": list(SITES),
        "seconds": 12.3,
        "bytes_per_site_and_round": 4_700_000,
        "final_hash": "ab" * 32,
        "config_hash": "cd" * 32,
        "code_hash": "ef" * 32,
        "study_hash": "01" * 32,
        "settings": {"name": "blobs", "model": {"widths": [32, 64], "linear_path": True}},
        "pooled": pooled,
        "per_site": dict(zip(SITES, own, strict=True)),
        "heads": {"chosen_head": 1, "val_accuracy": [0.7, 0.8]},
        "latent_sums": {"patients_per_class": dict.fromkeys(CLASSES, 36)},
        "hospitals": [
            {
                "name": name,
                "patients": 90,
                "train": 54,
                "val": 0,
                "test": 36,
                "classes": dict.fromkeys(CLASSES, 30),
                "attributes": {"view": {"AP": 40, "PA": 50}},
            }
            for name in SITES
        ],
        "baselines": [
            {
                "name": "north alone",
                "kind": "local",
                **own[0],
                "own": own[0],
                "by_site": {},
            },
            {"name": "all images together", "kind": "pooled", **pooled},
            {"name": "nearest neighbour", "kind": "nearest_neighbour", **own[1], "ssim": None},
        ],
        "explanations": explanation_figures(
            explanation_sum(world.model, world.atlas, world.images, rows, world.masks, per_class=1),
            world.ontology,
        ),
        "mitigation": None,
        "audit": None,
        "rounds_table": rounds,
        "timing": {"train": 4.5, "evaluate": 0.5},
    }


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    world = blob_world()
    return take_pictures(world.model, world.atlas, world.images, world.images.select("test"))


@pytest.fixture(scope="module")
def page(results, pictures, tmp_path_factory) -> Path:
    return write_report(tmp_path_factory.mktemp("run"), results, pictures)


class Reader(HTMLParser):
    """Collects visible text, pictures and outside references; refuses tags that do not close."""

    VOID = frozenset({"meta", "link", "img", "br", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.images: list[dict] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "img":
            self.images.append(found)
        self.links += [value for key, value in attrs if key in ("src", "href")]
        self.anchors |= {found["id"]} if "id" in found else set()
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(word for word in self.words if word)


def test_the_page_holds_every_part(page, results, pictures):
    reader = Reader(page.read_text(encoding="utf-8"))
    text = reader.text
    assert text.count("Left out") == 5, text
    assert "without an audit" in text and "without heads that leave an attribute out" not in text
    assert "2 hospitals trained one model together in 3 rounds" in text
    assert "not a medical device" in text
    for word in (*CLASSES, *SITES, "north alone", "4.70 MB", "cd" * 32, "ab" * 32, "model. widths"):
        assert word in text, word
    value = results["pooled"]["macro_ap"]["value"]
    assert f"{value:.3f}" in text
    assert len(reader.images) == 4 + len(CLASSES) * 2 + len(pictures.axes)
    assert all(image["alt"] for image in reader.images)


def test_the_page_needs_nothing_else(page):
    text = page.read_text(encoding="utf-8")
    reader = Reader(text)
    assert "<script" not in text and "@import" not in text and "url(" not in text
    for link in reader.links:
        assert link.startswith(("data:", "#")), link[:60]
    inside = {link[1:] for link in reader.links if link.startswith("#")}
    assert inside <= reader.anchors


def test_the_missing_site_is_named_with_a_reason(page, results):
    lines = missing_lines(results)
    assert lines == [
        "Round 2: harbour is missing (rejected:nan): "
        "the answer failed the coordinator's checks and was not used."
    ]
    assert lines[0] in Reader(page.read_text(encoding="utf-8")).text.replace("&#39;", "'")


def test_a_coordinator_without_images_gets_the_same_page_without_pictures(results, tmp_path):
    known = {
        k: v for k, v in results.items() if k not in ("baselines", "explanations", "hospitals")
    }
    reader = Reader(write_report(tmp_path, known, Pictures()).read_text(encoding="utf-8"))
    assert reader.text.count("Left out: This report was made where there are no images") == 3
    assert "no comparison was computed" in reader.text
    assert "explanations were not scored" in reader.text
    assert "2 hospitals trained" in reader.text and len(reader.images) == 2


def test_a_run_that_failed_still_has_a_page(tmp_path):
    path = write_report(tmp_path, {"study": "x", "status": "failed"}, Pictures())
    text = Reader(path.read_text(encoding="utf-8")).text
    assert "There is no final figure" in text and "no test figures" in text


def test_figures_that_are_not_defined_are_dashes_and_null(results, tmp_path):
    undefined = {"value": float("nan"), "low": None, "high": None, "n": 0}
    pooled = {**results["pooled"], "macro_f1": undefined}
    write_report(tmp_path, {**results, "pooled": pooled}, Pictures())
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert content["pooled"]["macro_f1"]["value"] is None
    assert str(span(content["pooled"]["macro_f1"])) == "–"


def test_names_from_a_configuration_cannot_become_markup(results, tmp_path):
    evil = '<img src=x onerror="alert(1)">'
    pooled = json.loads(json.dumps(results["pooled"]))
    pooled["per_class"][0]["class"] = evil
    rounds = [{**row, "sites": {evil: "<i>"}} for row in results["rounds_table"]]
    changed = {**results, "study": evil, "pooled": pooled, "site_names": [evil]}
    changed |= {"rounds_table": rounds, "settings": {evil: evil}, "per_site": {evil: pooled}}
    text = write_report(tmp_path, changed, Pictures()).read_text(encoding="utf-8")
    assert evil not in text and "<i>" not in text
    assert "&lt;img src=x" in text
    Reader(text)


def test_settings_come_from_the_run_folder_when_results_have_none(results, tmp_path):
    (tmp_path / "run.yaml").write_text("name: from-file\nmodel: {stem: 8}\n", encoding="utf-8")
    known = {key: value for key, value in results.items() if key != "settings"}
    text = Reader(write_report(tmp_path, known, Pictures()).read_text(encoding="utf-8")).text
    assert "from-file" in text and "model. stem" in text


def test_results_are_sorted_rounded_and_repeatable(results, tmp_path):
    path = write_results(tmp_path, {"b": 1 / 3, "a": np.float32(0.5), "c": [np.nan, (1, 2)]})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"a": 0.5, "b": 0.333333, "c": [None, [1, 2]]}
    assert text.index('"a"') < text.index('"b"') < text.index('"c"')
    first = write_results(tmp_path, results).read_bytes()
    assert write_results(tmp_path, json.loads(first)).read_bytes() == first
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_finite_keeps_what_json_knows():
    assert finite({"x": np.int64(3), "y": True, "z": None, 1: "text"}) == {
        "x": 3, "y": True, "z": None, "1": "text"
    }  # fmt: skip


def documented(heading: str) -> set[str]:
    text = (Path(mfm_core.__file__).parent / "RESULTS.md").read_text(encoding="utf-8")
    part = re.split(r"^#+ ", text, flags=re.M)
    table = next(section for section in part if section.startswith(heading))
    cells = re.findall(r"^\| (`[^|]*) \|", table, flags=re.M)
    return {key for cell in cells for key in re.findall(r"`([a-z_0-9]+)`", cell)}


def test_every_key_of_results_is_documented(results):
    assert set(results) == documented("results.json")
    assert set(results["pooled"]) == documented("metrics")
    assert set(results["explanations"][0]) == documented("explanations")
    assert set(results["explanations"][0]["spearman"]) == documented("figure")
    assert documented("baselines") <= set(results["baselines"][0])


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the PATH")
def test_a_browser_shows_the_page_without_errors(page, tmp_path):
    shot = tmp_path / "page.png"
    shown, log = browse(page, "--dump-dom", "--virtual-time-budget=5000", size=(1200, 900))
    assert complaints(log) == []
    assert "2 hospitals trained one model together" in Reader(shown).text
    browse(page, f"--screenshot={shot}", "--virtual-time-budget=5000", size=(1200, 900))
    from PIL import Image

    pixels = np.asarray(Image.open(shot).convert("L"))
    assert pixels.shape == (900, 1200)
    assert 0.01 < (pixels < 128).mean() < 0.5
