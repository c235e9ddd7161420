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


METADATA = {"kind": "heads", "encoder_hash": "abc", "attribute": "view"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"leace.weight": np.zeros((3, 7))}, r"'leace' has weight \(3, 7\)"),
        ({"leace.weight": np.zeros(24)}, "'leace' has weight"),
        ({"leace.bias": np.zeros((2,))}, r"'leace' has weight .* and bias \(2,\)"),
        ({"leace.weight": np.full((3, 8), np.nan)}, "'leace' holds numbers that are not finite"),
    ],
)
def test_a_wrong_head_is_named_with_its_file(
    tmp_path: Path, changed: dict[str, np.ndarray], words: str
) -> None:
    arrays = dict(heads_to_sum(draw_heads()).arrays) | changed
    save_arrays(tmp_path / "heads.safetensors", arrays, METADATA)
    with pytest.raises(CheckpointError, match=rf"heads\.safetensors: head {words}"):
        load_heads(tmp_path / "heads.safetensors", "abc", (3, 8))


def test_a_file_without_heads_and_heads_of_other_classes_are_refused(tmp_path: Path) -> None:
    save_arrays(tmp_path / "h", {"other": np.zeros(2)}, METADATA)
    with pytest.raises(CheckpointError, match="no head"):
        load_heads(tmp_path / "h", "abc")
    save_heads(tmp_path / "h", draw_heads(), "abc", "view")
    with pytest.raises(CheckpointError, match=r"'leace' has.*'random_alpha' has"):
        load_heads(tmp_path / "h", "abc", (2, 8))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    metadata = {"kind": "heads", "encoder_hash": "abc", "attribute": "view"}
    save_arrays(tmp_path / "h", {"leace.weight": np.zeros((2, 3))}, metadata)
    with pytest.raises(CheckpointError, match=r"leace\.bias"):
        load_heads(tmp_path / "h", "abc")
