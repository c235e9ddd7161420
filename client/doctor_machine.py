"""Is the machine fit: state folder, disk, memory, graphics card, memory limits.

What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from client.config import SiteConfig
from client.doctor_card import check_device
from client.finding import Finding
from mfm_core.autoencoder import parameters_of
from mfm_core.devices import check_precision, choose_device
from mfm_core.errors import ConfigError, system_refusal
from strategies.answers import latent_size
from strategies.config import RunConfig

MODELS_KEPT = 4
"""Model-sized files a run leaves or holds for a moment: final, heads, one being written, spare."""

SPARE_BYTES = 256 * 2**20
"""Room for logs and ledger."""

LEAST_MEMORY, GOOD_MEMORY = 2**30, 2 * 2**30
"""Bytes free for a node: PyTorch alone takes about half a GiB in the runner's worker."""

CONTROL_GROUP = Path("/sys/fs/cgroup")


def check_machine(config: SiteConfig, run: RunConfig, images: int) -> Iterator[Finding]:
    """Yield findings about disk, memory and device.

    Args:
        config: the site's settings.
        run: the agreed run.
        images: images in the manifest, 0 where that is not known.
    """
    yield from check_state(config.state_folder, needed_bytes(run, images))
    yield check_memory(free_memory())
    device = check_device(config.device)
    yield device
    if device.level != "fail":
        yield from _check_precision(config)


def _check_precision(config: SiteConfig) -> Iterator[Finding]:
    try:
        check_precision(choose_device(config.device), config.precision)
    except ConfigError as error:
        text, _, advice = error.problems[0].partition("; ")
        yield Finding("machine", "fail", text, advice)


def needed_bytes(run: RunConfig, images: int) -> int:
    """Return the bytes a run needs in the state folder: decoded images, models, sums, logs."""
    pixels = images * run.image.channels * run.image.size_px**2
    model = 4 * parameters_of(run.model, run.image, len(run.ontology.classes))
    return pixels + MODELS_KEPT * model + 8 * latent_size(run) ** 2 + SPARE_BYTES


def check_state(folder: Path, needed: int) -> Iterator[Finding]:
    """Yield whether the state folder can be written and has room.

    The room that decoded images already take counts as free.
    """
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".check-") as probe:
            probe.write(b"x" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        yield Finding(
            "machine",
            "fail",
            f"state folder {folder} cannot be written: {system_refusal(error)}",
            "without its ledger nothing may leave; give the node's user this folder, or name "
            "another one as state_folder in site.yaml",
        )
    free = shutil.disk_usage(existing).free
    cached = sum(path.stat().st_size for path in folder.glob("cache/pixels-*.npy"))
    missing = needed - cached - free
    have = f"{_mib(free)} free at {existing}, a run needs about {_mib(needed - cached)} more"
    if missing > 0:
        yield Finding("machine", "fail", have, f"free {_mib(missing)} or move state_folder")
    elif free < 2 * (needed - cached):
        yield Finding("machine", "warn", have, "little is left for later runs; free some space")
    else:
        yield Finding("machine", "ok", have)


def free_memory() -> int | None:
    """Return the bytes this process may still take, a control group's limit included; or None."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except OSError:
        return None
    try:
        limit = (CONTROL_GROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((CONTROL_GROUP / "memory.current").read_text(encoding="ascii"))
        if limit != "max":
            found.append(int(limit) - used)
    except (OSError, ValueError):
        pass  # no control group of its own
    return min(found, default=None)


def check_memory(free: int | None) -> Finding:
    """Return whether the memory suffices for one working process."""
    if free is None:
        return Finding("machine", "warn", "free memory is not known on this system")
    text = f"{_mib(free)} of memory free, a node needs about {_mib(GOOD_MEMORY)}"
    if free < LEAST_MEMORY:
        return Finding("machine", "fail", text, "end other programs or take a larger machine")
    if free < GOOD_MEMORY:
        return Finding("machine", "warn", text, "training may be ended for lack of memory")
    return Finding("machine", "ok", text)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
