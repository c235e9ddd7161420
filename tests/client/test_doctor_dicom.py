from pathlib import Path

import pytest

from client.config import load_site_config
from client.dicom_check import KINDS, check_files
from client.doctor_dicom import check_dicom, judge
from client.folder import Folder
from mfm_core.config import dump_yaml
from tests.client.archive import put, rich
from tests.client.hospital_folder import make_hospital, make_kit, settings
from tests.server.hospitals import RUN


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return make_hospital(tmp_path / "north", make_kit(tmp_path / "kit"), images=4)


def add(folder: Folder, *rows: str) -> None:
    with (folder.root / "images" / "manifest.csv").open("a") as file:
        file.writelines(f"{row}\n" for row in rows)


def test_a_site_without_dicom_is_told_so(folder: Folder) -> None:
    found = check_dicom(load_site_config(folder.site_file), RUN)
    assert [(f.level, f.part) for f in found] == [("ok", "dicom")]
    assert "4 files" in found[0].text


def test_findings_name_the_file_and_count_dicom_files_only(folder: Folder) -> None:
    put(folder.root / "images" / "a.dcm", rich())
    (folder.root / "images" / "b.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"damage")
    add(folder, "a.dcm,left,p90,train,AP", "b.dcm,left,p91,train,AP")
    found = check_dicom(load_site_config(folder.site_file), RUN)
    assert found[0].level == "fail" and "b.dcm" in found[0].details[0]
    named = next(f for f in found if KINDS["identifiers"].words in f.text)
    assert named.text.startswith("1 of 2 DICOM files") and named.level == "ok"
    assert any("a.dcm" in detail and "PatientName" in detail for detail in named.details)
    assert "PID-1" not in str(found)


def test_rows_that_the_run_leaves_out_are_not_looked_at(folder: Folder) -> None:
    (folder.root / "images" / "b.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"damage")
    add(folder, "b.dcm,unclear,p91,train,AP")
    config = settings()
    data = config.data.model_copy(update={"label_mapping": {"unclear": None}})
    dump_yaml(config.model_copy(update={"data": data}), folder.site_file)
    assert len(check_dicom(load_site_config(folder.site_file), RUN)) == 1


def test_an_unreadable_manifest_is_left_to_the_data_part(folder: Folder) -> None:
    (folder.root / "images" / "manifest.csv").unlink()
    found = check_dicom(load_site_config(folder.site_file), RUN)
    assert [f.level for f in found] == ["skip"]


def test_the_worst_kind_comes_first(tmp_path: Path) -> None:
    torn = tmp_path / "b.dcm"
    torn.write_bytes(b"\0" * 128 + b"DICM" + b"damage")
    lines = judge(check_files([put(tmp_path / "a.dcm", rich()), torn]))
    order = [
        list(KINDS).index(kind) for f in lines for kind in KINDS if KINDS[kind].words in f.text
    ]
    assert order == sorted(order) and lines[0].level == "fail"
