"""Named heads of one encoder in one file, beside the model that holds the head in use.

The heads of `mitigation` share the encoder, the atlas and the explanations of a run; comparing
them before and after needs nothing else. What crosses the hospital's boundary: nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mfm_core.checkpoint import load_arrays, save_arrays
from mfm_core.errors import CheckpointError
from mfm_core.head import Head
from mfm_core.sums import Sum

KIND = "heads"


def heads_to_sum(heads: Mapping[str, Head]) -> Sum:
    """Return heads as arrays "<name>.weight" `[K, L]` and "<name>.bias" `[K]`, float64."""
    arrays = {}
    for name, head in heads.items():
        arrays[f"{name}.weight"] = head.weight.astype(np.float64)
        arrays[f"{name}.bias"] = head.bias.astype(np.float64)
    return Sum(arrays)


def heads_from_sum(total: Sum) -> dict[str, Head]:
    """Return the heads of `heads_to_sum`, in the order of their names."""
    names = [name.removesuffix(".weight") for name in total.arrays if name.endswith(".weight")]
    return {
        name: Head(
            total[f"{name}.weight"].astype(np.float32), total[f"{name}.bias"].astype(np.float32)
        )
        for name in names
    }


def save_heads(path: Path, heads: Mapping[str, Head], encoder: str, attribute: str) -> None:
    """Write heads as safetensors, whole or not at all.

    Args:
        path: of the file.
        heads: by name.
        encoder: hash of the encoder whose latents they read.
        attribute: what they were made to leave out.
    """
    metadata = {"kind": KIND, "encoder_hash": encoder, "attribute": attribute}
    save_arrays(path, heads_to_sum(heads).arrays, metadata)


def load_heads(
    path: Path, encoder: str, shape: tuple[int, ...] | None = None
) -> tuple[dict[str, Head], str]:
    """Return the heads of a file and the attribute they leave out.

    Args:
        path: written by `save_heads`.
        encoder: hash of the model's encoder.
        shape: (K, L) of the model's own head; None asks only that all heads have one shape.

    Raises:
        CheckpointError: missing, damaged, no heads, or made for another encoder; every head that
            is not whole is named.
    """
    arrays, metadata = load_arrays(path, {"kind": KIND})
    found = metadata.get("encoder_hash", "none")
    if found != encoder:
        raise CheckpointError(
            f"{path}: heads of encoder {found[:12]}, the model is {encoder[:12]}; use model and "
            "heads of the same run"
        )
    try:
        heads, attribute = heads_from_sum(Sum(arrays)), metadata["attribute"]
    except KeyError as error:
        raise CheckpointError(f"{path}: an entry is missing: {error}") from None
    if not heads:
        raise CheckpointError(f"{path}: holds no head; restore it from a copy, or run again")
    wanted = shape or next(iter(heads.values())).weight.shape
    if wrong := [text for name, head in heads.items() for text in _problems(name, head, wanted)]:
        reasons = "; ".join(wrong)
        raise CheckpointError(f"{path}: {reasons}; restore it from a copy, or run again")
    return heads, attribute


def _problems(name: str, head: Head, shape: tuple[int, ...]) -> list[str]:
    """Return how a head differs from weight (K, L) and bias (K,) of finite numbers."""
    found, expected = (head.weight.shape, head.bias.shape), (shape, shape[:1])
    if found != expected or len(shape) != 2:
        return [f"head {name!r} has weight {found[0]} and bias {found[1]}, expected {expected}"]
    if not (np.isfinite(head.weight).all() and np.isfinite(head.bias).all()):
        return [f"head {name!r} holds numbers that are not finite"]
    return []
