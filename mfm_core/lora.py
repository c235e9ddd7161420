"""LoRA for the layers of the autoencoder: a low-rank change of every weight, A shared, B learnt.

    W' = W + (alpha / rank) B A,    A [g, r, n] drawn from the run's seed, B [g, o, r] from zero,

for a weight of g groups of o rows and n columns: pointwise group convolutions (those of stride 2
and the transposed ones among them, which here are products too), 3x3 convolutions, depthwise or
not, as one group of o rows, and linear layers. The head is small and learns as it is; norms and the
linear patch path stay. With A equal everywhere the change is linear in B, so the mean of the sites'
B is the mean of their changes of the weights, and merging adds the very number that training used.

Source: Hu et al. 2021, "LoRA: Low-rank adaptation of large language models" (arXiv:2106.09685);
A kept fixed in federations: Sun et al. 2024, "Improving LoRA in privacy-preserving federated
learning" (arXiv:2403.12313); paper section 2.6.
What crosses the hospital's boundary: the change of B and of the head, through the outbox. A never.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.utils import parametrize

from mfm_core.autoencoder import Autoencoder
from mfm_core.blocks import Conv3x3, GroupPointwise
from mfm_core.config import LoraConfig
from mfm_core.sums import Schema

Tensors = dict[str, torch.Tensor]


def grouped_shape(weight: torch.Tensor) -> tuple[int, int, int]:
    """Return (g, o, n) of a weight: that of a group product as it is, of others in one group."""
    if weight.ndim == 3:
        groups, rows, columns = weight.shape
        return groups, rows, columns
    return 1, len(weight), weight[0].numel()


def adapted_layers(model: Autoencoder) -> dict[str, nn.Module]:
    """Return the layers that are adapted, by name, in the order of the model."""
    kinds = (GroupPointwise, Conv3x3, nn.Linear)
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, kinds) and name != "head"
    }


def _weights(model: Autoencoder) -> Tensors:
    return {name: layer.get_parameter("weight") for name, layer in adapted_layers(model).items()}


def _rank(shape: tuple[int, int, int], config: LoraConfig) -> int:
    return min(config.rank, *shape[1:])


def b_schema(model: Autoencoder, config: LoraConfig) -> Schema:
    """Return names and shapes `[g, o, r]` of all B; r is at most the smaller side of a weight."""
    shapes = {name: grouped_shape(weight) for name, weight in _weights(model).items()}
    return tuple(
        (f"{name}.lora_b", (shape[0], shape[1], _rank(shape, config)))
        for name, shape in shapes.items()
    )


def shared_a(model: Autoencoder, config: LoraConfig, seed: int) -> Tensors:
    """Return A `[g, r, n] float32` of every layer: normal, variance 1/n, the same for one seed."""
    found = {}
    for name, weight in _weights(model).items():
        shape = grouped_shape(weight)
        digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        size = (shape[0], _rank(shape, config), shape[2])
        drawn = torch.randn(size, generator=generator) / math.sqrt(shape[2])
        found[name] = drawn.to(weight.device)
    return found


class LowRank(nn.Module):
    """A parametrization: a weight plus `scale` times B A, B from zero.

    Args:
        a: `[g, r, n]`, fixed.
        rows: o, rows of a group of the weight.
        scale: alpha over rank.
    """

    def __init__(self, a: torch.Tensor, rows: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("a", a)
        self.a: torch.Tensor
        self.scale = scale
        self.b = nn.Parameter(a.new_zeros(a.shape[0], rows, a.shape[1]))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the adapted weight, in the weight's shape."""
        return changed(weight, self.a, self.b, self.scale)


def changed(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """Return weight + scale * B A; training and merging call this, so they agree to the bit."""
    return weight + (scale * torch.bmm(b, a)).view(weight.shape)


def scale_of(config: LoraConfig) -> float:
    """Return alpha over rank."""
    return config.alpha / config.rank


def with_adapters(model: Autoencoder, config: LoraConfig, seed: int) -> Autoencoder:
    """Return a copy of the model in which nothing learns but every B, zero at first, and the head.

    Until a B changes, the copy gives the same bits as the model.
    """
    adapted = copy.deepcopy(model)
    for parameter in adapted.parameters():
        parameter.requires_grad_(False)
    for parameter in adapted.head.parameters():
        parameter.requires_grad_(True)
    shared = shared_a(model, config, seed)
    for name, layer in adapted_layers(adapted).items():
        rows = grouped_shape(layer.get_parameter("weight"))[1]
        low_rank = LowRank(shared[name], rows, scale_of(config))
        parametrize.register_parametrization(layer, "weight", low_rank)
    return adapted


def learnt_b(adapted: Autoencoder) -> Tensors:
    """Return B of every layer of `with_adapters`, by the layer's name, in the model's order."""
    return {
        name.removesuffix(".parametrizations.weight.0"): part.b.detach()
        for name, part in adapted.named_modules()
        if isinstance(part, LowRank)
    }


@torch.no_grad()
def merge(model: Autoencoder, config: LoraConfig, seed: int, b: Mapping[str, torch.Tensor]) -> None:
    """Add the low-rank changes to the model's weights, in place; then no trace of them is left.

    Args:
        model: without adapters, the weights that B was learnt on.
        config: rank and alpha, as in `with_adapters`.
        seed: of A, likewise.
        b: B of every layer, by name.
    """
    shared = shared_a(model, config, seed)
    for name, weight in _weights(model).items():
        weight.copy_(changed(weight, shared[name], b[name].to(weight.device), scale_of(config)))
