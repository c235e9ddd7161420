import io
import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from PIL import Image

import client.explain
from client.__main__ import EXPLAIN_METHODS, call
from client.explain import Request, explain_images
from client.explain_record import NAMES
from mfm_core.atlas import save_atlas
from mfm_core.checkpoint import save_model
from mfm_core.drawing import MAX_BYTES
from mfm_core.errors import CheckpointError, DataError
from mfm_core.explanation import METHODS
from mfm_core.question import Question
from tests.client.films import PATIENT, PATIENT_ID, blob_film, film, save
from tests.mfm_core.blob_world import CLASSES, blob_world
from tests.mfm_core.view_world import view_world

SECRET = "miller-anna-1961"
BLOB = Question("left blob")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A hospital's folder: an image with a telling name, the model and the atlas of a run."""
    folder = tmp_path_factory.mktemp("site")
    world = view_world()
    save_model(folder / "final.safetensors", world.model, "c" * 64, world.ontology)
    save_atlas(folder / "atlas.safetensors", world.atlas)
    picture_of(folder / f"{SECRET}.png", 0)
    return folder


def picture_of(path: Path, label: int, turn: int = 0) -> Path:
    world = view_world()
    index = np.flatnonzero(world.images.labels == label)[turn]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(world.images.images[index, 0]).save(path)
    return path


def request_of(site: Path, **changes) -> Request:
    files = {"model": site / "final.safetensors", "atlas": site / "atlas.safetensors"}
    asked = {"image": site / f"{SECRET}.png", "question": BLOB, **files, **changes}
    return Request(**asked)


def arguments(site: Path, out: Path, *more: str, image: Path | None = None) -> list[str]:
    asked = more if "--attribute" in more or "--class" in more else ("--class", "left blob", *more)
    return [
        "explain", str(image or site / f"{SECRET}.png"), "--out", str(out), *asked,
        "--model", str(site / "final.safetensors"), "--atlas", str(site / "atlas.safetensors"),
    ]  # fmt: skip


def test_panel_sweep_numbers_page_and_index_are_written(site, tmp_path):
    out = tmp_path / "new" / "folder"
    run = explain_images(request_of(site), out)
    (done,) = run.explained
    content = json.loads(done.files["record"].read_text(encoding="utf-8"))
    assert content == done.content and set(done.files) == {"panel", "sweep", "record"}
    assert 10_000 < done.files["panel"].stat().st_size <= MAX_BYTES
    moving = Image.open(done.files["sweep"])
    assert moving.format == "GIF" and moving.n_frames >= 11
    assert content["read_as"] == "clear" and content["target"] == "left blob"
    assert content["read_as_reencoded"][-1] == "left blob"
    assert len(content["alphas"]) == len(content["probability_reencoded"]) == 11
    assert sum(content["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert set(content["probabilities"]) == set(CLASSES)
    assert content["scores"]["spearman"] == 1.0
    assert content["difference"]["place"] == "middle left"
    assert content["model_hash"] != content["encoder_hash"]
    assert "not a medical device" in content["note"]
    page = run.pages[0].read_text(encoding="utf-8")
    assert page.count("<img") == 2 and "must not leave the hospital" in page
    assert json.loads(run.index.read_text())["explained"][0]["source"] == f"{SECRET}.png"


def test_only_the_index_names_the_image(site, tmp_path):
    explain_images(request_of(site), tmp_path)
    for path in tmp_path.iterdir():
        assert SECRET not in path.name
        leads_back = path.name.startswith("explanations-index")
        assert (SECRET.encode() in path.read_bytes()) == leads_back
        assert leads_back or str(site).encode() not in path.read_bytes()


def test_the_same_image_gives_the_same_files(site, tmp_path):
    first, second = (explain_images(request_of(site), tmp_path / name) for name in ("a", "b"))
    for kind, path in first.explained[0].files.items():
        again = second.explained[0].files[kind]
        assert path.name == again.name and path.read_bytes() == again.read_bytes()


def test_versus_and_own_steps(site, tmp_path):
    asked = request_of(site, question=Question("left blob", "right blob", (-1.0, 1.0)))
    (done,) = explain_images(asked, tmp_path).explained
    assert done.content["versus"] == "right blob"
    assert done.content["alphas"] == [-1.0, 0.0, 1.0]
    assert "left-blob-versus-right-blob" in done.name


def test_a_folder_is_done_and_what_cannot_be_read_is_listed(site, tmp_path, capsys):
    wards, out = tmp_path / "wards", tmp_path / "out"
    first = picture_of(wards / "a" / "anna.png", 0)
    picture_of(wards / "b.png", 1)
    (wards / "copy.png").write_bytes(first.read_bytes())
    (wards / "torn.png").write_bytes(first.read_bytes()[:200])
    (wards / "a" / "list.csv").write_text("anna;1961")
    assert call(arguments(site, out, image=wards)) == 1
    printed = capsys.readouterr()
    assert len(list(out.glob("explanation-*.png"))) == 2, "anna.png and its copy are one picture"
    assert "torn.png is" in printed.err and "a/list.csv is not a PNG" in printed.err
    assert "Not explained: 2 files" in printed.err and "explained: 5 of 5" in printed.err
    index = json.loads((out / "explanations-index.json").read_text())
    assert [row["source"] for row in index["not_explained"]] == ["a/list.csv", "torn.png"]
    sources = {row["source"]: row["name"] for row in index["explained"]}
    assert sources["a/anna.png"] == sources["copy.png"] != sources["b.png"]
    page = (out / "explanations-left-blob.html").read_text(encoding="utf-8")
    assert page.count("<section id=") == 3 and "anna" not in page


def test_a_second_call_into_the_folder_itself_leaves_its_own_files_out(site, tmp_path, capsys):
    picture_of(tmp_path / "b.png", 1)
    for word in ("left blob", "right blob"):
        assert call(arguments(site, tmp_path, "--class", word, image=tmp_path)) == 0
    assert "Left out: 6 files" in capsys.readouterr().out
    index = json.loads((tmp_path / "explanations-index.json").read_text())
    assert [row["source"] for row in index["explained"]] == ["b.png", "b.png"]


def test_many_images_make_several_pages(site, tmp_path, monkeypatch):
    for turn in range(3):
        picture_of(tmp_path / "in" / f"{turn}.png", 0, turn)
    monkeypatch.setattr(client.explain, "PAGE_IMAGES", 1)
    asked = request_of(site, image=tmp_path / "in", method="grad_cam")
    run = explain_images(asked, tmp_path / "out")
    names = [page.name for page in run.pages]
    start = "explanations-left-blob-grad_cam"
    assert names == [f"{start}.html", f"{start}.part2.html", f"{start}.part3.html"]
    assert "Part 3 of 3" in run.pages[2].read_text(encoding="utf-8")
    monkeypatch.setattr(client.explain, "PAGE_IMAGES", 20)
    run = explain_images(asked, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("explanations-left*")} == {names[0]}


def test_what_was_done_is_listed_when_the_work_is_interrupted(site, tmp_path):
    for turn in range(3):
        picture_of(tmp_path / "in" / f"{turn}.png", 0, turn)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explain_images(
            request_of(site, image=tmp_path / "in", method="grad_cam"), tmp_path / "out", stop
        )
    index = json.loads((tmp_path / "out" / "explanations-index.json").read_text())
    assert [row["source"] for row in index["explained"]] == ["0.png", "1.png"]
    page = (tmp_path / "out" / "explanations-left-blob-grad_cam.html").read_text("utf-8")
    assert page.count("<img") == 2


def test_a_full_disk_leaves_no_half_file(site, tmp_path):
    """The limit lets the numbers pass and stops the panel, as a full disk would."""
    done = subprocess.run(
        [sys.executable, "-m", "client", *arguments(site, tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and ".png" in done.stderr
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"explanations-index.json", "explanations-index.html"}
    json.loads((tmp_path / "explanations-index.json").read_text())


def test_the_choices_of_the_command_are_the_methods():
    assert set(EXPLAIN_METHODS) == {*METHODS, "all"} == set(NAMES)


@pytest.mark.parametrize("method", ["counterfactual", "grad_cam"])
def test_one_other_method(method, site, tmp_path):
    (done,) = explain_images(request_of(site, method=method), tmp_path).explained
    assert method in done.name and list(done.content["methods"]) == [method]
    assert ("sweep" in done.files) == (method == "counterfactual")
    assert done.content["read_as"] == "clear"
    if method == "counterfactual":
        turned = done.content["probability_direct"][-1]
        assert turned == pytest.approx(0.9, abs=1e-3), "the wanted probability is reached"


def test_all_methods_side_by_side(site, tmp_path):
    run = explain_images(request_of(site, method="all"), tmp_path)
    (done,) = run.explained
    assert list(done.content["methods"]) == list(METHODS)
    assert set(done.files) == {"panel", "sweep", "methods", "record"}
    assert run.pages[0].read_text(encoding="utf-8").count("<img") == 3


def test_an_attribute_is_asked_about(site, tmp_path, capsys):
    asked = arguments(site, tmp_path, "--attribute", "view", "--value", "PA", "--json")
    assert call(asked) == 0
    (content,) = json.loads(capsys.readouterr().out)["explained"]
    assert content["attribute"] == "view" and set(content["probabilities"]) == {"AP", "PA"}
    assert content["name"].startswith("explanation-view-pa-")
    assert len(content["findings_reencoded"]) == 11
    assert all(Path(path).is_file() for path in content["files"].values())


def test_dicom_objects_are_written_for_a_dicom_image(site, tmp_path, capsys):
    header = film(blob_film(90, 140, (45, 35), 13))
    path = save(tmp_path / f"{SECRET}.dcm", header)
    assert call(arguments(site, tmp_path / "out", "--dicom-out", image=path)) == 0
    assert "DICOM report" in capsys.readouterr().out
    found = sorted((tmp_path / "out" / "dicom").iterdir())
    assert [each.stem.rpartition("-")[2] for each in found] == ["map", "panel", "report"]
    for each in found:
        read = pydicom.dcmread(each, force=False)
        assert read.StudyInstanceUID == header.StudyInstanceUID
        assert SECRET not in each.name and PATIENT_ID not in each.name
    segmentation = highdicom.seg.segread(found[0])
    assert (segmentation.Rows, segmentation.Columns) == (90, 140)
    pages = [each for each in (tmp_path / "out").iterdir() if each.is_file()]
    for each in pages:
        content = each.read_bytes()
        assert PATIENT.encode() not in content and PATIENT_ID.encode() not in content
        assert str(header.SOPInstanceUID).encode() not in content


def test_dicom_out_is_refused_for_another_format_and_the_rest_is_done(site, tmp_path, capsys):
    picture_of(tmp_path / "in" / "a.png", 0)
    save(tmp_path / "in" / "b.dcm", film(blob_film(64, 64, (32, 16), 6)))
    assert call(arguments(site, tmp_path / "out", "--dicom-out", image=tmp_path / "in")) == 1
    printed = capsys.readouterr()
    assert "a.png is no DICOM" in printed.err and "leave --dicom-out away" in printed.err
    assert len(list((tmp_path / "out").glob("explanation-*.json"))) == 1
    assert len(list((tmp_path / "out" / "dicom").iterdir())) == 3


BAD = {
    "unknown class": (["--class", "tumour"], "'tumour'"),
    "unknown versus": (["--class", "clear", "--versus", "tumour"], "'tumour'"),
    "the same twice": (["--class", "clear", "--versus", "clear"], "two different classes"),
    "unknown attribute": (["--attribute", "sex", "--value", "F"], "'sex'"),
    "unknown value": (["--attribute", "view", "--value", "LL"], "'LL'"),
    "alpha too large": (["--alpha", "9", "--alpha=-5"], "alpha 9, -5 is outside [-4, 4]"),
    "alpha not a number": (["--alpha", "nan"], "alpha nan is outside"),
    "probability": (["--probability", "1.5"], "probability 1.5 is outside"),
    "no counterfactual": (["--method", "grad_cam", "--dicom-out"], "draws no counterfactual"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_question_is_refused_before_anything_is_written(name, site, tmp_path, capsys):
    more, words = BAD[name]
    assert call(arguments(site, tmp_path / "out", *more)) == 1
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_all_problems_of_a_question_are_named_at_once(site, tmp_path, capsys):
    more = ["--class", "tumour", "--alpha", "7", "--probability", "0.1", "--method", "grad_cam"]
    assert call(arguments(site, tmp_path / "out", *more, "--dicom-out")) == 1
    assert "4 problems" in capsys.readouterr().err


@pytest.mark.parametrize(
    "asked",
    [
        ["--class", "clear", "--attribute", "view", "--value", "PA"],
        ["--attribute", "view"],
        ["--class", "clear", "--value", "PA"],
        ["--class", "clear", "--method", "magic"],
    ],
)
def test_wrong_use_is_code_2(asked, site, tmp_path, capsys):
    assert call(arguments(site, tmp_path / "out", *asked)) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_one_sided_attribute_is_refused(site, tmp_path, capsys):
    atlas = view_world().atlas
    counts = {**atlas.attribute_counts, "view": np.array([[9.0, 0], [9, 0], [9, 0]])}
    save_atlas(tmp_path / "atlas.safetensors", replace(atlas, attribute_counts=counts))
    asked = arguments(site, tmp_path / "out", "--attribute", "view", "--value", "PA")
    asked[-1] = str(tmp_path / "atlas.safetensors")
    assert call(asked) == 1
    assert "no patient of the atlas has view 'PA'" in capsys.readouterr().err


def test_a_class_without_patients_is_refused(tmp_path, capsys):
    world = blob_world(empty_class=True)
    save_model(tmp_path / "final.safetensors", world.model, "c" * 64, world.ontology)
    save_atlas(tmp_path / "atlas.safetensors", world.atlas)
    picture_of(tmp_path / f"{SECRET}.png", 0)
    assert call(arguments(tmp_path, tmp_path / "out", "--class", "never seen")) == 1
    assert "had no images" in capsys.readouterr().err


def test_an_atlas_of_another_run_is_refused(site, tmp_path):
    other = tmp_path / "other.safetensors"
    save_atlas(other, blob_world().atlas)
    with pytest.raises(CheckpointError, match="same run"):
        explain_images(request_of(site, atlas=other), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_atlas_that_names_the_classes_in_another_order_is_refused(site, tmp_path):
    atlas, other = view_world().atlas, tmp_path / "other.safetensors"
    turned = atlas.ontology.model_copy(update={"classes": atlas.ontology.classes[::-1]})
    save_atlas(other, replace(atlas, ontology=turned))
    with pytest.raises(CheckpointError, match=r"not those of .*; use model and atlas of the same"):
        explain_images(request_of(site, atlas=other), tmp_path / "out")


def test_a_page_that_cannot_be_written_leaves_the_index_of_what_is_done(site, tmp_path):
    (tmp_path / "explanations-left-blob.html").mkdir()
    with pytest.raises(IsADirectoryError):
        explain_images(request_of(site), tmp_path)
    index = json.loads((tmp_path / "explanations-index.json").read_text(encoding="utf-8"))
    assert [row["source"] for row in index["explained"]] == [f"{SECRET}.png"]


def test_a_picture_that_is_not_finite_is_refused_by_name(site, tmp_path, capsys):
    pixels = np.full((32, 32), np.nan, dtype=np.float32)
    Image.fromarray(pixels).save(tmp_path / "nan.tif")
    assert call(arguments(site, tmp_path / "out", image=tmp_path / "nan.tif")) == 1
    assert "nan.tif holds no finite pixel value" in capsys.readouterr().err


def test_a_model_with_latents_that_are_not_finite_is_refused(site, tmp_path, monkeypatch):
    import torch

    model = view_world().model
    real = type(model).encode

    def broken(self, pixels):
        mu, logvar = real(self, pixels)
        return mu * torch.nan, logvar

    monkeypatch.setattr(type(model), "encode", broken)
    with pytest.raises(DataError, match="not finite"):
        explain_images(request_of(site), tmp_path / "out")


def test_a_missing_model_is_code_1(site, tmp_path, capsys):
    asked = arguments(site, tmp_path)
    asked[asked.index("--model") + 1] = str(tmp_path / "nowhere.safetensors")
    assert call(asked) == 1
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nowhere.png", "empty"])
def test_no_image_at_all_is_code_1(name, site, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert call(arguments(site, tmp_path / "out", image=tmp_path / name)) == 1
    assert name in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_made_is_code_3(site, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert call(arguments(site, tmp_path / "file" / "out")) == 3
    assert "check the path" in capsys.readouterr().err


def test_a_colour_model_explains_a_grey_image(tmp_path):
    from mfm_core.atlas import Atlas
    from mfm_core.autoencoder import build_autoencoder
    from mfm_core.checkpoint import encoder_hash
    from mfm_core.config import ImageConfig, ModelConfig, OntologyConfig

    shape = ModelConfig(widths=(32, 64), depths=(1, 1), latent_channels=16)
    model = build_autoencoder(shape, ImageConfig(size_px=32, channels=3), 2, seed=0)
    ontology, spread = OntologyConfig(classes=("mole", "melanoma")), np.eye(model.latent_size)
    means = np.random.default_rng(0).normal(size=(2, model.latent_size))
    atlas = Atlas(ontology, np.array([5.0, 5.0]), means, spread, encoder_hash=encoder_hash(model))
    save_model(tmp_path / "final.safetensors", model, "c" * 64, ontology)
    save_atlas(tmp_path / "atlas.safetensors", atlas)
    grey = np.random.default_rng(1).integers(0, 255, (40, 32), dtype=np.uint8)
    path = tmp_path / f"{SECRET}.dcm"
    save(path, film(grey.astype(np.uint16) * 16))
    asked = request_of(tmp_path, image=path, question=Question("melanoma"), dicom_out=True)
    (done,) = explain_images(asked, tmp_path / "out").explained
    map_ = highdicom.seg.segread(io.BytesIO(done.files["dicom_map"].read_bytes()))
    assert (map_.Rows, map_.Columns) == (40, 32)
