import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.__main__ import call
from client.explain import Request, explain_image
from mfm_core.atlas import save_atlas
from mfm_core.checkpoint import save_model
from mfm_core.drawing import MAX_BYTES
from mfm_core.errors import CheckpointError, DataError
from tests.mfm_core.blob_world import CLASSES, blob_world

SECRET = "miller-anna-1961"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A hospital's folder: one image with a telling name, the model and the atlas of a run."""
    folder = tmp_path_factory.mktemp("site")
    world = blob_world()
    save_model(folder / "final.safetensors", world.model, "c" * 64, world.ontology)
    save_atlas(folder / "atlas.safetensors", world.atlas)
    Image.fromarray(world.images.images[world.first(0), 0]).save(folder / f"{SECRET}.png")
    return folder


def request_of(site: Path, **changes) -> Request:
    files = {"model": site / "final.safetensors", "atlas": site / "atlas.safetensors"}
    asked = {"image": site / f"{SECRET}.png", "target": "left blob", **files, **changes}
    return Request(**asked)


def arguments(site: Path, out: Path, name: str = "left blob") -> list[str]:
    return [
        "explain", str(site / f"{SECRET}.png"), "--model", str(site / "final.safetensors"),
        "--atlas", str(site / "atlas.safetensors"), "--class", name, "--out", str(out),
    ]  # fmt: skip


def test_a_panel_and_its_numbers_are_written(site, tmp_path):
    done = explain_image(request_of(site), tmp_path / "new" / "folder")
    content = json.loads(done.record.read_text(encoding="utf-8"))
    assert 10_000 < done.panel.stat().st_size <= MAX_BYTES
    assert content == done.content
    assert content["read_as"] == "clear" and content["target"] == "left blob"
    assert content["read_as_reencoded"][-1] == "left blob"
    assert len(content["alphas"]) == len(content["probability_reencoded"]) == 11
    assert sum(content["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert set(content["probabilities"]) == set(CLASSES)
    assert content["scores"]["spearman"] == 1.0
    assert content["difference"]["place"] == "middle left"
    assert "not a medical device" in content["note"]


def test_neither_file_names_the_image(site, tmp_path):
    done = explain_image(request_of(site), tmp_path)
    for path in (done.panel, done.record):
        assert SECRET not in path.name
        assert SECRET.encode() not in path.read_bytes()
    assert str(site).encode() not in done.record.read_bytes()


def test_the_same_image_gives_the_same_files(site, tmp_path):
    first, second = (explain_image(request_of(site), tmp_path / n) for n in ("a", "b"))
    assert first.panel.name == second.panel.name
    assert first.panel.read_bytes() == second.panel.read_bytes()
    assert first.record.read_bytes() == second.record.read_bytes()


def test_versus_and_own_steps(site, tmp_path):
    asked = request_of(site, versus="right blob", alphas=(-1.0, 1.0))
    done = explain_image(asked, tmp_path)
    assert done.content["versus"] == "right blob"
    assert done.content["alphas"] == [-1.0, 0.0, 1.0]
    assert "left-blob-versus-right-blob" in done.panel.name


def test_an_atlas_of_another_run_is_refused(site, tmp_path):
    other = tmp_path / "other.safetensors"
    save_atlas(other, blob_world(empty_class=True).atlas)
    with pytest.raises(CheckpointError):
        explain_image(request_of(site, atlas=other), tmp_path)


def test_a_broken_image_is_refused_by_name(site, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"broken\.png"):
        explain_image(request_of(site, image=broken), tmp_path)


def test_the_command_prints_words_and_files(site, tmp_path, capsys):
    assert call(arguments(site, tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "What the model would have to see to say “left blob”" in printed
    assert "not a medical device" in printed
    assert len(list(tmp_path.glob("*.png"))) == len(list(tmp_path.glob("*.json"))) == 1


def test_the_command_prints_json(site, tmp_path, capsys):
    assert call([*arguments(site, tmp_path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert Path(content["panel"]).is_file() and content["target"] == "left blob"


def test_a_refusal_is_code_1_without_traceback(site, tmp_path, capsys):
    assert call(arguments(site, tmp_path, "tumour")) == 1
    error = capsys.readouterr().err
    assert "'tumour'" in error and "left blob" in error
    assert "Traceback" not in error and not list(tmp_path.iterdir())


def test_a_missing_model_is_code_1(site, tmp_path, capsys):
    asked = arguments(site, tmp_path)
    asked[3] = str(tmp_path / "nowhere.safetensors")
    assert call(asked) == 1
    assert "no such file" in capsys.readouterr().err


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
    ontology = OntologyConfig(classes=("mole", "melanoma"))
    means = np.random.default_rng(0).normal(size=(2, model.latent_size))
    spread = np.eye(model.latent_size)
    atlas = Atlas(ontology, np.array([5.0, 5.0]), means, spread, encoder_hash=encoder_hash(model))
    save_model(tmp_path / "final.safetensors", model, "c" * 64, ontology)
    save_atlas(tmp_path / "atlas.safetensors", atlas)
    grey = np.random.default_rng(1).integers(0, 255, (40, 32), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / f"{SECRET}.png")
    done = explain_image(request_of(tmp_path, target="melanoma"), tmp_path)
    assert done.panel.is_file()
