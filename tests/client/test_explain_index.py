import json

import pytest

from client.explain_index import INDEX, Entry, Refused, open_index
from mfm_core.errors import DataError

ANNA = Entry("explanation-x-0123456789", "anna.dcm", "/ward", ("explanation-x-0123456789.png",))
BERT = Entry("explanation-x-abcdef0123", "b/bert.dcm", "/ward", ())


def test_a_later_run_adds_to_the_list(tmp_path):
    first = open_index(tmp_path)
    first.add(ANNA)
    first.refuse(Refused("b/bert.dcm", "/ward", "is cut off"))
    first.write()
    second = open_index(tmp_path)
    assert list(second.entries.values()) == [ANNA]
    second.add(BERT)
    content = json.loads(second.write().read_text(encoding="utf-8"))
    assert [row["source"] for row in content["explained"]] == ["anna.dcm", "b/bert.dcm"]
    assert content["not_explained"] == [], "what was explained later is refused no longer"
    assert "must not leave the hospital" in content["note"]


def test_the_same_name_from_two_files_keeps_both(tmp_path):
    index = open_index(tmp_path)
    index.add(ANNA)
    index.add(Entry(ANNA.name, "copy.dcm", "/ward", ANNA.files))
    index.write()
    assert {entry.source for entry in open_index(tmp_path).entries.values()} == {
        "anna.dcm",
        "copy.dcm",
    }


def test_the_page_lists_both_sides_and_escapes(tmp_path):
    index = open_index(tmp_path)
    index.add(Entry("explanation-x-0123456789", "<b>.dcm", "/ward", ()))
    index.refuse(Refused("torn.dcm", "/ward", "is cut off"))
    page = index.write_page().read_text(encoding="utf-8")
    assert "&lt;b&gt;.dcm" in page and "<b>.dcm" not in page
    assert "torn.dcm" in page and "is cut off" in page and "must not leave" in page


def test_a_file_name_that_is_no_text_is_still_listed(tmp_path):
    index = open_index(tmp_path)
    index.add(
        Entry("explanation-x-0123456789", b"\xff.png".decode("utf-8", "surrogateescape"), "/", ())
    )
    assert "udcff.png" in index.write().read_text(encoding="utf-8")
    index.write_page()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[" * 100_000,
        "[]",
        '{"kind": "else"}',
        '{"kind": "mfm-explanations-index"}',
        '{"kind": "mfm-explanations-index", "not_explained": [], "explained": '
        '[{"name": "n", "source": 2, "folder": {}, "files": []}]}',
    ],
)
def test_another_file_of_that_name_is_not_overwritten(text, tmp_path):
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(DataError, match="choose another --out"):
        open_index(tmp_path)
    assert (tmp_path / INDEX).read_text() == text
