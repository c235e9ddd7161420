from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mfm_core.checkpoint import load_model
from mfm_core.errors import CheckpointError, ConfigError
from mfm_core.gallery import Pictures
from server.app import run_federation
from server.report import NO_MODEL, atlas_with_sites, draw_released, read_results, write_page
from tests.server.hospitals import consortium, lay_out, make_grid


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = lay_out(tmp_path_factory.mktemp("reported"))
    run_federation(make_grid(folder), consortium(folder, "out"), resume=False)
    return folder / "out"


def test_the_page_shows_the_figures_of_the_run(run_folder: Path, tmp_path: Path) -> None:
    path = write_page(run_folder, tmp_path / "new" / "page.html")
    text = path.read_text(encoding="utf-8")
    server = json.loads((run_folder / "server.json").read_text(encoding="utf-8"))
    assert f"{server['macro_auc']:.3f}" in text and server["final_hash"] in text
    for name in ("north", "south", "left", "right", "random_alpha"):
        assert name in text
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["page.html"]
    assert not (run_folder / "results.json").exists()


def test_the_page_shows_no_patient(run_folder: Path, tmp_path: Path) -> None:
    pictures = draw_released(run_folder)
    assert not (pictures.reconstructions or pictures.sweeps or pictures.methods)
    assert {axis.attribute for axis in pictures.axes} == {"view", "site"}
    text = write_page(run_folder, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "must not leave the hospital" not in text


def test_results_of_a_simulation_go_before_those_of_the_server(
    run_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "both"
    folder.mkdir()
    shutil.copy(run_folder / "server.json", folder)
    assert "study" not in read_results(folder)
    (folder / "results.json").write_text('{"study": "x"}', encoding="utf-8")
    assert read_results(folder) == {"study": "x"}


def test_without_a_model_there_is_a_page_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text('{"status": "failed"}', encoding="utf-8")
    assert draw_released(tmp_path) == Pictures(missing=NO_MODEL)
    assert "no final.safetensors" in write_page(tmp_path).read_text(encoding="utf-8")


def test_without_the_state_the_site_is_no_axis(run_folder: Path, tmp_path: Path) -> None:
    _, metadata = load_model(run_folder / "final.safetensors")
    encoder = metadata["encoder_hash"]
    assert "site" in atlas_with_sites(run_folder, encoder).ontology.attributes
    shutil.copy(run_folder / "atlas.safetensors", tmp_path)
    assert "site" not in atlas_with_sites(tmp_path, encoder).ontology.attributes
    with pytest.raises(CheckpointError):
        atlas_with_sites(tmp_path, "another")


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_damaged_results_are_refused_with_their_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "server.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"server\.json"):
        read_results(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run folder"):
        write_page(tmp_path)
    assert not list(tmp_path.iterdir())


def test_settings_that_are_no_yaml_are_refused(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text("{}", encoding="utf-8")
    (tmp_path / "run.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(ConfigError, match="not YAML"):
        write_page(tmp_path)
