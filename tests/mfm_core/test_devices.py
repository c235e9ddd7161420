"""The device is where the weights are: nothing in a pass, a step or a picture names one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mfm_core import question
from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.checkpoint import encoder_hash, flat_weights, load_flat_weights, weights_hash
from mfm_core.config import ImageConfig
from mfm_core.devices import (
    arithmetic,
    check_precision,
    choose_device,
    device_of,
    has_bfloat16,
    normal_like,
    rounding,
    to_array,
)
from mfm_core.errors import ConfigError
from mfm_core.explanation import METHODS, Question
from mfm_core.gradient_inversion import gradient_of
from mfm_core.inference import infer
from mfm_core.patches import patch_moments, start_linear_path
from mfm_core.private_training import PrivateStep, train_privately
from mfm_core.public_basis import public_basis
from mfm_core.reconstruction import reconstruct
from mfm_core.training import train
from tests.mfm_core.pretend_card import CARD, model_on_card, pretend_card
from tests.mfm_core.test_training import CONFIG, LEARNING, SCHEDULE, image_set, start
from tests.mfm_core.view_world import lively_world

SMALL = ImageConfig(size_px=32)
NO_CARD = "torch.cuda.is_available"


def test_a_card_that_is_not_there_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NO_CARD, lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"sees no card; check the driver.*set device: cpu"):
        choose_device("cuda")
    monkeypatch.setattr("torch.version.cuda", None)
    with pytest.raises(ConfigError, match="has no CUDA; install"):
        choose_device("cuda")
    with pytest.raises(ConfigError, match="'gpu' is no device; write auto, cpu or cuda"):
        choose_device("gpu")  # type: ignore[arg-type]


def test_auto_takes_the_card_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NO_CARD, lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 0)
    assert choose_device("cpu") == torch.device("cpu")


def test_a_precision_that_the_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    here = torch.device("cpu")
    check_precision(here, "float32")
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    for wanted, words in (("tf32", "for graphics cards"), ("bf16", "no instructions for it")):
        with pytest.raises(ConfigError, match=words):
            check_precision(here, wanted)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="set precision: float32"), arithmetic(here, wanted):  # type: ignore[arg-type]
            pass
    with pytest.raises(ConfigError, match="'half' is no precision"):
        check_precision(here, "half")  # type: ignore[arg-type]
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
    check_precision(here, "bf16")


def test_the_flags_of_a_card_are_put_back() -> None:
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn
    flags = lambda: (matmul.allow_tf32, conv.allow_tf32, conv.deterministic)  # noqa: E731
    before = flags()
    with pytest.raises(KeyError), arithmetic(torch.device("cuda", 0), "tf32"):
        assert flags() == (True, True, True)
        raise KeyError
    assert flags() == before
    with arithmetic(torch.device("cuda", 0), "float32"):
        assert flags() == (False, False, True)
    assert flags() == before


def test_bfloat16_rounds_the_products_and_nothing_else() -> None:
    model, images = start(image_set()), image_set()
    batch, here = images.batch(np.arange(8)), torch.device("cpu")
    exact = model(batch)
    with rounding(here, "bf16"):
        rounded = model(batch)
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.float32
        assert (one - other).abs().max() < 0.1 * one.abs().max().clamp_min(1)
    assert not torch.equal(exact.mu, rounded.mu)
    with rounding(here, "float32"):
        assert all(torch.equal(a, b) for a, b in zip(exact, model(batch), strict=True))
    rounded.reconstruction.sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())


def test_a_processor_learns_in_bfloat16_what_it_learns_in_float32() -> None:
    if not has_bfloat16(torch.device("cpu")):
        pytest.skip("this processor has no bfloat16 instructions")
    images = image_set()
    one, two = start(images), start(images)
    given = {"schedule": SCHEDULE, "steps": 20, "seed": 5}
    exact = train(one, images, np.arange(24), LEARNING, **given)  # type: ignore[arg-type]
    found = train(two, images, np.arange(24), LEARNING, precision="bf16", **given)  # type: ignore[arg-type]
    assert found == pytest.approx(exact, rel=0.03, abs=0.003) and found != exact
    assert {p.dtype for p in two.parameters()} == {torch.float32}
    mu = infer(two, images, np.arange(24)).mu
    assert np.corrcoef(mu.ravel(), infer(one, images, np.arange(24)).mu.ravel())[0, 1] > 0.99


def test_draws_come_from_the_processor_and_are_the_same_bits() -> None:
    one, two = (torch.Generator().manual_seed(3) for _ in range(2))
    expected = torch.empty(4, 5).normal_(generator=one)
    assert torch.equal(normal_like(torch.zeros(4, 5), two), expected)
    assert torch.equal(one.get_state(), two.get_state())


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_training_keeps_to_the_card(monkeypatch: pytest.MonkeyPatch, stage: int) -> None:
    images = image_set()
    patients = replace(images, patients=images.patients // 2)
    rows = np.arange(len(images))
    with pretend_card(monkeypatch):
        model = model_on_card(CONFIG, SMALL, 2)
        given = {"schedule": SCHEDULE, "steps": 1, "attention_stage": stage, "proximal_mu": 0.1}
        train(model, images, rows, LEARNING, seed=5, **given)  # type: ignore[arg-type]
        assert {parameter.device for parameter in model.parameters()} == {CARD}
        for trainable in ("all", "head") if stage == 0 else ("all",):
            privacy = PrivateStep(1.0, 1.0, 0.5, "patient")
            more = {"seed": 4, "privacy": privacy, "trainable": trainable}
            train_privately(model, patients, rows, LEARNING, **given, **more)  # type: ignore[arg-type]
        assert {parameter.device for parameter in model.parameters()} == {CARD}


@pytest.mark.parametrize("channels", [1, 3])
def test_passes_and_weights_keep_to_the_card(
    monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    images = image_set()
    images = replace(images, images=np.repeat(images.images, channels, axis=1))
    rows = np.arange(len(images))
    shape = ImageConfig(size_px=32, channels=channels)
    moments = patch_moments(images, rows, CONFIG)
    flat = flat_weights(build_autoencoder(CONFIG, shape, 2, 0))
    with pretend_card(monkeypatch):
        model = model_on_card(CONFIG, shape, 2)
        load_flat_weights(model, flat)
        assert len(flat_weights(model)) == len(flat)
        assert len(weights_hash(model)) == len(encoder_hash(model)) == 64
        assert isinstance(infer(model, images, rows).mu, np.ndarray)
        assert isinstance(reconstruct(model, images, rows, 0)[0].reconstruction, np.ndarray)
        batch = images.batch(rows[:2], CARD)
        seen = gradient_of(model, batch[:1], 0, LEARNING.objective)
        assert {part.device for part in seen.values()} == {CARD}
        start_linear_path(model, moments)
        public_basis(model, 4, 0)
        assert {parameter.device for parameter in model.parameters()} == {CARD}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_explanations_keep_to_the_card(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    world = lively_world()
    image = world.image(3)
    monkeypatch.setattr(question, "check_encoder", lambda *_: None)
    with pretend_card(monkeypatch):
        model = _copy_on_card(world.model)
        found = METHODS[method](model, world.atlas, image, Question("left blob"))
        assert isinstance(found.saliency, np.ndarray)
        if found.sweep is not None:
            assert isinstance(found.sweep.images, np.ndarray)


def _copy_on_card(model: Autoencoder) -> Autoencoder:
    return model_on_card(model.model_config, model.image_config, model.head.out_features).eval()


def test_the_pretend_card_refuses_what_a_card_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    with pretend_card(monkeypatch):
        there = torch.zeros(3, device=CARD)
        for wrong in (
            lambda: there + torch.ones(3),
            lambda: torch.empty(3, device=CARD).normal_(generator=generator),
            lambda: there[torch.arange(2)],
        ):
            with pytest.raises(AssertionError):
                wrong()
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()
        assert to_array(there + torch.tensor(2.0)).shape == (3,)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_a_card_learns_what_the_processor_learns(precision: str) -> None:
    images, device = image_set(), choose_device("cuda")
    here, there = start(images), start(images).to(device)
    given = {"schedule": SCHEDULE, "steps": 3, "seed": 5}
    one = train(here, images, np.arange(24), LEARNING, **given)  # type: ignore[arg-type]
    two = train(there, images, np.arange(24), LEARNING, precision=precision, **given)  # type: ignore[arg-type]
    assert device_of(there).type == "cuda"
    assert two == pytest.approx(one, rel=1e-3 if precision == "float32" else 0.1, abs=1e-3)
    mu = infer(there, images, np.arange(24)).mu
    assert np.corrcoef(mu.ravel(), infer(here, images, np.arange(24)).mu.ravel())[0, 1] > 0.99


@pytest.mark.gpu
def test_a_card_takes_the_private_steps_of_the_processor() -> None:
    images, device = image_set(), choose_device("cuda")
    here, there = start(images), start(images).to(device)
    for model in (here, there):
        train_privately(
            model,
            images,
            np.arange(24),
            LEARNING,
            schedule=SCHEDULE,
            steps=2,
            seed=5,
            privacy=PrivateStep(1.0, 0.1, 0.5, "image"),
        )
    gap = np.abs(flat_weights(here) - flat_weights(there))
    assert np.quantile(gap, 0.99) < 1e-4
