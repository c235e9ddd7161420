"""Tables and picture of few labels, from results with known answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from simulation.few_labels import Result
from simulation.few_labels_table import _panel, draw_curve, figure_of, gains, kept, make_tables


def result(method: str, share: float, seed: int, auc: float, there: float = 0.5) -> Result:
    return Result(
        "films",
        seed,
        method,
        share,
        10,
        auc,
        there,
        numbers=100,
        patients=round(200 * share),
        tested=1234,
        hospital_tested=77,
    )


RESULTS = [
    *(result("lora", 0.1, seed, 0.76 + 0.01 * seed) for seed in range(3)),
    *(result("lora", 1.0, seed, 0.80) for seed in range(3)),
    *(result("head", 0.1, seed, 0.60) for seed in range(3)),
    *(result("federated", 0.1, seed, 0.7, 0.60 + 0.1 * seed) for seed in range(3)),
    *(result("federated_semi", 0.1, seed, 0.7, 0.63 + 0.1 * seed) for seed in range(3)),
    *(result("local", 0.1, seed, float("nan"), 0.61 + 0.1 * seed) for seed in range(3)),
]


def test_the_interval_is_students_over_seeds() -> None:
    figure = figure_of([0.76, 0.77, 0.78])
    assert figure is not None and figure.half == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)
    one = figure_of([0.5])
    assert one is not None and one.half is None and str(one) == "0.500"
    assert figure_of([]) is None
    assert figure_of([float("nan"), 0.5]) == one  # a hospital nobody can test
    assert figure_of([float("nan")]) is None


def test_parts_and_gains_are_taken_seed_by_seed() -> None:
    part = kept(RESULTS, "films", "lora", 0.1)
    assert part is not None and part.value == pytest.approx(0.77 / 0.80)
    gain = gains(RESULTS, "films", "federated_semi", 0.1)
    assert gain is not None and gain.value == pytest.approx(0.03)
    assert gain.half == pytest.approx(0.0, abs=1e-12)  # the seeds differ, the gain does not
    assert kept(RESULTS, "films", "head", 0.1) is None  # nothing at 100 %


def test_the_tables_say_met_and_missed() -> None:
    text = make_tables(RESULTS)
    lora = next(line for line in text.splitlines() if line.startswith("| LoRA |"))
    assert "(met)" in lora and "0.800 ± 0.000" in lora
    federated = next(line for line in text.splitlines() if "semi-supervised, federated |" in line)
    local = next(line for line in text.splitlines() if "own head |" in line)
    assert "(met)" in federated and "(missed)" in local
    assert (
        "untouched global head" in text
        and "1,234 test images | 10%, 20 labelled | 100%, 200 labelled |" in text
    )
    assert "77 test images" in text
    assert "all weights" not in text  # nothing of it was measured
    assert "+0.030 ± 0.000 (met)" in text and "up to 3 draws of labels" in text
    assert "so no interval" in make_tables([r for r in RESULTS if r.seed == 0])


def test_the_picture_has_its_own_shares_on_the_axis_and_stays_within_0_and_1() -> None:
    axes = Figure().subplots()
    _panel(axes, [result("all", 0.3, seed, 0.1 + 0.8 * seed) for seed in range(2)], "films")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["30 %"]
    assert axes.get_ylim() == (0.0, 1.005) and "1,234 test images" in axes.get_title()
    assert axes.get_legend_handles_labels()[1] == ["all weights"]  # of the others there is nothing


def test_the_picture_is_written(tmp_path: Path) -> None:
    path = draw_curve(RESULTS, tmp_path / "pictures" / "curve.png")
    assert path.read_bytes().startswith(b"\x89PNG")
