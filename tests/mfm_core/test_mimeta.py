from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from mfm_core.errors import DataError
from mfm_core.mimeta import find_mimeta, read_mimeta
from tests.mfm_core.mimeta_world import (
    change_info,
    labels_of,
    read_csv,
    write_csv,
    write_set,
)

SAMPLE = Path(__file__).parents[3] / "shared/data/mimeta_sample"


def problems_of(folder: Path) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        read_mimeta(folder)
    return caught.value.problems


def test_every_table_is_read_by_row(tmp_path: Path) -> None:
    found = read_mimeta(write_set(tmp_path))
    assert len(found) == 24
    for kind, values in found.labels.items():
        np.testing.assert_array_equal(values, labels_of(kind, 24))
    assert np.bincount(found.splits).tolist() == [16, 4, 4]
    np.testing.assert_array_equal(found.splits, found.original_splits)
    assert found.annotations["view"][:3] == ("AP", "PA", "")
    assert found.warnings == ()


def test_the_number_in_the_name_is_the_row_whatever_the_order_of_lines(tmp_path: Path) -> None:
    folder = write_set(tmp_path)
    straight = read_mimeta(folder)
    head, lines = read_csv(folder)
    write_csv(folder, head, lines[::-1])
    split = folder / "splits/train.txt"
    split.write_text("\n".join(reversed(split.read_text().split("\n"))) + "\n\n")
    turned = read_mimeta(folder)
    assert turned.annotations == straight.annotations
    np.testing.assert_array_equal(turned.splits, straight.splits)


@pytest.mark.parametrize("name", ["val", "test"])
def test_an_absent_split_file_is_an_empty_split(tmp_path: Path, name: str) -> None:
    folder = write_set(tmp_path, without_split=name)
    assert not (folder / f"splits/{name}.txt").exists()
    found = read_mimeta(folder)
    assert not (found.splits == ("train", "val", "test").index(name)).any()


def test_original_splits_may_be_absent_and_cover_only_some_rows(tmp_path: Path) -> None:
    folder = write_set(tmp_path)
    head, lines = read_csv(folder)
    column = head.index("original_split")
    for line in lines:
        line[column] = ""
    write_csv(folder, head, lines)
    for path in (folder / "original_splits").iterdir():
        path.unlink()
    (folder / "original_splits").rmdir()
    change_info(folder, original_splits_num_samples=None)
    assert (read_mimeta(folder).original_splits == -1).all()


def test_patients_in_two_splits_and_unused_rows_are_warnings(tmp_path: Path) -> None:
    folder = write_set(tmp_path)
    head, lines = read_csv(folder)
    lines[5][head.index("patient_id")] = "toy-p0"
    lines[23][head.index("split")] = ""
    write_csv(folder, head, lines)
    test = folder / "splits/test.txt"
    test.write_text("\n".join(test.read_text().split("\n")[:-1]))
    change_info(
        folder,
        splits_num_samples={"train": 16, "val": 4, "test": 3},
        subject_overlaps=["zebra"],
    )
    warnings = read_mimeta(folder).warnings
    assert "row 23 stand in no split" in warnings[0]
    assert "1 patients are in more than one split" in warnings[1]
    assert "zebra" in warnings[2]


def test_labels_that_a_table_program_wrote_as_1_0_are_the_same_labels(tmp_path: Path) -> None:
    folder = write_set(tmp_path, kinds=("binary", "ordinal"))
    head, lines = read_csv(folder)
    column = head.index("tasks/ordinal")
    for line in lines:
        line[column] = f"{line[column]}.0"
    write_csv(folder, head, lines)
    assert len(read_mimeta(folder)) == 24


def grades(folder: Path) -> np.ndarray:
    """Give the ordinal task the grades 1, 4, 6 and 8, as published sets of fundus images have."""
    content = yaml.safe_load((folder / "info.yaml").read_text())
    task = next(task for task in content["tasks"] if task["task_name"] == "ordinal")
    task["labels"] = {8: "severe", 1: "none", 4: "mild", 6: "some"}
    change_info(folder, tasks=content["tasks"])
    found = np.array([1, 4, 6, 8])[labels_of("ordinal", 24)]
    np.save(folder / "task_labels/ordinal.npy", found)
    head, lines = read_csv(folder)
    for line, grade in zip(lines, found, strict=True):
        line[head.index("tasks/ordinal")] = str(grade)
    write_csv(folder, head, lines)
    return found


def test_label_numbers_need_not_be_consecutive(tmp_path: Path) -> None:
    folder = write_set(tmp_path)
    found = grades(folder)
    read = read_mimeta(folder)
    assert read.tasks["ordinal"].labels == ("none", "mild", "some", "severe")
    assert np.array([1, 4, 6, 8])[read.labels["ordinal"]].tolist() == found.tolist()
    found[3] = 5
    np.save(folder / "task_labels/ordinal.npy", found)
    assert any("row 3: label 5 is none of 1, 4, 6, 8" in line for line in problems_of(folder))


def test_whole_numbers_in_another_form_are_the_same_labels(tmp_path: Path) -> None:
    folder = write_set(tmp_path)
    expected = read_mimeta(folder)
    for kind in ("binary", "multilabel", "ordinal"):
        np.save(folder / f"task_labels/{kind}.npy", labels_of(kind, 24).astype(np.float32))
    head, lines = read_csv(folder)
    at = head.index("tasks/multilabel")
    for line in lines:  # what newer table programs write
        line[at] = line[at].replace("0", "np.int64(0)").replace("1", "np.int64(1)")
    write_csv(folder, head, lines)
    path = folder / "splits/train.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    read = read_mimeta(folder)
    assert all((read.labels[kind] == expected.labels[kind]).all() for kind in expected.labels)
    assert (read.splits == expected.splits).all()


def save(name: str, values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        np.save(folder / "task_labels" / f"{name}.npy", np.asarray(values))

    return change


def append(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.write(text)

    return change


def cell(row: int, column: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        head, lines = read_csv(folder)
        lines[row][head.index(column)] = text
        write_csv(folder, head, lines)

    return change


def nan_labels() -> np.ndarray:
    values = labels_of("binary", 24).astype(np.float64)
    values[[2, 7]] = np.nan
    return values


def drop_line(folder: Path) -> None:
    head, lines = read_csv(folder)
    write_csv(folder, head, lines[1:])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (save("binary", np.zeros(23, np.int64)), "has shape (23,), expected (24,)"),
        (save("binary", np.zeros((24, 2), np.int64)), "has shape (24, 2), expected (24,)"),
        (save("multilabel", np.zeros(24, np.int64)), "has shape (24,), expected (24, 4)"),
        (save("binary", np.arange(24) % 3), "label 2 is none of 0 to 1"),
        (save("ordinal", np.arange(24) % 4 - 1), "label -1 is none of 0 to 3"),
        (save("multilabel", np.full((24, 4), 2)), "label 2 is none of 0 to 1"),
        (save("binary", np.full(24, 0.5)), "holds float64, expected whole numbers"),
        (save("binary", nan_labels()), "has no number (NaN) in rows 2, 7"),
        (save("binary", np.array(["a"] * 24)), "holds <U1, expected whole numbers"),
        (save("extra", np.zeros(24, np.int64)), "extra.npy: is not named in info.yaml"),
        (lambda f: (f / "task_labels/ordinal.npy").unlink(), "ordinal.npy: is missing"),
        (
            lambda f: (f / "task_labels/ordinal.npy").write_bytes(b"no array"),
            "ordinal.npy: is no array",
        ),
        (append("splits/val.txt", "\nimages/000004.tiff"), "row 4 stand there more than once"),
        (append("splits/val.txt", "\nimages/000000.tiff"), "row 0 stand in train.txt too"),
        (append("splits/val.txt", "\nimages/000099.tiff"), "row 99: info.yaml says there are 24"),
        (append("splits/val.txt", "\nphoto.png"), "line 5: expected names like images/000012"),
        (
            lambda f: (f / "splits/val.txt").rename(f / "splits/valid.txt"),
            "valid.txt: is no split",
        ),
        (lambda f: (f / "splits/val.txt").unlink(), "names 0 images, info.yaml"),
        (lambda f: (f / "splits/val.txt").write_bytes(b"\xff\xfe\x00"), "cannot be read as UTF-8"),
        (lambda f: [p.unlink() for p in (f / "splits").iterdir()], "holds none of train.txt"),
        (lambda f: (f / "annotations.csv").unlink(), "annotations.csv: is missing"),
        (lambda f: (f / "annotations.csv").write_text(""), "(found nothing)"),
        (append("annotations.csv", "images/000000.tiff\n"), "line 26 has not 9 cells"),
        (drop_line, "row 0 are missing"),
        (cell(3, "filepath", "images/000004.tiff"), "row 4 stand there more than once"),
        (cell(3, "filepath", "elsewhere.tiff"), "1 lines name no image"),
        (cell(3, "split", "test"), "split of row 3 is another than splits/*.txt"),
        (
            cell(3, "original_split", "test"),
            "original_split of row 3 is another than original_splits/*",
        ),
        (cell(3, "tasks/ordinal", "0"), "tasks/ordinal of row 3 differs from"),
        (
            lambda f: change_info(f, splits_num_samples={"train": 1, "val": 4, "test": 4}),
            "names 16 images, info.yaml splits_num_samples says 1",
        ),
    ],
)
def test_every_way_a_table_can_be_wrong_is_said(
    tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    folder = write_set(tmp_path)
    change(folder)
    assert any(said in problem for problem in problems_of(folder)), problems_of(folder)


def test_all_problems_of_all_tables_are_said_at_once(tmp_path: Path) -> None:
    folder = write_set(tmp_path)
    save("binary", np.full(24, 7))(folder)
    append("splits/val.txt", "\nimages/000000.tiff")(folder)
    (folder / "annotations.csv").unlink()
    text = "\n".join(problems_of(folder))
    assert "binary.npy" in text and "val.txt" in text and "annotations.csv" in text


def test_an_object_array_is_never_unpickled(tmp_path: Path) -> None:
    folder = write_set(tmp_path)
    np.save(folder / "task_labels/binary.npy", np.array([{}] * 24, dtype=object), allow_pickle=True)
    assert any("no array of plain numbers" in problem for problem in problems_of(folder))


def test_data_sets_are_found_by_name(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_set(tmp_path, name, kinds=("binary",), count=6)
    assert [path.name for path in find_mimeta(tmp_path)] == ["a", "b"]
    assert [path.name for path in find_mimeta(tmp_path, ["b"])] == ["b"]
    assert find_mimeta(tmp_path / "a") == (tmp_path / "a",)
    with pytest.raises(DataError, match=r"no data set c .*; here are: a, b"):
        find_mimeta(tmp_path, ["c"])
    with pytest.raises(DataError, match="no folder here"):
        find_mimeta(tmp_path / "a/images")


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="no shared/data beside the repository")
def test_the_real_sample_is_read_whole() -> None:
    sets = {path.name: read_mimeta(path) for path in find_mimeta(SAMPLE)}
    assert {name: len(found) for name, found in sets.items()} == {"bus": 24, "cxr": 24, "derm": 10}
    assert sets["cxr"].labels["disease labels"].shape == (24, 14)
    assert set(sets["cxr"].annotations["view"]) == {"AP", "PA"}
    assert sets["derm"].info.input_size == (3, 224, 224)
    assert all(found.warnings == () for found in sets.values())
