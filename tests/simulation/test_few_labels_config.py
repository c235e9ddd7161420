"""The file of a study of few labels: read whole, refused with every problem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mfm_core.errors import ConfigError
from simulation.__main__ import STUDIES
from simulation.few_labels_config import CURVE, FewLabelsConfig, load_few_labels, study_of
from tests.simulation.samples import tiny_study


def few_labels_content(**more: Any) -> dict[str, Any]:
    """Two phantom hospitals, of which south shows no label; a few steps of everything."""
    study = tiny_study()
    del study["run"]["name"]
    content = {
        "name": "few",
        "seeds": [0],
        "shares": [0.2, 1.0],
        "hospital_shares": [1.0],
        "pretrain_steps": 2,
        "rounds": 2,
        "steps_per_round": 1,
        "head_steps": 4,
        "batch_size": 8,
        "cells": {"films": {"unlabelled": "south", "study": study}},
    }
    return {"few_labels": {**content, **more}}


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "few.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_the_study_that_ships_is_read_and_asks_what_it_should() -> None:
    config = load_few_labels(STUDIES / "few_labels.yaml")
    assert set(config.shares) == {0.01, 0.05, 0.1, 1.0} and len(config.seeds) >= 3
    assert set(config.cells) == {"phantoms", "brain44"}
    brain, problems = study_of(config.cells["brain44"], "brain44")
    assert brain is not None and not problems and brain.run.image.size_px == 64
    assert brain.source.kind == "folder" and brain.source.data.columns.patient == "group_id"
    assert len(CURVE) == 4


def test_settings_change_a_key(tmp_path: Path) -> None:
    path = write(tmp_path, few_labels_content())
    config = load_few_labels(path, {"few_labels.seeds": "[3, 4]"})
    assert isinstance(config, FewLabelsConfig) and config.seeds == (3, 4)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"shares": [0.0]}, "few_labels.shares"),
        ({"colour": 1}, "few_labels.colour"),
        ({"cells": {"a": {"unlabelled": "south", "study": {"run": {}}}}}, "run.ontology"),
    ],
)
def test_wrong_files_are_refused_by_dotted_path(
    tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_few_labels(write(tmp_path, few_labels_content(**change)))


def test_what_stands_beside_and_what_the_study_sets_itself_is_refused(tmp_path: Path) -> None:
    content = few_labels_content()
    content["few_labels"]["cells"]["films"]["study"]["run"]["learning"]["trainable"] = "head"
    with pytest.raises(ConfigError, match="stands beside few_labels"):
        load_few_labels(write(tmp_path, {**content, "run": {}}))
    with pytest.raises(ConfigError, match="trainable: leave it out"):
        load_few_labels(write(tmp_path, content))
