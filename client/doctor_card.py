"""Is there a graphics card the work can use: what is found, its memory, its driver, what to do.

What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from client.finding import Finding
from mfm_core.devices import Wanted

DRIVER = Path("/proc/driver/nvidia/version")
PCI = Path("/sys/bus/pci/devices")
NVIDIA, DISPLAY = "0x10de", "0x03"
"""Vendor, and first digits of the class of display and 3D controllers, as PCI numbers them."""

LEAST_BYTES = 2 * 2**30
"""Free on a card for one working process: CUDA's own half GiB, model, batch and spare."""


def check_device(wanted: Wanted) -> Finding:
    """Return whether the device of site.yaml is there, and which cards are."""
    cards, driver = usable_cards(), driver_version()
    told = f"graphics cards: {', '.join(cards) or 'none that PyTorch can use'}"
    text = f"{os.cpu_count()} processors; {told}{driver and f', driver {driver}'}; device: {wanted}"
    advice = "" if cards else why_none(driver)
    if wanted == "cuda" and not cards:
        return Finding("machine", "fail", text, f"{advice or 'there is no card'}; or set cpu")
    if wanted == "cpu" and cards:
        return Finding("machine", "ok", f"{text}; auto would use a card")
    if wanted == "auto" and advice:
        return Finding("machine", "warn", f"{text}, work is done on the processor", advice)
    if wanted != "cpu" and cards and torch.cuda.mem_get_info()[0] < LEAST_BYTES:
        short = f"less than {LEAST_BYTES >> 20:,} MiB free: end other programs on the card"
        return Finding("machine", "warn", text, f"{short}, or set device: cpu")
    return Finding("machine", "ok", text)


def usable_cards() -> tuple[str, ...]:
    """Return name and memory of every card that PyTorch can use."""
    if not torch.cuda.is_available():
        return ()
    found = []
    for index in range(torch.cuda.device_count()):
        free, whole = (size >> 20 for size in torch.cuda.mem_get_info(index))
        found.append(f"{torch.cuda.get_device_name(index)} ({free:,} of {whole:,} MiB free)")
    return tuple(found)


def driver_version() -> str:
    """Return the version of the loaded NVIDIA driver; empty when none is loaded."""
    try:
        words = DRIVER.read_text(encoding="utf-8").splitlines()[0].split()
    except (OSError, IndexError):
        return ""
    return next((word for word in words if word[0].isdigit() and "." in word), "unknown")


def why_none(driver: str) -> str:
    """Return why PyTorch can use no card and what to do; empty when no card is built in."""
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA: install the pinned build" if driver else ""
    if driver:
        return (
            f"driver {driver} is loaded, but PyTorch (CUDA {torch.version.cuda}) sees no card: let "
            "the node's user, unit or container use /dev/nvidia*, and renew an older driver"
        )
    if built_in():
        return "an NVIDIA card is built in without its driver: install it, then try nvidia-smi"
    return ""


def built_in() -> bool:
    """Return whether the machine's bus holds an NVIDIA card."""
    for folder in sorted(PCI.glob("*")):
        try:
            vendor, kind = (
                (folder / name).read_text(encoding="ascii").strip() for name in ("vendor", "class")
            )
        except OSError:
            continue
        if vendor == NVIDIA and kind.startswith(DISPLAY):
            return True
    return False
