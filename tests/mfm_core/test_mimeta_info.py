from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mfm_core.errors import DataError
from mfm_core.mimeta_info import read_info
from tests.mfm_core.mimeta_world import change_info, write_set


def test_info_says_tasks_size_and_counts(tmp_path: Path) -> None:
    info = read_info(write_set(tmp_path, channels=3))
    assert (info.id, info.input_size, info.total_num_samples) == ("toy", (3, 40, 40), 24)
    assert info.splits_num_samples == {"train": 16, "val": 4, "test": 4}
    assert [task.config.target for task in info.tasks] == [
        "BINARY_CLASSIFICATION",
        "MULTICLASS_CLASSIFICATION",
        "MULTILABEL_CLASSIFICATION",
        "ORDINAL_REGRESSION",
    ]
    assert info.tasks[3].config.labels == ("none", "mild", "some", "severe")


def test_unquoted_yes_and_no_are_label_names(tmp_path: Path) -> None:
    folder = write_set(tmp_path, kinds=("binary",))
    text = (folder / "info.yaml").read_text()
    text = text.replace("0: absent", "0: no").replace("1: present", "1: yes")
    (folder / "info.yaml").write_text(text)
    assert read_info(folder).tasks[0].config.labels == ("no", "yes")


def task(**changes: Any) -> list[dict[str, Any]]:
    target = "BINARY_CLASSIFICATION"
    return [{"task_name": "binary", "task_target": target, "labels": {0: "a", 1: "b"}, **changes}]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": None}, "tasks: is missing; add it"),
        ({"input_size": None}, "input_size: is missing; add it"),
        ({"splits_num_samples": None}, "splits_num_samples: is missing; add it"),
        ({"total_num_samples": 0}, "total_num_samples: must be greater"),
        ({"tasks": []}, "tasks: expected 1 or more entries"),
        ({"tasks": task(task_target="REGRESSION")}, "'ORDINAL_REGRESSION' (found 'REGRESSION')"),
        ({"total_num_samples": 10**12}, "total_num_samples: must be less"),
        (
            {"tasks": task(task_target="MULTILABEL_CLASSIFICATION", labels={0: "a", 2: "b"})},
            "expected the numbers 0 to 1, found [0, 2]",
        ),
        (
            {"tasks": task(labels={0: "a", 1: "b", 2: "c"})},
            "binary: labels: a binary task has two, found 3",
        ),
        ({"tasks": task(labels={0: "a", 1: "a"})}, "a name stands twice"),
        ({"tasks": task() + task()}, "binary stands twice"),
        ({"tasks": task(task_name="a/b")}, "a slash"),
        ({"input_size": [2, 40, 40]}, "input_size.0: must be 1 or 3 (found 2)"),
        ({"input_size": [1, 40]}, "input_size.2: is missing; add it"),
        ({"splits_num_samples": {"training": 3}}, "splits_num_samples.training"),
        ({"id": "other"}, "id is 'other', but its folder is called 'toy'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = write_set(tmp_path, kinds=("binary",))
    change_info(folder, **changes)
    with pytest.raises(DataError) as caught:
        read_info(folder)
    assert said in str(caught.value)
    assert all(problem.startswith("info.yaml: ") for problem in caught.value.problems)


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    folder = write_set(tmp_path)
    change_info(folder, domain=None, name=None, total_num_samples="many")
    with pytest.raises(DataError) as caught:
        read_info(folder)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("text", ["", "- a list", "tasks: [", "\x00", "id: a\nid: b"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    folder = write_set(tmp_path)
    (folder / "info.yaml").write_text(text)
    with pytest.raises(DataError, match=r"info\.yaml: "):
        read_info(folder)
    (folder / "info.yaml").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        read_info(folder)
