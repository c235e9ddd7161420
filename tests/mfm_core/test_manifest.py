"""Every problem of a manifest is listed at once, by the line people see."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mfm_core.config import ColumnsConfig, DataConfig, OntologyConfig
from mfm_core.errors import DataError
from mfm_core.manifest import Manifest, read_manifest

ONTOLOGY = OntologyConfig(classes=("healthy", "ill"), attributes={"view": ("AP", "PA")})


def site(tmp_path: Path, text: str, files: str = "a b c d", **settings: Any) -> DataConfig:
    root = tmp_path / "images"
    root.mkdir(exist_ok=True)
    for name in files.split():
        (root / f"{name}.png").write_bytes(b"x")
    manifest = tmp_path / "rows.csv"
    manifest.write_text(text, encoding="utf-8")
    return DataConfig(root=root, manifest=manifest, **settings)


def read(data: DataConfig) -> Manifest:
    return read_manifest(data, ONTOLOGY)


def refusal(data: DataConfig) -> str:
    with pytest.raises(DataError) as caught:
        read(data)
    return "\n".join(caught.value.problems)


HEADER = "file,label,patient_id,view\n"


def test_rows_become_entries(tmp_path: Path) -> None:
    text = HEADER + "a.png,ill,P1,AP\nb.png,,P2,\n\nc.png,healthy,P1,PA\n"
    manifest = read(site(tmp_path, text))
    assert not manifest.findings.lines()
    assert [entry.label for entry in manifest.entries] == [1, -1, 0]
    assert [entry.attributes for entry in manifest.entries] == [(0,), (-1,), (1,)]
    assert [entry.patient for entry in manifest.entries] == ["P1", "P2", "P1"]
    assert [entry.place for entry in manifest.entries][2] == "row 5 (c.png)"
    assert manifest.entries[0].cells["view"] == "AP"


def test_own_columns_mappings_and_filters(tmp_path: Path) -> None:
    text = "Pfad;Befund;Fall;Lage;Haus;Teil\n" + "\n".join(
        [
            "a.png;gesund;1;liegend;X;train",
            "b.png;krank;2;stehend;Y;Valid",
            "c.png;unklar;3;;X;test",
            "d.png;Edema|krank;4;;X;validation",
            "nowhere.png;sonst;5;;Z;test",
        ]
    )
    data = site(
        tmp_path,
        text,
        columns=ColumnsConfig(
            file="Pfad", label="Befund", patient="Fall", split="Teil", attributes={"view": "Lage"}
        ),
        where={"Haus": ("X", "Y")},
        label_mapping={"gesund": "healthy", "krank": "ill", "unklar": None, "Edema": "ill"},
        attribute_mapping={"view": {"liegend": "AP", "stehend": None}},
    )
    manifest = read(data)
    assert not manifest.findings.lines()
    assert [entry.label for entry in manifest.entries] == [0, 1, 1]
    assert [entry.attributes for entry in manifest.entries] == [(0,), (-1,), (-1,)]
    assert [entry.split for entry in manifest.entries] == [0, 1, 1]


def test_all_problems_of_rows_at_once(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    text = HEADER.replace("\n", ",split\n") + "\n".join(
        [
            "a.png,ill,P1,AP,train",
            "b.png,sick,P2,AP,train",
            "nothing.png,ill,P3,AP,train",
            "../secret.png,ill,P4,AP,train",
            "c.png,ill,P1,LL,test",
            "a.png,ill,P6,AP,train",
            "d.png,ill,,AP,later",
            "d.png,ill",
            ",ill,P7,AP,train",
            f"{tmp_path}/secret.png,ill,P8,AP,train",
        ]
    )
    data = site(tmp_path, text, columns=ColumnsConfig(split="split"))
    lines = "\n".join(read(data).findings.lines())
    for expected in (
        "row 3 (b.png): label 'sick' is neither mapped",
        "row 4 (nothing.png): there is no such file",
        "row 5 (../secret.png): lies outside the root",
        "row 6 (c.png): view 'LL' is neither mapped",
        "row 6 (c.png): its patient is in test here and in train at row 2 (a.png)",
        "row 7 (a.png): is the same file as row 2 (a.png)",
        "row 8 (d.png): no patient",
        "row 8 (d.png): split 'later' is not one of train, val, test",
        "row 9: the header has 5 columns",
        "row 10 (): no file name",
        "secret.png): lies outside the root",
    ):
        assert expected in lines, expected
    assert "P1" not in lines


def test_the_same_problem_is_one_line(tmp_path: Path) -> None:
    names = [f"f{index}" for index in range(30)]
    text = HEADER + "\n".join(f"{name}.png,sick,P1,AP" for name in names)
    (line,) = read(site(tmp_path, text, " ".join(names))).findings.lines()
    assert line.startswith("row 2 (f0.png), row 3 (f1.png)")
    assert "and 22 more: label 'sick'" in line


def test_links_that_leave_the_root_are_refused(tmp_path: Path) -> None:
    data = site(tmp_path, HEADER + "link.png,ill,P1,AP\n", "")
    (tmp_path / "outside.png").write_bytes(b"x")
    os.symlink(tmp_path / "outside.png", data.root / "link.png")
    assert "outside the root" in read(data).findings.lines()[0]


def test_a_file_under_two_names_is_found(tmp_path: Path) -> None:
    data = site(tmp_path, HEADER + "a.png,ill,P1,AP\n./x/../a.png,ill,P1,AP\n")
    assert "same file as row 2" in read(data).findings.lines()[0]


def test_unknown_columns_are_all_named(tmp_path: Path) -> None:
    data = site(
        tmp_path,
        "File,label,patient_id\n",
        columns=ColumnsConfig(split="part", attributes={"view": "position"}),
        where={"hospital": ("A",)},
    )
    text = refusal(data)
    for place in ("columns.file", "columns.split", "columns.attributes.view", "where.hospital"):
        assert place in text
    assert "did you mean 'File'" in text


def test_an_attribute_column_that_nobody_named_may_be_absent(tmp_path: Path) -> None:
    manifest = read(site(tmp_path, "file,label,patient_id\na.png,ill,P\n"))
    assert manifest.entries[0].attributes == (-1,)
    assert not manifest.findings.lines()


def test_wrong_mappings_are_all_named(tmp_path: Path) -> None:
    data = DataConfig(
        root=tmp_path / "absent",
        label_mapping={"x": "sick"},
        attribute_mapping={"view": {"y": "lateral"}, "sex": {}},
        where={"a": ("b",)},
    )
    text = refusal(data)
    for part in ("label_mapping.x", "attribute_mapping.view.y", "'sex'", "not a folder", "where"):
        assert part in text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"file,label\nm\xe4dchen.png,ill\n", "not UTF-8"),
        (b'file,label\n"a.png,ill\n', "is not CSV"),
        (b"file,file,label,patient_id\n", "stands twice"),
    ],
)
def test_a_manifest_that_cannot_be_read(tmp_path: Path, content: bytes, expected: str) -> None:
    data = site(tmp_path, "")
    assert data.manifest is not None
    data.manifest.write_bytes(content)
    assert expected in refusal(data)
    data.manifest.unlink()
    assert "cannot be read" in refusal(data)


def test_a_byte_order_mark_quotes_and_lines_in_quotes(tmp_path: Path) -> None:
    text = '\ufefffile,label,patient_id,note\na.png,ill,P1,"two\nlines, one cell"\nb.png,bad,P2,\n'
    manifest = read(site(tmp_path, text))
    assert manifest.entries[0].cells["note"] == "two\nlines, one cell"
    assert manifest.findings.lines()[0].startswith("row 4 (b.png)")


def test_one_folder_per_class(tmp_path: Path) -> None:
    for name in ("healthy/a.png", "sick/P1/b.png", "sick/P1/c.png", ".trash/d.png", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    data = DataConfig(root=tmp_path, label_mapping={"sick": "ill"})
    entries = read(data).entries
    assert [(e.file, e.label, e.patient) for e in entries] == [
        ("healthy/a.png", 0, "a"),
        ("sick/P1/b.png", 1, "P1"),
        ("sick/P1/c.png", 1, "P1"),
    ]
    lines = read(DataConfig(root=tmp_path)).findings.lines()
    assert len(lines) == 1
    assert lines[0].startswith("sick/P1/b.png, sick/P1/c.png: label 'sick'")


def test_a_header_with_a_name_twice_is_refused_wherever_it_stands(tmp_path):
    (tmp_path / "m.csv").write_text("file,label,patient_id,site,site\na.png,a,p,x,y\n")
    data = DataConfig(root=tmp_path, manifest=tmp_path / "m.csv")
    with pytest.raises(DataError, match="'site' stands twice in the header; keep one"):
        read_manifest(data, OntologyConfig(classes=("a", "b")))
