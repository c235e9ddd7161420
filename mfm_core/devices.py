"""Where a model computes, processor or graphics card, and how precisely.

Functions take the device from the model's weights and return arrays of the processor. Random
numbers are always drawn by the caller's generator, on the processor, and then moved: the same
seed damages the same images and samples the same latents everywhere, and a private step's noise
stays the operating system's. A card's own sums differ from a processor's in the last bits, so a
run's weights depend on the device, as they do on the type of processor; the agreed run does not
name one. bfloat16 and TF32 are a site's own choice for the same reason. bfloat16 is refused where
a processor has no instructions for it: there it was 8 to 12 times slower than float32.
Nothing here crosses the hospital's boundary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch
from numpy.typing import NDArray
from torch import nn

from mfm_core.errors import ConfigError

Wanted = Literal["auto", "cpu", "cuda"]
"""The setting `device`: auto takes the card where there is one."""

Precision = Literal["float32", "tf32", "bf16"]
"""The setting `precision`: tf32 and bf16 round the factors of products to 10 and 7 bits."""


def choose_device(wanted: Wanted) -> torch.device:
    """Return the device of a setting: `auto` is the first graphics card, else the processor.

    Raises:
        ConfigError: another word, or `cuda` where PyTorch sees no card; says why and what to do.
    """
    if wanted not in get_args(Wanted):
        problem = f"{wanted!r} is no device; write auto, cpu or cuda"
        raise ConfigError("device", [problem])
    there = torch.cuda.is_available()
    if wanted == "cpu" or (wanted == "auto" and not there):
        return torch.device("cpu")
    if not there:
        raise ConfigError("device", [_why_no_card()])
    return torch.device("cuda", torch.cuda.current_device())


def _why_no_card() -> str:
    if torch.version.cuda is None:
        found = "this build of PyTorch has no CUDA; install the CUDA build"
    else:
        found = (
            f"PyTorch is built for CUDA {torch.version.cuda} but sees no card; check the driver "
            "(nvidia-smi) and that the process or container may use the card"
        )
    return f"cuda is wanted, but {found}, or set device: cpu (or auto)"


def name_device(device: torch.device) -> str:
    """Return people's words for a device."""
    if device.type == "cuda":
        return f"graphics card {torch.cuda.get_device_name(device)}"
    return "the processor" if device.type == "cpu" else device.type


def device_of(model: nn.Module) -> torch.device:
    """Return where a model's weights are."""
    return next(model.parameters()).device


def to_device(array: NDArray[Any], model: nn.Module) -> torch.Tensor:
    """Return an array as a tensor beside the model's weights; on the processor it is shared."""
    return torch.from_numpy(array).to(device_of(model))


def to_array(tensor: torch.Tensor) -> NDArray[Any]:
    """Return a tensor as an array of the processor, without its gradient."""
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array


def normal_like(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return N(0, 1) numbers of a tensor's shape, drawn where the generator is, then moved."""
    drawn = torch.empty_like(tensor, device=generator.device)
    return drawn.normal_(generator=generator).to(tensor.device)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 by instructions of its own."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def check_precision(device: torch.device, precision: Precision) -> None:
    """Refuse a precision that a device does not have.

    Raises:
        ConfigError: bf16 without instructions for it, tf32 off a card, or another word.
    """
    problem = ""
    if precision not in get_args(Precision):
        problem = f"{precision!r} is no precision; write float32, tf32 or bf16"
    elif precision == "tf32" and device.type != "cuda":
        problem = f"tf32 is for graphics cards, the device is {name_device(device)}"
    elif precision == "bf16" and not has_bfloat16(device):
        problem = f"bf16 is wanted, but {name_device(device)} has no instructions for it"
    if problem:
        raise ConfigError("precision", [f"{problem}; set precision: float32"])


@contextmanager
def arithmetic(device: torch.device, precision: Precision) -> Iterator[None]:
    """Compute on a device inside the block: TF32 where it is wanted, cuDNN held to what repeats.

    Raises:
        ConfigError: as `check_precision`.
    """
    check_precision(device, precision)
    if device.type != "cuda":
        yield
        return
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, conv.allow_tf32, conv.deterministic)
    matmul.allow_tf32 = conv.allow_tf32 = precision == "tf32"
    conv.deterministic = True
    try:
        yield
    finally:
        matmul.allow_tf32, conv.allow_tf32, conv.deterministic = before


def rounding(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return a block in which a model's products take bfloat16, with precision bf16; else nothing.

    For passes of the model alone: losses, changes of images and weights stay float32.
    """
    if precision != "bf16":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
