"""A graphics card that is not there: the `meta` device, held to the rules of a real one.

A tensor on it knows its shape and no numbers. Added here: tensors of two devices do not meet
(numbers without an axis may), a generator of the processor cannot fill a tensor of the card, no
array is taken of the card's memory, and what is copied back holds the same arbitrary numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils import _pytree as tree
from torch.utils._python_dispatch import TorchDispatchMode

from mfm_core.autoencoder import Autoencoder
from mfm_core.config import ImageConfig, ModelConfig

CARD = torch.device("meta")

COPIES = ("aten._to_copy", "aten.copy_", "aten.to")


class _Rules(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs, name = kwargs or {}, str(func)
        given = tree.tree_leaves((args, kwargs))
        tensors = [value for value in given if isinstance(value, torch.Tensor)]
        if name.startswith(COPIES):
            return _copy(func, tensors, args, kwargs)
        met = {tensor.device for tensor in tensors if tensor.ndim > 0}
        assert len(met) < 2, f"{name}: tensors of {met}"
        if CARD in met | {tensor.device for tensor in tensors}:
            if name.startswith(("aten._local_scalar_dense", "aten.item")):
                return 0.5
            if name.startswith(("aten._fused_adamw", "aten.is_nonzero")):
                return None
        found = func(*args, **kwargs)
        generators = [value for value in given if isinstance(value, torch.Generator)]
        for value in tree.tree_leaves(found) if generators else ():
            assert value.device == generators[0].device, name
        return found


def _copy(func: Any, tensors: list[torch.Tensor], args: Any, kwargs: Any) -> object:
    """Copy as torch does, but from the card come arbitrary numbers."""
    source = tensors[-1]
    onto = tensors[0].device if str(func).startswith("aten.copy_") else kwargs.get("device")
    if source.device != CARD or onto in {None, CARD}:
        return func(*args, **kwargs)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(source.shape, generator=generator, dtype=torch.float64)
    made = drawn.to(kwargs.get("dtype") or source.dtype)
    return tensors[0].copy_(made) if str(func).startswith("aten.copy_") else made


@contextmanager
def pretend_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let tensors be on the card inside the block."""
    kinds = lambda: ["cpu", CARD.type]  # noqa: E731
    optimisers = sys.modules[torch.optim.Optimizer.__module__]
    monkeypatch.setattr(optimisers, "_get_fused_kernels_supported_devices", kinds)
    enabled = torch.is_autocast_enabled
    rounds = lambda kind: kind != CARD.type and enabled(kind)  # noqa: E731
    monkeypatch.setattr("torch.is_autocast_enabled", rounds)
    with _Rules():
        yield


def model_on_card(model: ModelConfig, image: ImageConfig, classes: int) -> Autoencoder:
    """Return a model whose weights are on the card; call it inside `pretend_card`."""
    return Autoencoder(model, image, classes).to(CARD)
