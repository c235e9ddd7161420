"""The benchmark measures what it says: counts, turns, ratios, and the goals that do not sway."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from mfm_core.autoencoder import build_autoencoder
from mfm_core.config import (
    AugmentationConfig,
    ImageConfig,
    LearningConfig,
    ModelConfig,
    ObjectiveConfig,
)
from mfm_core.dataset import ImageSet
from mfm_core.devices import has_bfloat16
from mfm_core.evaluation import metric_sum, metrics_from
from mfm_core.inference import infer
from mfm_core.patches import patch_moments, start_linear_path
from mfm_core.training import Schedule, train
from simulation.benchmark import (
    bench_bfloat16,
    bench_ssim,
    bench_step,
    describe_machine,
    draw_images,
    make_table,
    run_benchmark,
    to_json,
    torchvision_per_image,
)
from simulation.federation_cost import bench_federation
from simulation.flops import count_flops
from simulation.phantoms import CLASSES, HospitalPhantoms, PhantomConfig, draw_phantoms
from simulation.stopwatch import Goal, Row, interleave, make_row, one_thread
from tests.simulation.samples import TINY_MODEL

SMALL = ModelConfig(**TINY_MODEL)


def total(work: Callable[[], object]) -> int:
    return sum(count_flops(work).values())


def multiplications(images: torch.Tensor, weight: torch.Tensor, **options: int) -> int:
    """Multiply-adds of a convolution, counted by convolving ones: no formula in common."""
    transposed = bool(options.pop("transposed", 0))
    convolve = functional.conv_transpose2d if transposed else functional.conv2d
    return int(convolve(torch.ones_like(images), torch.ones_like(weight), **options).sum())


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (2, 2)])
def test_convolutions_count_by_their_groups(
    groups: int, transposed: int, kernel: int, stride: int
) -> None:
    images = torch.rand(2, 8, 8, 8, requires_grad=True)
    shape = (8, 16 // groups) if transposed else (16, 8 // groups)
    weight = torch.rand(*shape, kernel, kernel, requires_grad=True)
    convolve = functional.conv_transpose2d if transposed else functional.conv2d

    def forward() -> torch.Tensor:
        return convolve(images, weight, stride=stride, groups=groups)

    once = 2 * multiplications(
        images.detach(), weight.detach(), stride=stride, groups=groups, transposed=transposed
    )
    assert total(forward) == once
    assert total(lambda: forward().sum().backward()) == 3 * once
    frozen = weight.detach()

    def only_images() -> None:
        convolve(images, frozen, stride=stride, groups=groups).sum().backward()

    assert total(only_images) == 2 * once


def test_products_count_with_and_without_an_output_given() -> None:
    left, right = torch.rand(3, 4, 5, requires_grad=True), torch.rand(3, 5, 6, requires_grad=True)
    once = 2 * 3 * 4 * 5 * 6
    assert total(lambda: torch.bmm(left, right)) == once
    assert total(lambda: torch.bmm(left, right).sum().backward()) == 3 * once
    place = torch.empty(3, 4, 6)
    assert total(lambda: torch.bmm(left.detach(), right.detach(), out=place)) == once
    assert total(lambda: place.baddbmm_(left.detach(), right.detach())) == once


def test_the_variants_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    times = iter(np.arange(0.0, 100.0))

    def note(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    seconds = interleave({"a": note("a"), "b": note("b")}, 3, clock=lambda: next(times))
    assert order == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert {name: values.shape for name, values in seconds.items()} == {"a": (3,), "b": (3,)}
    assert all((values == 1.0).all() for values in seconds.values())


def test_a_row_is_median_and_quartiles_and_knows_its_goal() -> None:
    row = make_row("speed", np.array([5.0, 1.0, 3.0, 2.0, 4.0]), "x", Goal(3.0, "at least"))
    assert (row.low, row.measured, row.high, row.rounds) == (2.0, 3.0, 4.0, 5)
    assert row.to_dict()["met"] is True
    missed = make_row("share", np.array([4.1]), "%", Goal(4.0, "at most")).to_dict()
    assert missed["met"] is False
    free = make_row("share", np.array([4.1]), "%", None).to_dict()
    assert free["met"] is None and free["goal"] is None


def test_one_thread_gives_the_threads_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), one_thread():
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_the_comparison_from_torchvision_changes_every_image_on_its_own() -> None:
    torch.manual_seed(0)
    images = draw_images(32, 1).expand(6, -1, -1, -1)
    found = torchvision_per_image(AugmentationConfig(), 32)(images)
    assert found.shape == images.shape
    assert torch.pdist(found.flatten(1)).min() > 0.1


def test_ssim_keeps_its_error_goals_and_is_faster() -> None:
    speed, value, gradient = bench_ssim(rounds=3, size=96)
    assert value.goal is not None and value.goal.met_by(value.measured)
    assert gradient.goal is not None and gradient.goal.met_by(gradient.measured)
    assert gradient.measured > 0 and speed.measured > 1.5


def test_the_step_rows_are_finite_and_say_their_parts() -> None:
    rows = bench_step(rounds=2, size=32, model=SMALL)
    assert [row.unit for row in rows] == ["x", "%", "%"]
    assert all(np.isfinite(row.measured) and row.measured > 0 for row in rows)
    assert all(row.low <= row.measured <= row.high and row.rounds == 2 for row in rows)
    assert rows[2].measured < 100 and "GFLOP" in rows[2].note


def test_the_rows_of_a_rounded_step_ask_no_goal() -> None:
    if not has_bfloat16(torch.device("cpu")):
        pytest.skip("this processor has no bfloat16 instructions")
    ratio, *shares = bench_bfloat16(rounds=2, size=32, model=SMALL)
    assert [row.unit for row in shares] == ["%", "%"] and ratio.unit == "x"
    assert all(np.isfinite(row.measured) and row.measured > 0 for row in (ratio, *shares))
    assert all(row.goal is None and "bf16" in row.what for row in (ratio, *shares))
    assert "float32 GEMM" in shares[0].what and "bfloat16 GEMM" in shares[1].what


def test_a_processor_without_bfloat16_has_no_rows_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    assert bench_bfloat16(rounds=1) == []


def test_json_and_table_hold_machine_and_rows() -> None:
    row = Row("speed", 4.0, "x", Goal(5.0, "at least"), 7, 3.5, 4.5, "1 ms against 4 ms")
    content = json.loads(json.dumps(to_json([row])))
    assert content["rows"][0]["quartiles"] == [3.5, 4.5]
    machine = describe_machine()
    assert content["machine"] == machine and machine["torch"] == torch.__version__
    table = make_table([row])
    assert table.row_count == 1 and "MISSED" in str(next(iter(table.columns[3].cells)))
    assert str(machine["processor"]) in str(table.caption)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_phantoms_are_learned_in_bfloat16_as_well_as_in_float32(seed: int) -> None:
    """150 steps of the default model on 300 invented patients; -s shows the figures."""
    if not has_bfloat16(torch.device("cpu")):
        pytest.skip("this processor has no bfloat16 instructions")
    home = HospitalPhantoms(name="north", patients=300)
    drawn = draw_phantoms(PhantomConfig(seed=seed, size_px=64, hospitals=(home,)), home)
    nothing = np.zeros((len(drawn), 0), dtype=np.int64)
    films = ImageSet(drawn.images, drawn.labels, nothing, drawn.patients, drawn.splits)
    rows, held_out = films.select("train"), films.select("test")
    learning = LearningConfig(objective=ObjectiveConfig(class_weight=1.0))
    found = {}
    for precision in ("float32", "bf16"):
        model = build_autoencoder(ModelConfig(), ImageConfig(size_px=64), len(CLASSES), seed)
        start_linear_path(model, patch_moments(films, rows, ModelConfig()))
        plan = {"schedule": Schedule(0, 150), "steps": 150, "seed": seed}
        train(model, films, rows, learning, precision=precision, **plan)  # type: ignore[arg-type]
        seen = infer(model, films, held_out)
        patients = films.patients[held_out]
        total = metric_sum(seen.logits, films.labels[held_out], seen.ssim, patients, 0, 0)
        figures = metrics_from(total, CLASSES)
        found[precision] = (figures.macro_auc.value, figures.ssim.value)
        print(f"{precision}: AUC, SSIM {found[precision]} on {len(held_out)} images")
    assert found["bf16"] == pytest.approx(found["float32"], abs=0.03)
    assert found["float32"][0] > 0.6


@pytest.mark.slow
def test_the_whole_benchmark_writes_its_file(tmp_path: Path) -> None:
    run_benchmark(tmp_path / "bench.json", quick=True)
    content = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    goals = {row["what"]: row["met"] for row in content["rows"]}
    rounded = 3 if has_bfloat16(torch.device("cpu")) else 0
    assert len(goals) == 11 + rounded and not any("Simulated" in what for what in goals)
    relative_to_others = [what for what in goals if "over py" in what or "over torch" in what]
    assert len(relative_to_others) == 2 and all(goals[what] for what in relative_to_others)


@pytest.mark.slow
def test_a_small_federation_is_timed_against_bare_steps() -> None:
    small = {
        "image": {"size_px": 32},
        "model": TINY_MODEL,
        "statistics": {"bootstrap_replicates": 0},
    }
    trained, whole = bench_federation(rounds=2, steps=2, patients=40, run=small)
    assert 0 < trained.measured < whole.measured
    assert "start-up" in whole.note and "2 rounds x 2 steps" in trained.what
