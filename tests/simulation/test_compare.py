"""Comparison of runs: every model of every run is there, with its figures, in table and plot."""

import json
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from mfm_core.errors import ConfigError
from simulation.compare import draw_comparison, lines_of, load_results, make_table


def estimate(value: float | None) -> dict:
    low, high = (None, None) if value is None else (value - 0.05, value + 0.04)
    return {"value": value, "low": low, "high": high, "n": 50}


def figures(auc: float | None, ssim: float | None) -> dict:
    parts = {key: estimate(auc) for key in ("macro_auc", "macro_ap", "macro_f1")}
    return {**parts, "ssim": None if ssim is None else estimate(ssim)}


def write_run(folder: Path, auc: float) -> Path:
    folder.mkdir()
    baselines = [
        {"name": "north alone", "kind": "local", **figures(auc - 0.1, 0.7)},
        {"name": "1-nearest neighbour", "kind": "nearest_neighbour", **figures(None, None)},
    ]
    results = {"study": folder.name, "pooled": figures(auc, 0.8), "baselines": baselines}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def test_lines_hold_every_model_with_its_figures(tmp_path: Path) -> None:
    ((name, results),) = load_results([write_run(tmp_path / "a", 0.9)])
    lines = lines_of(name, results)
    assert [line.kind for line in lines] == ["federated", "local", "nearest_neighbour"]
    assert lines[0].auc == 0.9 and lines[0].ssim == 0.8 and lines[0].n == 50
    assert lines[2].auc is None and lines[2].ssim is None


def test_table_names_the_run_only_when_there_are_several(tmp_path: Path) -> None:
    runs = load_results([write_run(tmp_path / "a", 0.9), write_run(tmp_path / "b", 0.8)])
    lines = [line for name, results in runs for line in lines_of(name, results)]
    console = Console(record=True, width=120, file=(tmp_path / "sink").open("w"))
    console.print(make_table(lines, "t"))
    text = console.export_text()
    console.file.close()
    assert "0.900" in text and "0.850-0.940" in text and "b" in text
    single = make_table(lines[:3], "t")
    assert [column.header for column in single.columns][:2] == ["model", "macro AUC"]


def test_plot_is_a_picture_of_all_models_with_figures(tmp_path: Path) -> None:
    runs = load_results([write_run(tmp_path / "a", 0.9), write_run(tmp_path / "b", 0.8)])
    lines = [line for name, results in runs for line in lines_of(name, results)]
    one = draw_comparison(lines[:3], tmp_path / "plots" / "one.png")
    two = draw_comparison(lines, tmp_path / "plots" / "two.png")
    with Image.open(one) as small, Image.open(two) as large:
        assert large.height > small.height > 100


def test_all_folders_without_results_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "results.json").write_text('{"other": 1}', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_results([tmp_path / "empty", tmp_path / "wrong", tmp_path / "absent"])
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[1]", b'"x"', b"[" * 10_000, b'{"pooled": 3}', b'{"pooled": "x"}']
)
def test_what_is_no_study_is_told_in_plain_words(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"is not the results\.json of a study"):
        load_results([tmp_path])
