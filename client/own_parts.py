"""What a hospital keeps for itself between rounds: its own version of agreed parts of the model.

With `aggregation.personal: [norms]` every hospital trains from the global weights with its own
scales and shifts of the norms, because scanners differ in contrast (FedBN, Li et al. 2021,
arXiv:2102.07623); with `[head]` with its own head, because class shares differ (FedPer, Arivazhagan
et al. 2019, arXiv:1912.00818). Unlike there, the changes of these parts still leave with the update
and are averaged: a hospital without a version of its own, and the released model, start from that.
With `kind: scaffold` it is the mean gradient of the hospital's last round ("control").

Kept are the two newest rounds, by number: a round that is asked again after an interruption
starts from the state before it and gives the same bits.
What crosses the hospital's boundary: nothing here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mfm_core.checkpoint import load_arrays, save_arrays
from mfm_core.errors import CheckpointError
from mfm_core.sums import Schema

FILE = "own_parts.safetensors"
ROUNDS_KEPT = 2
AFTER_LAST_ROUND = sys.maxsize

Kept = Literal["parts", "control"]
Floats = NDArray[np.float32]


def own_places(schema: Schema, personal: Sequence[str]) -> NDArray[np.bool_]:
    """Return `[D] bool`: which of the flat weights a hospital has a version of its own of.

    Args:
        schema: names and shapes of the weights, in the order of the flat vector.
        personal: "norms" are scale and shift of every norm, "head" is the classifier head.
    """
    flags = [
        np.full(math.prod(shape), _is_personal(name, personal), dtype=bool)
        for name, shape in schema
    ]
    return np.concatenate(flags)


def _is_personal(name: str, personal: Sequence[str]) -> bool:
    steps = name.split(".")
    if steps[0] == "head":
        return "head" in personal
    return "norms" in personal and "norm" in steps


def with_own(weights: Floats, places: NDArray[np.bool_], own: Floats) -> Floats:
    """Return the global weights `[D]` with a hospital's own numbers at its places."""
    changed = weights.astype(np.float32)
    changed[places] = own
    return changed


def recall(folder: Path, config_hash: str, kept: Kept, before: int) -> Floats | None:
    """Return what the newest round before `before` left; None where there is none.

    A file of another run, or a damaged one, counts as none: the hospital then starts from the
    global weights, as one that joins late does.
    """
    rounds = _read(folder, config_hash, kept)
    earlier = [number for number in rounds if number < before]
    return rounds[max(earlier)] if earlier else None


def remember(folder: Path, config_hash: str, number: int, found: dict[Kept, Floats]) -> None:
    """Keep what round `number` leaves, beside the round before it; whole or not at all."""
    arrays: dict[str, Floats] = {}
    for kept, array in found.items():
        rounds = _read(folder, config_hash, kept)
        rounds = {other: old for other, old in rounds.items() if other < number} | {number: array}
        newest = sorted(rounds)[-ROUNDS_KEPT:]
        arrays |= {f"{kept}.{one}": rounds[one] for one in newest}
    folder.mkdir(parents=True, exist_ok=True)
    save_arrays(folder / FILE, arrays, {"kind": "own parts", "config_hash": config_hash})


def _read(folder: Path, config_hash: str, kept: Kept) -> dict[int, Floats]:
    try:
        arrays, _ = load_arrays(folder / FILE, {"kind": "own parts", "config_hash": config_hash})
    except CheckpointError:
        return {}
    prefix = f"{kept}."
    return {
        int(name.removeprefix(prefix)): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
