"""How fast the hot paths are on this machine: every figure a ratio, measured side by side.

SSIM against pytorch-msssim, augmentation against torchvision image by image, the training step
against the core's own matrix product rate, the same step with bfloat16 products where the
processor has them, a private step against a plain one (`simulation.private_cost`), a step on a
graphics card where there is one (`simulation.card_speed`), and a simulated run against its bare
training steps (`simulation.federation_cost`). What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from mfm_core.augmentation import augment
from mfm_core.autoencoder import build_autoencoder
from mfm_core.config import AugmentationConfig, ImageConfig, LearningConfig, ModelConfig
from mfm_core.dataset import ImageSet
from mfm_core.devices import Precision, has_bfloat16
from mfm_core.errors import ConfigError
from mfm_core.ssim import ssim
from mfm_core.training import Schedule, train
from simulation.card_speed import bench_card, name_card
from simulation.flops import count_flops
from simulation.private_cost import bench_private_step
from simulation.stopwatch import Goal, Row, in_ms, interleave, make_row, one_thread

BATCH = 32
GEMM_SIDE = 1024
GEMM_REPEATS = 8
STEPS = 4
"""Training steps of one round of the step's measurement."""

SSIM_SPEED = Goal(3.0, "at least")
SSIM_VALUE_ERROR = Goal(1e-6, "at most")
SSIM_GRADIENT_ERROR = Goal(1e-5, "at most")
AUGMENTATION_SPEED = Goal(6.0, "at least")
AUGMENTATION_SHARE = Goal(4.0, "at most")
STEP_EFFICIENCY = Goal(45.0, "at least")

CARD_ROWS = {True: " (its rows are wall time).", False: ", so its rows are left out."}

Augment = Callable[[torch.Tensor], torch.Tensor]


def describe_machine() -> dict[str, str | int]:
    """Return the machine's own words: processor, cores, threads, library versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": model,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": cores or 1,
        "threads": 1,
        "card": name_card(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
    }


def draw_images(size: int, count: int = BATCH) -> torch.Tensor:
    """Return the same smooth random images each time, `[count, 1, size, size]` in [0, 1]."""
    raw = torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(0))
    smooth = functional.avg_pool2d(raw, 5, 1, 2)
    return ((smooth - 0.3) / 0.4).clamp(0.0, 1.0)


def _load_reference() -> Callable[..., torch.Tensor]:
    try:
        from pytorch_msssim import ssim as reference
    except ImportError:
        reason = "pytorch-msssim is not installed; the comparison needs it: pip install .[dev]"
        raise ConfigError("bench", [reason]) from None
    return lambda x, y: reference(x, y, data_range=1.0, size_average=False)


def bench_ssim(rounds: int, size: int = 128) -> list[Row]:
    """Return speed, value error and gradient error of SSIM, forward and backward.

    Raises:
        ConfigError: pytorch-msssim is not installed.
    """
    reference = _load_reference()
    target = draw_images(size)
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(1))
    moving = (target + 0.05 * noise).clamp(0.0, 1.0).requires_grad_()

    def learn(measure: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        moving.grad = None
        values = measure(moving, target)
        values.sum().backward()  # type: ignore[no-untyped-call]
        assert moving.grad is not None
        return values.detach(), moving.grad

    variants = {"ours": lambda: learn(ssim), "reference": lambda: learn(reference)}
    seconds = interleave(variants, rounds)
    (value, slope), (expected, steep) = learn(ssim), learn(reference)
    value_error = float((value - expected).abs().max())
    slope_error = float((slope - steep).norm() / steep.norm())
    where = f"SSIM forward + backward, {size} px, batch {BATCH}"
    note = f"{in_ms(seconds['ours'])} against {in_ms(seconds['reference'])}"
    once = np.ones(1)
    return [
        make_row(
            f"{where}: speed over pytorch-msssim",
            seconds["reference"] / seconds["ours"],
            "x",
            SSIM_SPEED,
            note,
        ),
        make_row("SSIM: largest difference in value", once * value_error, "", SSIM_VALUE_ERROR),
        make_row(
            "SSIM: relative difference of the gradient",
            once * slope_error,
            "",
            SSIM_GRADIENT_ERROR,
        ),
    ]


def torchvision_per_image(config: AugmentationConfig, size: int) -> Augment:
    """Return the same kinds of changes from torchvision v2, drawn and done image by image."""
    from torchvision.transforms import v2

    shared = v2.Compose(
        [
            v2.RandomHorizontalFlip(config.flip_probability),
            v2.RandomAffine(
                config.rotation_deg,
                translate=(config.shift, config.shift),
                scale=(1 / (1 + config.scale), 1 + config.scale),
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            v2.RandomPerspective(config.perspective, p=1.0),
            v2.ColorJitter(brightness=config.brightness),
        ]
    )
    window = 2 * int(np.ceil(3 * config.blur_sigma_px)) + 1
    area = (config.erase_fraction / 2) ** 2
    erasing = [v2.RandomErasing(p=1.0, scale=(area / 4, area)) for _ in range(config.erase_boxes)]
    damage = v2.Compose(
        [
            v2.GaussianBlur(window, (0.05, config.blur_sigma_px)),
            v2.GaussianNoise(sigma=config.noise_std),
            *erasing,
        ]
    )
    return lambda images: torch.stack([damage(shared(image)) for image in images])


def draw_image_set(size: int, count: int = 2 * BATCH) -> ImageSet:
    """Return an ImageSet of random images of five classes, all in train."""
    pixels = draw_images(size, count).mul(255).to(torch.uint8).numpy()
    index = np.arange(count, dtype=np.int64)
    nothing = np.zeros((count, 0), dtype=np.int64)
    return ImageSet(pixels, index % 5, nothing, index, np.zeros_like(index))


def bench_step(rounds: int, size: int = 64, model: ModelConfig | None = None) -> list[Row]:
    """Return the rows of augmentation and of the training step, interleaved with a GEMM."""
    learning, images = LearningConfig(), draw_image_set(size)
    shape = ImageConfig(size_px=size)
    autoencoder = build_autoencoder(model or ModelConfig(), shape, 5, 0)
    rows = images.select("train")
    batch = images.batch(rows[:BATCH])
    generator = torch.Generator().manual_seed(0)
    square = torch.rand(GEMM_SIDE, GEMM_SIDE, generator=generator)
    other = torchvision_per_image(learning.augmentation, size)

    def step(count: int) -> None:
        plan = Schedule(0, 1000)
        train(autoencoder, images, rows, learning, schedule=plan, steps=count, seed=0)

    seconds = interleave(
        {
            "step": lambda: step(STEPS),
            "gemm": lambda: [square @ square for _ in range(GEMM_REPEATS)],
            "ours": lambda: augment(batch, learning.augmentation, generator),
            "torchvision": lambda: other(batch),
        },
        rounds,
    )
    flops = sum(count_flops(lambda: step(1)).values())
    one_step = seconds["step"] / STEPS
    gemm_rate = 2 * GEMM_SIDE**3 * GEMM_REPEATS / seconds["gemm"]
    ours, theirs = seconds["ours"], seconds["torchvision"]
    return [
        make_row(
            f"Augmentation, {size} px, batch {BATCH}: speed over torchvision v2 per image",
            theirs / ours,
            "x",
            AUGMENTATION_SPEED,
            f"{in_ms(ours)} against {in_ms(theirs)}",
        ),
        make_row(
            f"Augmentation: share of a training step at {size} px",
            100 * ours / one_step,
            "%",
            AUGMENTATION_SHARE,
            f"{in_ms(ours)} of {in_ms(one_step)}",
        ),
        make_row(
            f"Training step, {size} px, batch {BATCH}: achieved over the core's GEMM rate",
            100 * flops / one_step / gemm_rate,
            "%",
            STEP_EFFICIENCY,
            f"{flops / 1e9:.2f} GFLOP in {in_ms(one_step)}; {GEMM_SIDE}^2 sgemm "
            f"{np.median(gemm_rate) / 1e9:.0f} GFLOP/s",
        ),
    ]


def bench_bfloat16(rounds: int, size: int = 64, model: ModelConfig | None = None) -> list[Row]:
    """Return the rows of the step with bfloat16 products; none where the processor lacks them.

    The goal of `bench_step` is one for float32 and is not asked here.
    """
    if not has_bfloat16(torch.device("cpu")):
        return []
    learning, images = LearningConfig(), draw_image_set(size)
    autoencoder = build_autoencoder(model or ModelConfig(), ImageConfig(size_px=size), 5, 0)
    rows = images.select("train")
    square = torch.rand(GEMM_SIDE, GEMM_SIDE, generator=torch.Generator().manual_seed(0))
    rounded = square.bfloat16()

    def step(count: int, precision: Precision) -> None:
        plan: dict[str, Any] = {"schedule": Schedule(0, 1000), "steps": count, "seed": 0}
        train(autoencoder, images, rows, learning, precision=precision, **plan)

    seconds = interleave(
        {
            "float32": lambda: step(STEPS, "float32"),
            "bf16": lambda: step(STEPS, "bf16"),
            "float32 GEMM": lambda: [square @ square for _ in range(GEMM_REPEATS)],
            "bfloat16 GEMM": lambda: [rounded @ rounded for _ in range(GEMM_REPEATS)],
        },
        rounds,
    )
    flops = sum(count_flops(lambda: step(1, "float32")).values())
    plain, ours = seconds["float32"] / STEPS, seconds["bf16"] / STEPS
    where, note = f"Training step, bf16, {size} px, batch {BATCH}", f"{in_ms(ours)} against"
    found = [
        make_row(f"{where}: time over float32", ours / plain, "x", None, f"{note} {in_ms(plain)}")
    ]
    for kind in ("float32 GEMM", "bfloat16 GEMM"):
        rate = 2 * GEMM_SIDE**3 * GEMM_REPEATS / seconds[kind]
        words = f"{flops / 1e9:.2f} GFLOP; {GEMM_SIDE}^2 {np.median(rate) / 1e9:.0f} GFLOP/s"
        what = f"{where}: achieved over the core's {kind} rate"
        found.append(make_row(what, 100 * flops / ours / rate, "%", None, words))
    return found


def bench(quick: bool = False) -> list[Row]:
    """Measure everything; `quick` takes fewer rounds and leaves the simulated run out.

    Raises:
        ConfigError: pytorch-msssim is not installed.
        RunFailed: the simulated run ended without a model.
    """
    from simulation.federation_cost import bench_federation
    from simulation.secure_cost import bench_secure_sum

    rounds = 3 if quick else 9
    with one_thread():
        rows = [*bench_ssim(rounds), *bench_step(rounds), *bench_bfloat16(rounds)]
        rows += bench_private_step(rounds, draw_image_set(64), BATCH)
        rows += bench_card(rounds, draw_image_set(64), BATCH)
    return rows if quick else [*rows, *bench_federation(), *bench_secure_sum()]


def to_json(rows: list[Row]) -> dict[str, Any]:
    """Return machine and rows, JSON ready."""
    return {"machine": describe_machine(), "rows": [row.to_dict() for row in rows]}


def make_table(rows: list[Row]) -> Table:
    """Return the rows as a table, the machine's words below it."""
    machine = describe_machine()
    words = (
        f"{machine['processor']} ({machine['instructions']}), {machine['cores']} cores, "
        f"{machine['threads']} thread a process, torch {machine['torch']}. CPU time, variants "
        "interleaved; median and quartiles over the rounds. "
        f"Graphics card: {machine['card']}{CARD_ROWS[bool(torch.cuda.is_available())]}"
    )
    table = Table(title="Hot paths", title_justify="left", caption=words, caption_justify="left")
    for heading in ("what", "measured", "quartiles", "goal", "rounds", "absolute"):
        table.add_column(heading, justify="left" if heading in ("what", "absolute") else "right")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    def text(value: float) -> str:
        if row.unit == "":
            return f"{value:.1e}"
        return f"{value:.2f} {row.unit}" if value < 10 else f"{value:.1f} {row.unit}"

    goal = "-"
    if row.goal is not None:
        sign = ">=" if row.goal.direction == "at least" else "<="
        verdict = "" if row.goal.met_by(row.measured) else " MISSED"
        goal = f"{sign} {row.goal.value:g} {row.unit}".rstrip() + verdict
    spread = f"{text(row.low)} - {text(row.high)}" if row.rounds > 1 else "-"
    return (row.what, text(row.measured), spread, goal, str(row.rounds), row.note)


def run_benchmark(
    json_path: Path | None = None,
    *,
    as_json: bool = False,
    quick: bool = False,
    masked: str | None = None,
) -> None:
    """Measure, then print a table (or JSON, nothing else) and write `json_path` if given.

    Args:
        json_path: where to write it too.
        as_json: print JSON.
        quick: fewer rounds, no runs.
        masked: measure only what a secure sum costs; a key of `secure_cost.PLACES`.

    Raises:
        ConfigError: pytorch-msssim is not installed.
        RunFailed: a run ended without a model.
    """
    if masked is None:
        rows = bench(quick)
    else:
        from simulation.secure_cost import bench_secure_sum

        rows = bench_secure_sum(place=masked)
    content = json.dumps(to_json(rows), indent=1)
    if json_path is not None:
        json_path.write_text(content + "\n", encoding="utf-8")
    if as_json:
        print(content)
        return
    console = Console()
    (console if console.is_terminal else Console(width=150)).print(make_table(rows))
