"""Low-rank changes: nothing at first, the same bits after merging, one mean for B and weights."""

from __future__ import annotations

import pytest
import torch

from mfm_core import lora
from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.blocks import Up
from mfm_core.checkpoint import flat_weights, weight_schema
from mfm_core.config import ImageConfig, LoraConfig, ModelConfig

MODEL = ModelConfig(widths=(16, 32), depths=(1, 1), groups=2, norm_channels=8, latent_channels=4)
CONFIG = LoraConfig(rank=2, alpha=6.0)
SEED = 11


@pytest.fixture
def model() -> Autoencoder:
    made = build_autoencoder(MODEL, ImageConfig(size_px=32), 3, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():  # layers that start at zero must move, too
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made.eval()


def pictures(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(2))


def random_b(model: Autoencoder, seed: int) -> lora.Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {
        name.removesuffix(".lora_b"): 0.1 * torch.randn(shape, generator=generator)
        for name, shape in lora.b_schema(model, CONFIG)
    }


def put(adapted: Autoencoder, b: lora.Tensors) -> None:
    with torch.no_grad():
        for name, mine in lora.learnt_b(adapted).items():
            mine.copy_(b[name])


def test_all_kinds_of_layers_are_adapted_but_the_head(model: Autoencoder) -> None:
    names = list(lora.adapted_layers(model))
    kinds = {type(layer).__name__ for layer in lora.adapted_layers(model).values()}
    assert kinds == {"GroupPointwise", "Conv3x3", "Linear"} and "head" not in names
    ups = [name for name, layer in model.named_modules() if isinstance(layer, Up)]
    assert ups and all(f"{name}.conv" in names for name in ups)
    assert any(name.endswith("depthwise") for name in names) and "to_latent" in names


def test_with_b_at_zero_the_model_gives_the_same_bits(model: Autoencoder) -> None:
    adapted = lora.with_adapters(model, CONFIG, SEED)
    with torch.no_grad():
        assert all(
            torch.equal(a, b) for a, b in zip(model(pictures()), adapted(pictures()), strict=True)
        )


def test_merged_weights_give_the_bits_that_the_adapted_model_gave(model: Autoencoder) -> None:
    adapted, b = lora.with_adapters(model, CONFIG, SEED), random_b(model, 3)
    put(adapted, b)
    with torch.no_grad():
        before, wanted = model(pictures()), adapted(pictures())
        lora.merge(model, CONFIG, SEED, b)
        found = model(pictures())
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert not torch.equal(before.mu, found.mu)
    assert not torch.equal(before.reconstruction, found.reconstruction)


def test_only_b_and_the_head_learn_and_the_schema_counts_them(model: Autoencoder) -> None:
    adapted = lora.with_adapters(model, CONFIG, SEED)
    learning = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert all(name.endswith(".b") or name.startswith("head.") for name in learning)
    schema = lora.b_schema(model, CONFIG)
    assert len(learning) == len(schema) + 2
    sizes = [b.numel() for b in lora.learnt_b(adapted).values()]
    assert sizes == [torch.Size(shape).numel() for _, shape in schema]
    for (name, shape), layer in zip(schema, lora.adapted_layers(model).values(), strict=True):
        groups, rows, columns = lora.grouped_shape(layer.get_parameter("weight"))
        assert shape == (groups, rows, min(CONFIG.rank, rows, columns)), name


def test_the_copy_leaves_the_model_and_its_order_of_weights_alone(model: Autoencoder) -> None:
    before, schema = flat_weights(model), weight_schema(model)
    put(lora.with_adapters(model, CONFIG, SEED), random_b(model, 4))
    assert (flat_weights(model) == before).all() and weight_schema(model) == schema


def test_the_mean_of_two_sites_b_is_the_mean_of_their_changes(model: Autoencoder) -> None:
    start = flat_weights(model)
    one, two = random_b(model, 5), random_b(model, 6)
    changes = []
    for b in (one, two, {name: 0.25 * one[name] + 0.75 * two[name] for name in one}):
        merged = build_autoencoder(MODEL, ImageConfig(size_px=32), 3, seed=0)
        merged.load_state_dict(model.state_dict())
        lora.merge(merged, CONFIG, SEED, b)
        changes.append(flat_weights(merged).astype(float) - start)
    mean = 0.25 * changes[0] + 0.75 * changes[1]
    assert abs(changes[2] - mean).max() < 1e-6 < abs(mean).max()


def test_a_follows_from_the_seed_alone(model: Autoencoder) -> None:
    other = build_autoencoder(MODEL, ImageConfig(size_px=32), 3, seed=9)
    first, again = lora.shared_a(model, CONFIG, SEED), lora.shared_a(other, CONFIG, SEED)
    assert all(torch.equal(first[name], again[name]) for name in first)
    unlike = lora.shared_a(model, CONFIG, SEED + 1)
    assert not any(torch.equal(first[name], unlike[name]) for name in first)


def test_the_change_of_a_layer_has_the_rank_that_was_agreed(model: Autoencoder) -> None:
    name, layer = "to_latent", model.to_latent
    before = layer.weight.detach().clone()
    lora.merge(model, CONFIG, SEED, random_b(model, 7))
    assert torch.linalg.matrix_rank(layer.weight.detach() - before, rtol=1e-4) == CONFIG.rank, name
