"""Private training: bounded by unit, noisy as promised, and the plain step where both are off."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from mfm_core import grad_samplers, image_gradients, private_training
from mfm_core.augmentation import augment
from mfm_core.autoencoder import Autoencoder, Output
from mfm_core.chance import Chance
from mfm_core.checkpoint import encoder_hash, flat_weights
from mfm_core.config import LearningConfig, ObjectiveConfig, TrainingConfig
from mfm_core.dataset import ImageSet
from mfm_core.errors import DataError
from mfm_core.grad_samplers import Tape
from mfm_core.objective import TERM_NAMES, objective
from mfm_core.optimiser import FlatOptimiser
from mfm_core.private_objective import losses_per_image
from mfm_core.private_training import (
    MOST_AT_ONCE,
    MOST_IMAGES_OF_A_PATIENT,
    NoisyMean,
    PrivateStep,
    _add_pass,
    _draw_units,
    _Lesson,
    group_units,
    passes,
    train_privately,
)
from mfm_core.training import Schedule, ema_decay, learning_rate
from tests.mfm_core.test_training import image_set, start

SCHEDULE = Schedule(0, 100)
LEARNING = LearningConfig(training=TrainingConfig(warmup_steps=0))
NO_CYCLE = LEARNING.model_copy(update={"objective": ObjectiveConfig(cycle_weight=0.0)})
FREE = PrivateStep(0.0, 1e9, 1.0, "image")


def several_a_patient(count: int = 24) -> ImageSet:
    images = image_set(count)
    patients = np.array([0, 0, 0, 1, 1, 2] * (count // 6)) + 3 * (np.arange(count) // 6)
    return ImageSet(images.images, images.labels, images.attributes, patients, images.splits)


def teach(
    model: Autoencoder, images: ImageSet, privacy: PrivateStep, **more: object
) -> dict[str, float]:
    given: dict[str, object] = {"schedule": SCHEDULE, "steps": 2, "seed": 5, **more}
    learning = given.pop("learning", LEARNING)
    rows = given.pop("rows", np.arange(len(images)))
    return train_privately(model, images, rows, learning, privacy=privacy, **given)  # type: ignore[arg-type]


def summed(
    model: Autoencoder, images: ImageSet, rows: np.ndarray, clip: float, unit: str
) -> torch.Tensor:
    """Return the sum of clipped gradients, flat, with nothing at random and no noise."""
    lesson = _Still(model.train(), images, rows, NO_CYCLE, 0, torch.Generator())
    with FlatOptimiser(model, NO_CYCLE.training, 0.0) as optimiser, Tape(model) as tape:
        optimiser.clear()
        for part, owners in passes(group_units(images, rows, unit)):
            _add_pass(lesson, tape, clip, part, owners)
        return optimiser.gradient.clone()


class _Still(_Lesson):
    """Nothing at random: mu is decoded, images are not changed."""

    def learn(
        self, tape: Tape, chosen: np.ndarray, weights: torch.Tensor, again: int
    ) -> torch.Tensor:
        target, labels = self.images.batch(chosen), torch.from_numpy(self.images.labels[chosen])

        def losses(given: torch.Tensor) -> torch.Tensor:
            output = self.model(given)
            own = (0, tape.spread(self.model.attention_logits))
            nothing = torch.zeros(len(given))
            config = self.learning.objective
            return losses_per_image(output, target, labels, config, own, nothing)["loss"] * weights

        tape.sample(target, losses)
        return torch.zeros(len(chosen), len(TERM_NAMES))


def test_without_noise_and_clip_it_is_the_plain_step() -> None:
    images = image_set(16)
    private, plain = start(images), start(images)
    teach(private, images, FREE, learning=NO_CYCLE, steps=1)
    draws, rows = Chance(5).draws, np.arange(16)
    torch.rand(16, generator=draws)  # the Poisson sample, which takes all at a rate of 1
    plain.train()
    with FlatOptimiser(plain, NO_CYCLE.training, 0.0) as optimiser:
        changed, target = augment(images.batch(rows), NO_CYCLE.augmentation, draws)
        output: Output = plain(changed, draws)
        terms = objective(
            output,
            target,
            torch.from_numpy(images.labels),
            NO_CYCLE.objective,
            (0, plain.attention_logits),
            torch.zeros(()),
        )
        terms.loss.backward()
        rate = learning_rate(NO_CYCLE.training, SCHEDULE, 0)
        optimiser.step(rate, ema_decay(NO_CYCLE.training.ema_decay, 0))
    gap = np.abs(flat_weights(private) - flat_weights(plain))
    assert np.quantile(gap, 0.999) < 1e-5 * NO_CYCLE.training.learning_rate / 2e-3


def test_the_sum_of_gradients_is_the_plain_one_to_1e_5() -> None:
    images = image_set(16)
    model = start(images)
    found = summed(model, images, np.arange(16), 1e9, "image") / 16
    model.train()
    for p in model.parameters():
        p.grad = None
    output = model(images.batch(np.arange(16)))
    labels, own = torch.from_numpy(images.labels), (0, model.attention_logits)
    config = NO_CYCLE.objective
    objective(
        output, images.batch(np.arange(16)), labels, config, own, torch.zeros(())
    ).loss.backward()
    order = FlatOptimiser(model, NO_CYCLE.training, 0.0).parameters
    expected = torch.cat([p.grad.reshape(-1) for p in order if p.grad is not None])
    assert float((found - expected).norm()) <= 1e-5 * float(expected.norm())


@pytest.mark.parametrize("unit", ["image", "patient"])
def test_no_unit_is_longer_than_the_clip(unit: str) -> None:
    images = several_a_patient()
    model = start(images)
    for rows in group_units(images, np.arange(24), unit):
        for clip in (0.01, 1e-4):
            assert float(summed(model, images, rows, clip, unit).norm()) <= clip


@pytest.mark.parametrize("clip", [0.01, 0.3])
def test_a_patients_removal_moves_the_sum_by_at_most_the_clip(clip: float) -> None:
    images = several_a_patient()
    model, rows = start(images), np.arange(24)
    whole = summed(model, images, rows, clip, "patient")
    for patient in np.unique(images.patients)[:4]:
        without = summed(model, images, rows[images.patients != patient], clip, "patient")
        moved = float((whole - without).norm())
        assert 0 < moved <= clip * (1 + 1e-4)


@pytest.mark.parametrize("which", [2, 3])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_unit_whose_gradient_is_no_number_counts_as_nothing(
    broken: float, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clip would pass it on, and the refused update would tell that this patient is there."""
    images, sample = several_a_patient(), Tape.sample
    model, rows = start(images), np.arange(24)
    expected = summed(model, images, rows[images.patients != 0], 0.01, "patient")

    def spoil(tape: Tape, *given: object) -> None:
        sample(tape, *given)  # type: ignore[arg-type]
        found = tape.gradients.each(tape._learning[which])
        found[1] = broken  # of the first patient, whose images come first

    monkeypatch.setattr(Tape, "sample", spoil)
    found = summed(model, images, rows, 0.01, "patient")
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)


def test_patients_are_clipped_as_wholes_and_images_one_by_one() -> None:
    images, rows = several_a_patient(), np.arange(3)
    model = start(images)
    loose = summed(model, images, rows, 1e9, "patient")
    each = [summed(model, images, rows[i : i + 1], 1e9, "image") for i in range(3)]
    torch.testing.assert_close(loose, sum(each) / 3, atol=1e-6, rtol=1e-4)


def test_units_of_several_images_take_no_inner_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their gradients are formed for the norm; what nobody asks for costs all the same."""
    taken: list[int] = []
    real = image_gradients.inner_products

    def counted(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        taken.append(len(one))
        return real(one, other)

    for module in (image_gradients, grad_samplers):
        monkeypatch.setattr(module, "inner_products", counted)
    images = several_a_patient()
    teach(start(images), images, PrivateStep(1.0, 1.0, 1.0, "patient"), steps=1)
    assert not taken
    teach(start(images), images, PrivateStep(1.0, 1.0, 1.0, "image"), steps=1)
    assert taken


def test_the_noise_has_the_promised_scale() -> None:
    """A rate so small that no unit is drawn: the step is noise alone, 3 % is over 10 sigma."""
    images = image_set(24)
    model = start(images)
    model.attention_logits.requires_grad_(False)
    for seed in (None, 3):
        chance = Chance(seed)
        with FlatOptimiser(model, LEARNING.training, 0.0) as optimiser:
            optimiser.clear()
            private = PrivateStep(1.5, 0.2, 0.5, "image")
            NoisyMean(optimiser.gradient, private, 12.0, chance).apply(optimiser.gradient)
            noise = optimiser.gradient.clone()
        promised = 1.5 * 0.2 / 12.0
        assert len(noise) > 10_000
        assert float(noise.std()) == pytest.approx(promised, rel=0.03)
        assert abs(float(noise.mean())) < 5 * promised / math.sqrt(len(noise))


def test_every_unit_is_drawn_on_its_own_at_the_rate() -> None:
    units = [np.array([index]) for index in range(40)]
    generator = torch.Generator().manual_seed(0)
    taken = np.zeros((500, 40))
    for row in taken:
        row[[int(unit[0]) for unit in _draw_units(units, 0.25, generator)]] = 1
    assert taken.mean() == pytest.approx(0.25, abs=0.02)
    assert taken.sum(axis=1).var() == pytest.approx(40 * 0.25 * 0.75, rel=0.3)
    assert np.abs(np.corrcoef(taken.T) - np.eye(40)).max() < 0.25


def test_a_patient_with_many_images_gives_a_changing_choice_of_them() -> None:
    units, generator = [np.arange(50)], torch.Generator().manual_seed(0)
    first, second = (_draw_units(units, 1.0, generator)[0] for _ in range(2))
    assert len(set(first)) == MOST_IMAGES_OF_A_PATIENT == len(second)
    assert set(first) != set(second)


def test_passes_hold_whole_units() -> None:
    units = [np.arange(start, start + 15) for start in range(0, 150, 15)]
    found = list(passes(units))
    assert all(len(images) <= MOST_AT_ONCE for images, _ in found)
    assert sum(int(owners.max()) + 1 for _, owners in found) == 10
    assert np.array_equal(np.concatenate([images for images, _ in found]), np.arange(150))
    assert list(passes([])) == []


@pytest.mark.parametrize("unit", ["image", "patient"])
def test_several_passes_give_what_one_gives(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = several_a_patient()
    model = start(images)
    whole = summed(model, images, np.arange(24), 0.1, unit)
    monkeypatch.setattr(private_training, "MOST_AT_ONCE", 7)
    torch.testing.assert_close(
        summed(model, images, np.arange(24), 0.1, unit), whole, atol=1e-6, rtol=1e-4
    )


def test_steps_without_any_unit_still_take_noise() -> None:
    images = image_set(4)
    model = start(images)
    before = flat_weights(model)
    terms = teach(model, images, PrivateStep(1.0, 1.0, 1e-9, "image"))
    assert set(terms.values()) == {0.0}
    assert np.isfinite(flat_weights(model)).all() and (flat_weights(model) != before).mean() > 0.5


def test_a_seed_repeats_and_the_operating_system_does_not() -> None:
    images, privacy = several_a_patient(), PrivateStep(1.0, 1.0, 0.5, "patient")
    models = [start(images) for _ in range(4)]
    for model, seed in zip(models, (5, 5, None, None), strict=True):
        teach(model, images, privacy, seed=seed)
    one, two, three, four = (encoder_hash(model) for model in models)
    assert one == two and len({one, three, four}) == 3
    assert copy.deepcopy(models[0]) is not None and not models[0].training


def test_the_head_alone_learns_and_leaves_the_rest() -> None:
    images = image_set()
    model = start(images)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    privacy = PrivateStep(0.1, 1.0, 0.5, "image")
    teach(model, images, privacy, trainable="head", steps=15)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"head.weight", "head.bias"}
    free = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert free == {"attention_logits"}


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_attention_moves_in_stage_one_only(stage: int) -> None:
    images = image_set(8)
    model = start(images)
    terms = teach(model, images, FREE, attention_stage=stage, proximal_mu=0.1)
    assert bool(model.attention_logits.any()) == (stage == 1)
    assert terms["proximal"] > 0 and not model.attention_logits.requires_grad


def test_wrong_settings_are_refused() -> None:
    images = image_set(4)
    model = start(images)
    with pytest.raises(ValueError, match=r"noise_multiplier.*max_grad_norm.*sample_rate.*unit"):
        PrivateStep(-1.0, 0.0, 1.5, "site")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no image"):
        teach(model, images, FREE, rows=np.arange(0))
    with pytest.raises(ValueError, match="attention_stage"):
        teach(model, images, FREE, attention_stage=3)
    with pytest.raises(ValueError, match="attention_stage"):
        teach(model, images, FREE, attention_stage=1, trainable="head")


@pytest.mark.slow
def test_it_learns_at_a_large_epsilon() -> None:
    images = image_set(96)
    model = start(images)
    privacy = PrivateStep(0.3, 1.0, 0.3, "patient")
    first = teach(model, images, privacy, steps=5)
    for call in range(1, 8):
        last = teach(model, images, privacy, steps=20, seed=call)
    assert last["classification"] < 0.8 * first["classification"]
