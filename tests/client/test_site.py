"""A worker opens a site once, decodes its pixels once, and logs into the site's own file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.site import CACHE, LOG, close_sites, open_site
from mfm_core.checkpoint import flat_weights
from mfm_core.errors import ConfigError
from tests.server.hospitals import lay_out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("sites"))


def test_opened_once_and_model_built_once(folder: Path) -> None:
    path = folder / "sites" / "0.yaml"
    site = open_site(path)
    assert open_site(path) is site
    model = site.model
    weights = flat_weights(model) + np.float32(0.5)
    assert site.load(weights) is model
    assert flat_weights(site.model).tobytes() == weights.tobytes()
    assert open_site(folder / "sites" / "1.yaml") is not site


def test_a_site_that_wants_a_card_trains_on_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    site = open_site(folder / "sites" / "0.yaml")
    other = replace(site, config=site.config.model_copy(update={"device": "cuda"}))
    with pytest.raises(ConfigError, match="sees no card"):
        _ = other.model


def test_a_precision_that_the_device_does_not_have_is_refused(folder: Path) -> None:
    site = open_site(folder / "sites" / "0.yaml")
    other = replace(site, config=site.config.model_copy(update={"precision": "tf32"}))
    with pytest.raises(ConfigError, match="tf32 is for graphics cards"):
        _ = other.model


def test_pixels_are_decoded_once_even_by_another_process(folder: Path) -> None:
    site = open_site(folder / "sites" / "0.yaml")
    images = site.images
    assert site.images is images
    stamps = {path: path.stat().st_mtime_ns for path in files_of(site.config.state_folder / CACHE)}
    assert stamps
    close_sites()
    again = open_site(folder / "sites" / "0.yaml").images
    assert np.array_equal(images.images, again.images)
    cache = site.config.state_folder / CACHE
    assert {path: path.stat().st_mtime_ns for path in files_of(cache)} == stamps


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_each_site_logs_at_home(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index, text in enumerate(("patient one", "patient two")):
        open_site(folder / "sites" / f"{index}.yaml").log.error(text)
    north, south = ((folder / "state" / name / LOG).read_text() for name in ("north", "south"))
    assert "patient one" in north and "patient two" not in north
    assert "patient two" in south and "patient one" not in south
    printed = capsys.readouterr()
    assert "patient" not in printed.out + printed.err
