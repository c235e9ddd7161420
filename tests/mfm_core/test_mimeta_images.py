from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mfm_core.config import DataConfig, ImageConfig, OntologyConfig
from mfm_core.dataset import ImageSet, open_images
from mfm_core.errors import DataError
from mfm_core.mimeta_images import read_all, task_names
from mfm_core.tasks import UNKNOWN, encode_labels, slices_of
from tests.mfm_core.mimeta_world import labels_of, write_set

SMALL = ImageConfig(size_px=32)


def ontology_of(root: Path) -> OntologyConfig:
    tasks = {name: task for found in read_all(root) for name, task in task_names(found).items()}
    return OntologyConfig.model_validate({"tasks": tasks})


def opened(root: Path, ontology: OntologyConfig, *names: str) -> ImageSet:
    data = DataConfig(root=root, mimeta=names)
    return open_images(data, ontology, SMALL, root / ".cache")


def test_several_data_sets_become_one_with_the_targets_of_each(tmp_path: Path) -> None:
    write_set(tmp_path, "grey", kinds=("binary", "ordinal"))
    write_set(tmp_path, "rgb", kinds=("multiclass", "multilabel"), channels=3, count=12)
    ontology = ontology_of(tmp_path)
    images = opened(tmp_path, ontology)
    assert images.images.shape == (36, 1, 32, 32) and images.targets is not None
    parts = slices_of(ontology.tasks)
    assert list(parts) == ["grey/binary", "grey/ordinal", "rgb/multiclass", "rgb/multilabel"]
    expected = encode_labels(ontology.tasks["grey/ordinal"], labels_of("ordinal", 24))
    np.testing.assert_array_equal(images.targets[:24, parts["grey/ordinal"]], expected)
    assert (images.targets[24:, parts["grey/ordinal"]] == UNKNOWN).all()
    assert (images.targets[:24, parts["rgb/multilabel"]] == UNKNOWN).all()
    assert len(np.unique(images.patients)) == 36 and (images.labels == -1).all()


def test_a_site_opens_the_data_sets_it_names_and_those_the_run_asks_for(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_set(tmp_path, name, kinds=("binary",), count=6)
    ontology = ontology_of(tmp_path)
    assert len(opened(tmp_path, ontology, "a", "c")) == 12
    tasks = {name: task for name, task in ontology.tasks.items() if name == "b/binary"}
    only = OntologyConfig.model_validate({"tasks": tasks})
    assert len(opened(tmp_path, only)) == 6
    with pytest.raises(DataError, match="no data set has a task of this run: b/binary"):
        opened(tmp_path, only, "a")


def test_a_task_that_asks_for_something_else_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, "a", kinds=("binary",), count=6)
    tasks = {"a/binary": {"target": "BINARY_CLASSIFICATION", "labels": ["present", "absent"]}}
    ontology = OntologyConfig.model_validate({"tasks": tasks})
    with pytest.raises(DataError, match="a/binary: the run asks for BINARY_CLASSIFICATION of pres"):
        opened(tmp_path, ontology)


def test_tasks_and_mimeta_belong_together(tmp_path: Path) -> None:
    write_set(tmp_path, "a", kinds=("binary",), count=6)
    for data, ontology in (
        (DataConfig(root=tmp_path, mimeta=()), OntologyConfig(classes=("a", "b"))),
        (DataConfig(root=tmp_path), ontology_of(tmp_path)),
    ):
        with pytest.raises(DataError, match="belong together"):
            open_images(data, ontology, SMALL, tmp_path / ".cache")


def test_problems_of_all_data_sets_are_said_at_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = write_set(tmp_path, name, kinds=("binary",), count=6)
        (folder / "annotations.csv").unlink()
    with pytest.raises(DataError) as caught:
        read_all(tmp_path)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["a", "b"]


def test_where_a_table_is_wrong_the_pictures_of_all_data_sets_are_looked_at_too(
    tmp_path: Path,
) -> None:
    a, b = (write_set(tmp_path, name, kinds=("binary",), count=6) for name in "ab")
    (a / "annotations.csv").unlink()
    for folder in (a, b):
        (folder / "images/000003.tiff").unlink()
    with pytest.raises(DataError) as caught:
        read_all(tmp_path)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["a", "a", "b"]
    assert "no file for row 3" in caught.value.problems[2]
