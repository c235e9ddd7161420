"""The world of a cell: labels are hidden as promised, the model that saw none is kept."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mfm_core.checkpoint import flat_weights
from mfm_core.dataset import ImageSet
from mfm_core.errors import ConfigError, DataError
from simulation import few_labels_world
from simulation.few_labels_config import FewLabelsConfig
from simulation.few_labels_world import World, check_worlds, open_world, pretrain, shown_labels
from simulation.progress import choose_display
from tests.simulation.samples import tiny_study, write_images
from tests.simulation.test_few_labels_config import few_labels_content

CONFIG = FewLabelsConfig.model_validate(few_labels_content()["few_labels"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="module")
def world(folder: Path) -> World:
    return open_world(CONFIG, "films", Path("."), folder)


def test_only_a_share_of_patients_shows_labels_and_one_hospital_none(world: World) -> None:
    images = world.everything
    few, many = shown_labels(world, 0.2, 0), shown_labels(world, 1.0, 0)
    assert not (few[world.hospital == world.unlabelled] >= 0).any()
    assert (few[images.select("test")] == -1).all()
    train = images.select("train")
    known = train[few[train] >= 0]
    assert (few[known] == images.labels[known]).all()
    assert set(np.flatnonzero(few >= 0)) <= set(np.flatnonzero(many >= 0))
    labelled = train[world.hospital[train] != world.unlabelled]
    assert (many[labelled] == images.labels[labelled]).all()
    assert set(few[known]) == set(images.labels[labelled])  # each class at least once
    share = len(np.unique(images.patients[known])) / len(np.unique(images.patients[labelled]))
    assert 0.15 < share < 0.4
    for patient in np.unique(images.patients[known]):
        mine = labelled[images.patients[labelled] == patient]
        same = mine[np.isin(images.labels[mine], few[known[images.patients[known] == patient]])]
        assert (few[same] >= 0).all()  # a patient shows all labels of a class, or none


def test_the_pretrained_model_is_kept_and_no_label_is_read(folder: Path, world: World) -> None:
    assert (folder / f"pretrained{CONFIG.pretrain_steps}.safetensors").is_file()
    again = open_world(CONFIG, "films", Path("."), folder)
    assert (flat_weights(again.model) == flat_weights(world.model)).all()
    images = world.everything
    bare = images.labels[::-1].copy()
    other = pretrain(world.run, type(images)(**{**vars(images), "labels": bare}), 2)
    assert (flat_weights(other) == flat_weights(world.model)).all()


def films(folder: str, **more: Any) -> dict[str, Any]:
    """Return a cell of PNGs in a folder below `--data`, half of the patients at each scanner."""
    study = tiny_study()
    del study["run"]["name"]
    study["run"]["ontology"] = {"classes": ["healthy", "ill"]}
    columns = {"label": "label", "patient": "patient_id"}
    data = {"root": folder, "manifest": f"{folder}/labels.csv", "columns": columns}
    study |= {"source": {"kind": "folder", "data": data}, "split": {"kind": "fractions"}}
    study["hospitals"] = {"kind": "column", "column": "scanner"}
    return {"unlabelled": "a", "study": study, **more}


def check(cells: dict[str, Any], data: Path) -> None:
    config = FewLabelsConfig.model_validate(few_labels_content(cells=cells)["few_labels"])
    with choose_display(quiet=True) as display:
        check_worlds(config, tuple(cells), data, data / "out", display)


def test_what_is_wrong_with_every_data_set_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(few_labels_world, "pretrain", None)
    for number, name in enumerate(("whole", "broken", "other")):
        write_images(tmp_path / name, seed=number)
    for number in range(60):  # more than an error shows
        (tmp_path / "broken" / f"p{number % 40}_{number // 40}.png").write_bytes(b"no picture")
    cells = {
        "first": films("broken"),
        "second": films("whole"),
        "third": films("missing"),
        "fourth": films("other", unlabelled="west"),
    }
    with pytest.raises(DataError) as caught:
        check(cells, tmp_path)
    shown = str(caught.value)
    assert "first: " in shown and "third: " in shown and "second: " not in shown
    assert "fourth: unlabelled: 'west' is none of a, b" in shown
    assert sum(line.startswith("first: ") for line in caught.value.problems) == 60
    check({"second": cells["second"]}, tmp_path)
    with pytest.raises(ConfigError, match="fourth"):
        check({"fourth": cells["fourth"]}, tmp_path)


def test_a_damaged_model_is_told_and_one_data_set_is_held_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[ImageSet]] = []
    real = few_labels_world.open_hospitals

    def opens(*given: Any) -> Any:
        assert not [one for one in held if one() is not None]
        names, sets = real(*given)
        held.extend(weakref.ref(images) for images in sets)
        return names, sets

    monkeypatch.setattr(few_labels_world, "open_hospitals", opens)
    write_images(tmp_path / "films")
    cells = {name: films("films") for name in ("one", "two", "three")}
    check(cells, tmp_path)
    assert len(held) == 6
    kept = tmp_path / "out" / "two" / f"pretrained{CONFIG.pretrain_steps}.safetensors"
    kept.write_bytes(b"half a file")
    with pytest.raises(ConfigError, match=r"two: .*trained anew"):
        check(cells, tmp_path)
