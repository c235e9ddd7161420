"""Commands: exit codes, plain errors without tracebacks, JSON, and files they write."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.__main__ import call
from simulation.config import load_study
from simulation.hospitals import prepare
from tests.simulation.samples import folder_study, tiny_study, write_images, write_study


def test_check_shows_the_hospitals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check", str(write_study(tmp_path))]) == 0
    text = capsys.readouterr().out
    assert "north" in text and "cardiomegaly" in text and "ready to run" in text


def test_check_as_json_prints_json_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["check", str(write_study(tmp_path)), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [hospital["name"] for hospital in content["hospitals"]] == ["north", "south"]


def test_a_wrong_study_is_refused_with_all_problems_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path, typo=1, min_images=0)
    assert call(["run", str(path), "--out", str(tmp_path / "runs")]) == 1
    error = capsys.readouterr().err
    assert "2 problems" in error and "typo" in error and "min_images" in error
    assert "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_bad_images_are_refused_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_images(tmp_path / "data")
    (data / "p1_0.png").write_bytes(b"")
    path = write_study(tmp_path, **folder_study())
    arguments = ["run", str(path), "--data", str(data), "--out", str(tmp_path / "runs")]
    assert call(arguments) == 1
    error = capsys.readouterr().err
    assert "row 4 (p1_0.png)" in error and "Traceback" not in error


def test_a_data_folder_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path, **folder_study())
    assert call(["check", str(path), "--data", str(tmp_path / "absent")]) == 1
    assert str(tmp_path / "absent") in capsys.readouterr().err


def test_phantoms_in_place_of_the_named_images_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_images(tmp_path / "data")
    study = write_study(tmp_path)
    assert call(["check", str(study), "--data", str(data)]) == 0
    assert f"nothing in {data} is read" in capsys.readouterr().err
    (tmp_path / "b").mkdir()
    for arguments in (
        [str(study)],
        [str(write_study(tmp_path / "b", **folder_study())), "--data", str(data)],
    ):
        assert call(["check", *arguments]) == 0
        assert "is read" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["run"], ["fly"], ["check", "x.yaml", "--no-such"], ["run", "x", "--set", "a"]]
)
def test_wrong_use_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("place", [".", "images", "sites"])
def test_fresh_empties_run_folders_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    precious = tmp_path / "runs" / "tiny" / place / "thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("ten years of work", encoding="utf-8")
    arguments = ["run", str(write_study(tmp_path)), "--out", str(tmp_path / "runs"), "--fresh"]
    assert call(arguments) == 1
    assert precious.read_text(encoding="utf-8") == "ten years of work"
    assert "empties run folders only" in capsys.readouterr().err


def test_new_writes_a_study_that_passes_its_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["new", "my-study", "--folder", str(tmp_path)]) == 0
    assert "put your images below source" in capsys.readouterr().out
    text = (tmp_path / "my-study.yaml").read_text(encoding="utf-8")
    assert "name: my-study" in text and "dirichlet" in text
    assert call(["check", str(tmp_path / "my-study.yaml"), "--json"]) == 0
    assert call(["new", "my-study", "--folder", str(tmp_path)]) == 1
    assert call(["new", "Bad Name", "--folder", str(tmp_path)]) == 1
    assert not (tmp_path / "Bad Name.yaml").exists()
    assert "Traceback" not in capsys.readouterr().err


def test_phantoms_can_be_used_as_a_labelled_folder(tmp_path: Path) -> None:
    out = tmp_path / "films"
    assert call(["phantoms", str(out), "--study", str(write_study(tmp_path)), "--json"]) == 0
    with (out / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["hospital"] for row in rows} == {"north", "south"}
    assert all((out / row["file"]).is_file() for row in rows)
    source = {"kind": "folder", "data": {"root": ".", "manifest": "manifest.csv"}}
    (tmp_path / "b").mkdir()
    path = write_study(tmp_path / "b", **tiny_study(source=source))
    assert call(["check", str(path), "--data", str(out), "--json"]) == 0
    assert call(["phantoms", str(out), "--study", str(write_study(tmp_path))]) == 1


def test_compare_needs_finished_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["compare", str(tmp_path), "--plot", str(tmp_path / "p.png")]) == 1
    assert "run the study first" in capsys.readouterr().err
    assert not (tmp_path / "p.png").exists()


def test_help_of_every_command_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "check", "compare", "bench", "new", "phantoms"):
        assert call([command, "--help"]) == 0
        assert command in capsys.readouterr().out


def test_sigterm_ends_with_code_3_and_plain_words(tmp_path: Path) -> None:
    code = (
        "import sys, time; from simulation import __main__ as m, study; "
        "study.run_study = lambda *_: (print('started', flush=True), time.sleep(60)); "
        "sys.argv = sys.argv[:1] + ['run', sys.argv[1], '--out', sys.argv[2]]; m.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(write_study(tmp_path)), str(tmp_path / "runs")],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "Interrupted" in error and "without --fresh" in error and "Traceback" not in error


def test_a_manifest_that_leaves_nothing_or_one_class_is_told_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_images(tmp_path / "data")
    arguments = ["check", str(write_study(tmp_path, **folder_study())), "--data", str(data)]
    manifest = next(data.glob("*.csv"))
    lines = manifest.read_text(encoding="utf-8").splitlines(keepends=True)
    manifest.write_text(lines[0], encoding="utf-8")
    assert call(arguments) == 1
    assert "no image is left" in capsys.readouterr().err
    manifest.write_text("".join(lines).replace(",ill,", ",healthy,"), encoding="utf-8")
    assert call(arguments) == 1
    assert "only class 'healthy' is present" in capsys.readouterr().err


def test_hospitals_that_cannot_be_formed_do_not_hide_broken_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_images(tmp_path / "data")
    (data / "p1_0.png").write_bytes(b"")
    path = write_study(tmp_path, **folder_study(min_images=1000))
    assert call(["check", str(path), "--data", str(data)]) == 1
    error = capsys.readouterr().err
    assert "needs 1000 train" in error and "row 4 (p1_0.png): is empty" in error


def test_what_the_system_refuses_is_plain_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    study = str(write_study(tmp_path))
    for arguments in (["run", study, "--out"], ["new", "x", "--folder"], ["phantoms"]):
        assert call([*arguments, str(tmp_path / "file")]) == 3
        error = capsys.readouterr().err
        assert str(tmp_path / "file") in error and "Traceback" not in error


def test_damaged_results_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_study(tmp_path)
    study, folder = load_study(path), tmp_path / "runs" / "tiny"
    prepare(study, Path(), folder)
    (folder / "results.json").write_text("{", encoding="utf-8")
    assert call(["run", str(path), "--out", str(tmp_path / "runs")]) == 1
    assert "results.json" in capsys.readouterr().err


@pytest.mark.parametrize("minutes", ["nan", "inf", "-1"])
def test_a_time_that_cannot_be_kept_is_wrong_use(
    minutes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["leaks", "--minutes", minutes]) == 2
    assert "--minutes" in capsys.readouterr().err
