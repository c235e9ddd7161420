import copy

import numpy as np
import pytest
import torch

from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.checkpoint import encoder_hash, flat_weights
from mfm_core.config import (
    ImageConfig,
    LearningConfig,
    ModelConfig,
    ObjectiveConfig,
    TrainingConfig,
)
from mfm_core.dataset import ImageSet
from mfm_core.errors import DataError
from mfm_core.objective import TERM_NAMES, cycle_error
from mfm_core.optimiser import FlatOptimiser
from mfm_core.patches import patch_moments, start_linear_path
from mfm_core.training import (
    Schedule,
    ema_decay,
    learning_rate,
    mixed_batches,
    shuffled_batches,
    train,
)

CONFIG = ModelConfig(widths=(16, 32), depths=(1, 1), groups=2, latent_channels=8)
LEARNING = LearningConfig(training=TrainingConfig(batch_size=8, warmup_steps=2))
SCHEDULE = Schedule(first_step=0, total_steps=100)


def image_set(count: int = 24, unlabelled: bool = False) -> ImageSet:
    """Two kinds of images: bright above or bright below."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 2
    images = generator.integers(0, 60, (count, 1, 32, 32), dtype=np.uint8)
    images[labels == 0, :, :16] += 150
    images[labels == 1, :, 16:] += 150
    known = np.full(count, -1) if unlabelled else labels
    rows = np.zeros(count, dtype=np.int64)
    return ImageSet(
        images, known.astype(np.int64), np.zeros((count, 0), np.int64), np.arange(count), rows
    )


def start(images: ImageSet) -> Autoencoder:
    model = build_autoencoder(CONFIG, ImageConfig(size_px=32), 2, seed=0)
    start_linear_path(model, patch_moments(images, np.arange(len(images)), CONFIG))
    return model


def teach(
    model: Autoencoder, images: ImageSet, steps: int = 3, **changes: object
) -> dict[str, float]:
    settings: dict[str, object] = {"schedule": SCHEDULE, "steps": steps, "seed": 5, **changes}
    return train(model, images, np.arange(len(images)), LEARNING, **settings)  # type: ignore[arg-type]


def test_same_bits_whatever_ran_before() -> None:
    images = image_set()
    one, two = start(images), start(images)
    terms = teach(one, images)
    torch.manual_seed(99)
    np.random.seed(99)
    teach(start(images), images, steps=2, seed=1)
    again = teach(two, images)
    assert encoder_hash(one) == encoder_hash(two)
    assert terms == again
    assert encoder_hash(one) != encoder_hash(start(images))


def test_another_seed_gives_another_result() -> None:
    images = image_set()
    one, two = start(images), start(images)
    teach(one, images)
    teach(two, images, seed=6)
    assert encoder_hash(one) != encoder_hash(two)


def test_it_learns_to_reconstruct_and_to_classify() -> None:
    images = image_set()
    model = start(images)
    first = teach(model, images, steps=5)
    for call in range(1, 4):
        last = teach(model, images, steps=10, seed=call)
    assert last["classification"] < 0.7 * first["classification"]
    assert last["loss"] < first["loss"]
    assert set(last) == set(TERM_NAMES)


def test_the_cycle_term_makes_a_model_that_reads_what_it_draws() -> None:
    images, left = image_set(), {}
    for weight in (0.0, 10.0):
        model = start(images)
        objective = ObjectiveConfig(cycle_weight=weight)
        learning = LEARNING.model_copy(update={"objective": objective})
        rows = np.arange(len(images))
        terms = train(model, images, rows, learning, schedule=SCHEDULE, steps=20, seed=5)
        assert (terms["cycle"] > 0) == (weight > 0)
        with torch.no_grad():
            left[weight] = cycle_error(model, model(images.batch(rows))).item()
    assert left[10.0] < 0.7 * left[0.0]


@pytest.mark.parametrize("count", [1, 3])
def test_a_site_with_fewer_images_than_a_batch_can_train(count: int) -> None:
    images = image_set(count)
    terms = teach(start(images), images)
    assert all(np.isfinite(value) for value in terms.values())


def test_batches_run_through_shuffled_epochs() -> None:
    indices = np.arange(100, 110)
    batches = list(shuffled_batches(indices, 4, 5, np.random.default_rng(0)))
    assert [len(batch) for batch in batches] == [4] * 5
    seen = np.concatenate(batches)
    for epoch in (seen[:10], seen[10:]):
        assert sorted(epoch) == list(indices)
    assert list(seen[:10]) != list(seen[10:])


def test_unlabelled_images_leave_the_head_alone_but_train_the_rest() -> None:
    images = image_set(unlabelled=True)
    model = start(images)
    before = model.decoder.last.weight.detach().clone()
    terms = teach(model, images)
    assert terms["classification"] == 0.0
    assert model.head.weight.abs().max() == 0
    assert not torch.equal(model.decoder.last.weight, before)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_attention_moves_in_stage_one_only(stage: int) -> None:
    images = image_set()
    model = start(images)
    torch.nn.init.normal_(model.attention_logits, std=0.1)
    before = model.attention_logits.detach().clone()
    terms = teach(model, images, attention_stage=stage)
    assert torch.equal(model.attention_logits, before) == (stage != 1)
    assert (terms["attention"] > 0) == (stage == 1)
    assert not model.attention_logits.requires_grad


def test_the_proximal_term_keeps_the_weights_near_their_start() -> None:
    images = image_set()
    free, held = start(images), start(images)
    origin = flat_weights(free)
    teach(free, images, steps=12)
    terms = teach(held, images, steps=12, proximal_mu=10.0)
    assert terms["proximal"] > 0
    moved_free = np.linalg.norm(flat_weights(free) - origin)
    moved_held = np.linalg.norm(flat_weights(held) - origin)
    assert moved_held < 0.9 * moved_free


def test_optimiser_equals_a_plain_loop_of_adamw_clip_proximal_and_average() -> None:
    config = TrainingConfig(ema_decay=0.9, weight_decay=0.1, max_grad_norm=0.5)
    model = build_autoencoder(CONFIG, ImageConfig(size_px=32), 2, seed=0)
    reference = copy.deepcopy(model)
    names = [name for name, p in reference.named_parameters() if p.requires_grad]
    parameters = [p for p in reference.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p],
            "weight_decay": 0.1 if p.ndim > 1 and not name.startswith("linear_path.") else 0.0,
            "lr": 1e-3 * (0.1 if name.startswith("linear_path.") else 1.0),
        }
        for name, p in zip(names, parameters, strict=True)
    ]
    adamw = torch.optim.AdamW(groups)
    origin = [p.detach().clone() for p in parameters]
    averages = [p.detach().clone() for p in parameters]
    generator = torch.Generator().manual_seed(0)
    gradients = [[torch.randn(p.shape, generator=generator) for p in parameters] for _ in range(4)]

    with FlatOptimiser(model, config, proximal_mu=0.3) as optimiser:
        for step, given in enumerate(gradients):
            optimiser.clear()
            mine = [p for p in model.parameters() if p.requires_grad]
            for parameter, gradient in zip(mine, given, strict=True):
                assert parameter.grad is not None
                parameter.grad.copy_(gradient)
            optimiser.step(1e-3, ema_decay(0.9, step))
    for step, given in enumerate(gradients):
        for parameter, gradient, first in zip(parameters, given, origin, strict=True):
            parameter.grad = gradient + 0.3 * (parameter.detach() - first)
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        adamw.step()
        decay = min(0.9, (1 + step) / (10 + step))
        for average, parameter in zip(averages, parameters, strict=True):
            average.mul_(decay).add_(parameter.detach(), alpha=1 - decay)

    mine = [p for p in model.parameters() if p.requires_grad]
    for parameter, average in zip(mine, averages, strict=True):
        torch.testing.assert_close(parameter.detach(), average, atol=1e-6, rtol=1e-5)
        assert parameter.grad is None


def test_parameters_own_their_memory_afterwards() -> None:
    images = image_set()
    model = start(images)
    teach(model, images, steps=1)
    storages = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert len(storages) == len(list(model.parameters()))
    assert not model.training


def test_rate_is_one_cosine_over_the_run_with_a_warm_up_in_every_call() -> None:
    config = TrainingConfig(learning_rate=1.0, warmup_steps=3)
    assert learning_rate(config, Schedule(0, 100), 0) == 0.25
    assert learning_rate(config, Schedule(50, 100), 3) == pytest.approx(
        0.5 * (1 + np.cos(np.pi * 0.53))
    )
    assert learning_rate(config, Schedule(99, 100), 5) == pytest.approx(0.0)
    assert [ema_decay(0.5, step) for step in (0, 1000)] == [0.1, 0.5]


def test_an_empty_site_and_a_wrong_stage_are_refused() -> None:
    images = image_set()
    with pytest.raises(DataError, match="no image"):
        train(start(images), images, np.arange(0), LEARNING, schedule=SCHEDULE, steps=1, seed=0)
    with pytest.raises(ValueError, match="attention_stage"):
        teach(start(images), images, attention_stage=3)


def mixed(share: float, labelled: int, count: int = 64) -> np.ndarray:
    """Return how many labelled images each of 20 batches of 16 holds."""
    labels = np.where(np.arange(count) < labelled, 0, -1)
    config = TrainingConfig(batch_size=16, labelled_share=share)
    batches = mixed_batches(np.arange(count), labels, config, 20, np.random.default_rng(0))
    return np.array([(labels[batch] >= 0).sum() for batch in batches])


def test_a_batch_holds_the_share_of_labelled_images_that_was_asked_for() -> None:
    assert (mixed(0.5, labelled=4) == 8).all()
    assert (mixed(1.0, labelled=4) == 16).all()


def test_batches_stay_as_they_were_where_no_share_is_needed_or_possible() -> None:
    plain = list(shuffled_batches(np.arange(64), 16, 20, np.random.default_rng(0)))
    for share, labelled in ((0.0, 4), (0.5, 0), (0.5, 64), (0.25, 32)):
        labels = np.where(np.arange(64) < labelled, 0, -1)
        config = TrainingConfig(batch_size=16, labelled_share=share)
        found = mixed_batches(np.arange(64), labels, config, 20, np.random.default_rng(0))
        assert all((a == b).all() for a, b in zip(found, plain, strict=True))
