"""Named heads come back bit for bit, and only for their own encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mfm_core.checkpoint import save_arrays
from mfm_core.errors import CheckpointError
from mfm_core.head import Head
from mfm_core.head_files import heads_from_sum, heads_to_sum, load_heads, save_heads


def draw_heads() -> dict[str, Head]:
    rng = np.random.default_rng(0)
    return {
        name: Head(
            rng.normal(size=(3, 8)).astype(np.float32), rng.normal(size=3).astype(np.float32)
        )
        for name in ("leace", "random_alpha")
    }


def test_heads_come_back_to_the_bit(tmp_path: Path) -> None:
    heads = draw_heads()
    save_heads(tmp_path / "heads.safetensors", heads, "abc", "view")
    loaded, attribute = load_heads(tmp_path / "heads.safetensors", "abc")
    assert attribute == "view" and set(loaded) == set(heads)
    for name, head in heads.items():
        assert np.array_equal(loaded[name].weight, head.weight)
        assert np.array_equal(loaded[name].bias, head.bias)


def test_a_sum_of_heads_and_back() -> None:
    heads = draw_heads()
    again = heads_from_sum(heads_to_sum(heads))
    assert all(np.array_equal(again[n].weight, h.weight) for n, h in heads.items())


def test_heads_of_another_encoder_are_refused(tmp_path: Path) -> None:
    save_heads(tmp_path / "h", draw_heads(), "abc", "view")
    with pytest.raises(CheckpointError, match="same run"):
        load_heads(tmp_path / "h", "def")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    metadata = {"kind": "heads", "encoder_hash": "abc", "attribute": "view"}
    save_arrays(tmp_path / "h", {"leace.weight": np.zeros((2, 3))}, metadata)
    with pytest.raises(CheckpointError, match=r"leace\.bias"):
        load_heads(tmp_path / "h", "abc")
