"""Labels are found by hashes; no identifier of the table stays in memory or in a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.label_table import read_labels
from client.pseudonyms import Pseudonyms
from mfm_core.errors import DataError

NAMES = Pseudonyms(b"k" * 32)


def table(path: Path, text: str) -> Path:
    file = path / "labels.csv"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("SOPInstanceUID", "image"),
        ("sop_instance_uid", "image"),
        ("Study Instance UID", "study"),
        ("series_uid", "series"),
        ("Accession_Number", "accession"),
        ("ACCESSION", "accession"),
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_key_column_is_known_by_its_name(
    tmp_path: Path, column: str, kind: str, delimiter: str
) -> None:
    text = f"\ufeff{column}{delimiter}label\n A-1 {delimiter}effusion\n"
    read = read_labels(table(tmp_path, text), NAMES)
    assert (read.kind, dict(read.labels)) == (kind, {NAMES.name(kind, "A-1"): "effusion"})


def test_the_most_exact_key_wins_unless_one_is_named(tmp_path: Path) -> None:
    file = table(tmp_path, "AccessionNumber,SOPInstanceUID,label\nA-1,1.2.3,normal\n")
    assert read_labels(file, NAMES).kind == "image"
    assert read_labels(file, NAMES, key_column="AccessionNumber").kind == "accession"


def test_no_identifier_is_kept(tmp_path: Path) -> None:
    file = table(tmp_path, "StudyInstanceUID,label\n1.2.840.99,normal\n")
    assert "1.2.840.99" not in repr(read_labels(file, NAMES))


def test_two_labels_and_blank_lines_are_seen(tmp_path: Path) -> None:
    text = "accession,label\nA,x\nA,y\nB,z\nB,z\n\n,x\n"
    read = read_labels(table(tmp_path, text), NAMES)
    a, b = NAMES.name("accession", "A"), NAMES.name("accession", "B")
    assert read.labels == {a: None, b: "z"}
    assert read.lines == {a: (2, 3), b: (4, 5)}
    assert read.blank == (7,)


def test_a_third_label_does_not_undo_a_contradiction(tmp_path: Path) -> None:
    read = read_labels(table(tmp_path, "accession,label\nA,x\nA,y\nA,x\n"), NAMES)
    assert list(read.labels.values()) == [None]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("patient,label\n7,x\n", "no column SOPInstanceUID"),
        ("accession,finding\n7,x\n", "one column 'label'"),
        ("accession,label,label\n7,x,y\n", "one column 'label'"),
        ("accession,label\nSECRET-7,x,y\n", "line 2: not as many columns"),
        ('accession,label\n"SECRET-7,x\n', "is not CSV"),
    ],
)
def test_refusals_say_what_and_quote_no_identifier(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError) as refusal:
        read_labels(table(tmp_path, text), NAMES)
    assert words in str(refusal.value)
    assert "SECRET" not in str(refusal.value)


def test_a_named_column_must_be_there_and_say_what_it_holds(tmp_path: Path) -> None:
    file = table(tmp_path, "number,accession,label\n7,A,x\n")
    with pytest.raises(DataError, match="has no column 'nummer'"):
        read_labels(file, NAMES, key_column="nummer")
    with pytest.raises(DataError, match="call it SOPInstanceUID"):
        read_labels(file, NAMES, key_column="number")


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes("accession,label\nA,Erguß\n".encode("latin-1"))
    with pytest.raises(DataError, match="save it as UTF-8"):
        read_labels(file, NAMES)
