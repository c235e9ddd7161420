from dataclasses import replace

import numpy as np
import pytest
import torch

from mfm_core.autoencoder import build_autoencoder
from mfm_core.checkpoint import encoder_hash
from mfm_core.config import ImageConfig, ModelConfig
from mfm_core.errors import CheckpointError, DataError
from mfm_core.explanation import (
    ALPHAS,
    METHODS,
    Question,
    class_shift,
    decode_class_means,
)
from tests.mfm_core.blob_world import SIDE, blob_world
from tests.mfm_core.view_world import lively_world, view_world

QUESTIONS = [
    Question("left blob"),
    Question("left blob", "right blob"),
    Question(attribute="view", value="PA"),
    Question(attribute="site", value="west"),
]


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_answers_every_question_in_the_same_form(method, question):
    world = lively_world()
    image, before = world.image(world.first(0)), encoder_hash(world.model)
    world.model.train()
    found = METHODS[method](world.model, world.atlas, image, question)
    again = METHODS[method](world.model, world.atlas, image, question)
    assert world.model.training and encoder_hash(world.model) == before
    world.model.eval()
    assert all(weight.grad is None for weight in world.model.parameters())
    assert found.method == method and found.question is question
    assert np.array_equal(found.image, image)
    assert found.saliency.shape == (SIDE, SIDE) and found.saliency.dtype == np.float32
    assert np.isfinite(found.saliency).all() and found.saliency.min() >= 0 < found.saliency.max()
    assert np.array_equal(found.saliency, again.saliency)
    assert all(np.isfinite(value) for value in found.figures.values())
    assert (found.sweep is not None) == (method not in ("grad_cam", "integrated_gradients"))
    if found.sweep is not None:
        assert np.array_equal(found.sweep.original, image)
        assert len(found.sweep.supported) == len(found.sweep.alphas) == len(found.sweep.images)
        assert np.allclose(found.sweep.reconstruction, found.sweep.images[found.sweep.zero])


@pytest.mark.parametrize("method", METHODS)
def test_the_map_depends_on_the_odds_alone(method):
    """A number added to every logit changes no probability, so it changes no map."""
    world, image = lively_world(), lively_world().image(3)
    first = METHODS[method](world.model, world.atlas, image, Question("left blob"))
    with torch.no_grad():
        world.model.head.bias += 8.0
    second = METHODS[method](world.model, world.atlas, image, Question("left blob"))
    with torch.no_grad():
        world.model.head.bias -= 8.0
    scale = first.saliency.max()
    assert np.allclose(first.saliency, second.saliency, atol=2e-3 * scale)


@pytest.mark.parametrize("method", METHODS)
def test_colour_images_get_one_map(method):
    shape = ModelConfig(stem=8, widths=(32, 64), depths=(1, 1), latent_channels=8)
    shape = shape.model_copy(update={"linear_path": False})
    model = build_autoencoder(shape, ImageConfig(size_px=32, channels=3), 3, seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():
                weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    rng = np.random.default_rng(0)
    size = model.latent_size
    atlas = replace(
        blob_world().atlas,
        means=rng.normal(size=(3, size)),
        covariance=np.eye(size),
        encoder_hash=encoder_hash(model),
    )
    image = rng.random((3, 32, 32), dtype=np.float32)
    found = METHODS[method](model, atlas, image, Question("clear"))
    assert found.saliency.shape == (32, 32) and found.saliency.max() > 0


@pytest.mark.parametrize("method", METHODS)
def test_every_method_refuses_the_same_questions(method):
    world = lively_world()
    wrong = Question("tumour", alphas=(9.0,), probability=3.0)
    with pytest.raises(DataError) as caught:
        METHODS[method](world.model, world.atlas, world.image(0) * np.nan, wrong)
    assert len(caught.value.problems) == 4
    other = replace(world.atlas, encoder_hash="0" * 64)
    with pytest.raises(CheckpointError, match="same run"):
        METHODS[method](world.model, other, world.image(0), Question("clear"))


def test_an_image_moved_towards_the_other_view_is_read_as_it_and_keeps_its_finding():
    world = view_world()
    rows = world.images.select("test")
    ap = rows[world.images.attributes[rows, 0] == 0][:12]
    question = Question(attribute="view", value="PA")
    assert len(ap) == 12
    for index in ap:
        image = world.image(int(index))
        sweep = METHODS["class_shift"](world.model, world.atlas, image, question).sweep
        bar = sweep.images[:, 0, 2:6].mean(axis=(1, 2))
        assert sweep.says(sweep.zero) == "AP" and sweep.says(len(ALPHAS) - 1) == "PA"
        assert np.all(np.diff(bar) >= 0) and bar[-1] > bar[sweep.zero] + 0.15
        one = int(np.flatnonzero(sweep.alphas == 1.2)[0])
        assert sweep.readings[one].argmax() == sweep.readings[sweep.zero].argmax()


def test_frames_are_the_decoded_latents_of_equation_1():
    world = blob_world()
    image = world.image(world.first(0))
    sweep = class_shift(world.model, world.atlas, image, "left blob")
    with torch.no_grad():
        z, _ = world.model.encode(torch.from_numpy(image)[None])
        axis = torch.from_numpy(world.atlas.class_axis("left blob")).float()
        wanted = world.model.decode(z + 1.2 * axis).clamp(0, 1)[0]
        mu, _ = world.model.encode(wanted[None])
        again = world.model.classify(mu).softmax(dim=1)[0]
    at = int(np.argmin(np.abs(sweep.alphas - 1.2)))
    assert np.allclose(sweep.images[at], wanted.numpy(), atol=1e-5)
    assert np.allclose(sweep.probabilities_reencoded[at], again.numpy(), atol=1e-4)
    assert np.allclose(sweep.original, image)


def test_shapes_ranges_and_zero_is_added():
    world = blob_world()
    image = world.image(world.first(1))
    sweep = class_shift(world.model, world.atlas, image, "clear", alphas=(2.0, -1.0))
    assert sweep.alphas.tolist() == [-1.0, 0.0, 2.0]
    assert sweep.images.shape == (3, 1, SIDE, SIDE)
    assert sweep.images.min() >= 0 and sweep.images.max() <= 1
    assert np.allclose(sweep.probabilities_direct.sum(axis=1), 1)
    assert np.allclose(sweep.probabilities_reencoded.sum(axis=1), 1)


def test_moving_towards_a_class_makes_the_redrawn_image_read_as_it():
    world = blob_world()
    sweep = class_shift(world.model, world.atlas, world.image(world.first(0)), "right blob")
    assert sweep.says(sweep.zero) == "clear"
    assert sweep.says(len(ALPHAS) - 1) == "right blob"
    assert sweep.score.spearman == pytest.approx(1.0)
    assert sweep.score.flip_alpha is not None and sweep.score.flip_alpha > 0


def test_versus_moves_away_from_that_class_alone():
    world = blob_world()
    image = world.image(world.first(1))
    alone = class_shift(world.model, world.atlas, image, "right blob", "left blob")
    left = (slice(None), slice(0, SIDE // 2))
    changed = alone.images[-1, 0] - alone.reconstruction[0]
    assert alone.versus == "left blob"
    assert changed[left].mean() < 0 < changed[:, SIDE // 2 :].mean()


def test_the_direct_curve_is_monotone_even_where_the_drawing_says_nothing(monkeypatch):
    world = blob_world()
    blank = torch.full((1, 1, SIDE, SIDE), 0.5)
    monkeypatch.setattr(world.model, "decode", lambda latent: blank.expand(len(latent), -1, -1, -1))
    sweep = class_shift(world.model, world.atlas, world.image(world.first(0)), "left blob")
    assert np.all(np.diff(sweep.probabilities_direct[:, 1]) > 0)
    assert sweep.score.spearman == 0 and sweep.score.flip_alpha is None


def test_the_model_keeps_its_mode_and_weights():
    world = blob_world()
    before = encoder_hash(world.model)
    world.model.train()
    class_shift(world.model, world.atlas, world.image(0), "clear")
    assert world.model.training and encoder_hash(world.model) == before
    world.model.eval()


def test_an_atlas_of_another_encoder_is_refused():
    world = blob_world()
    other = replace(world.atlas, encoder_hash="0" * 64)
    for ask in (
        lambda: class_shift(world.model, other, world.image(0), "clear"),
        lambda: decode_class_means(world.model, other),
    ):
        with pytest.raises(CheckpointError, match="same run"):
            ask()


def test_all_problems_are_named_at_once():
    world = blob_world()
    wrong = np.zeros((3, 16, 16), dtype=np.float32)
    with pytest.raises(DataError) as caught:
        class_shift(world.model, world.atlas, wrong, "tumour", "cyst", alphas=(9.0,))
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    assert all(word in text for word in ("tumour", "cyst", "left blob", "alpha 9", "(1, 32, 32)"))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda image: image * np.nan, "finite"),
        (lambda image: image * 255, r"\[0, 1\]"),
        (lambda image: image[:, :16], "shape"),
    ],
)
def test_unusable_images_are_refused(change, word):
    world = blob_world()
    with pytest.raises(DataError, match=word):
        class_shift(world.model, world.atlas, change(world.image(0)), "clear")


@pytest.mark.parametrize("alphas", [(float("nan"),), (4.01,), (-5.0, 1.0), (0.0,), ()])
def test_alphas_out_of_range_or_missing_are_refused(alphas):
    world = blob_world()
    with pytest.raises(DataError, match="alpha"):
        class_shift(world.model, world.atlas, world.image(0), "clear", alphas=alphas)


def test_the_same_class_twice_and_a_class_without_images_are_refused():
    world = blob_world(empty_class=True)
    with pytest.raises(DataError, match="two different classes"):
        class_shift(world.model, world.atlas, world.image(0), "clear", "clear")
    with pytest.raises(DataError, match="no images"):
        class_shift(world.model, world.atlas, world.image(0), "never seen")


def test_a_latent_that_is_not_finite_is_refused():
    broken = blob_world.__wrapped__()
    with torch.no_grad():
        for weight in broken.model.parameters():
            weight.fill_(float("nan"))
    atlas = replace(broken.atlas, encoder_hash=encoder_hash(broken.model))
    with pytest.raises(DataError, match="undamaged model"):
        class_shift(broken.model, atlas, broken.image(0), "clear")


def test_decoded_class_means_look_like_their_class():
    world = blob_world(empty_class=True)
    means = decode_class_means(world.model, world.atlas)
    assert means.shape == (4, 1, SIDE, SIDE)
    assert means[1, 0, 16, 8] > means[0, 0, 16, 8] + 0.15
    assert means[2, 0, 16, 24] > means[0, 0, 16, 24] + 0.15
    assert np.isnan(means[3]).all()
