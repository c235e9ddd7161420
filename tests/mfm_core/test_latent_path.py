from dataclasses import replace

import numpy as np
import pytest
import torch

from mfm_core.latent_path import SUPPORT, Way, draw_way, is_supported, with_zero
from mfm_core.question import Question, ask
from tests.mfm_core.view_world import view_world


def asked_and_way(alphas=(-1.0, 0.0, 0.5, 1.0)):
    world = view_world()
    asked = ask(world.model, world.atlas, world.image(world.first(0)), Question("left blob"))
    return world, asked, Way(np.array(alphas), asked.sides.axis)


def test_latents_and_linear_judge_move_in_proportion_to_alpha():
    world, asked, way = asked_and_way()
    sweep = draw_way(world.model, world.atlas, asked, way)
    odds = np.log(sweep.probabilities_direct[:, 1] / sweep.probabilities_direct[:, 0])
    slopes = np.diff(odds) / np.diff(sweep.alphas)
    assert np.allclose(slopes, slopes[0], rtol=1e-3)


def test_a_frame_does_not_depend_on_the_other_frames():
    world, asked, way = asked_and_way()
    many = draw_way(world.model, world.atlas, asked, way)
    few = draw_way(world.model, world.atlas, asked, replace(way, alphas=np.array([0.0, 1.0])))
    assert np.allclose(many.images[[1, 3]], few.images, atol=1e-5)
    assert np.allclose(many.readings[[1, 3]], few.readings, atol=1e-4)


def test_readings_are_the_models_own_answers_also_for_an_attribute():
    world = view_world()
    question = Question(attribute="view", value="PA")
    asked = ask(world.model, world.atlas, world.image(world.first(0)), question)
    sweep = draw_way(world.model, world.atlas, asked, Way(np.array([0.0, 1.0]), asked.sides.axis))
    with torch.no_grad():
        mu, _ = world.model.encode(torch.from_numpy(sweep.images))
        answers = world.model.classify(mu).softmax(dim=1).numpy()
    assert sweep.classes == ("AP", "PA") and sweep.findings == world.ontology.classes
    assert sweep.attribute == "view"
    assert np.allclose(sweep.readings, answers, atol=1e-5)


def test_with_zero_sorts_and_adds_zero_once():
    assert with_zero((2, -1.0, 0, 2.0)).tolist() == [-1.0, 0.0, 2.0]


def test_support_is_the_chi_square_of_one_direction():
    world = view_world()
    covariance = np.diag(np.arange(1.0, world.atlas.latent_size + 1))
    means = np.zeros_like(world.atlas.means)
    means[1, 3] = 100.0
    atlas = replace(world.atlas, covariance=covariance, means=means)
    direction = np.zeros(atlas.latent_size)
    direction[3] = 0.5
    edge = np.sqrt(SUPPORT * covariance[3, 3])
    at = np.zeros((6, atlas.latent_size))
    at[:, 3] = [0.99 * edge, 1.01 * edge, -1.01 * edge, 100 - 0.99 * edge, 100 + 1.01 * edge, 50]
    at[:, 7] = 1e6
    assert is_supported(atlas, at, direction).tolist() == [True, False, False, True, False, False]


def test_support_does_not_depend_on_the_length_of_the_direction():
    world = view_world()
    rng = np.random.default_rng(0)
    at = rng.normal(0, 4, (200, world.atlas.latent_size))
    axis = world.atlas.class_axis("clear")
    first = is_supported(world.atlas, at, axis)
    assert 0 < first.sum() < 200
    assert np.array_equal(first, is_supported(world.atlas, at, 1e-3 * axis))


def test_a_mean_of_a_class_without_patients_supports_nothing():
    world = view_world()
    axis = world.atlas.class_axis("clear", "left blob")
    counts = world.atlas.counts.copy()
    means = world.atlas.means + 0.0
    means[2] = 1e3 * axis
    at = means[2:3]
    assert is_supported(replace(world.atlas, means=means), at, axis).all()
    counts[2] = 0
    assert not is_supported(replace(world.atlas, means=means, counts=counts), at, axis).any()


@pytest.mark.parametrize("alpha", [4.0, -4.0])
def test_images_are_supported_and_long_moves_are_not(alpha):
    world = view_world()
    flags = []
    for index in world.images.select("test")[:30]:
        asked = ask(world.model, world.atlas, world.image(int(index)), Question("left blob"))
        way = Way(np.sort(np.array([0.0, alpha])), asked.sides.axis)
        sweep = draw_way(world.model, world.atlas, asked, way)
        flags.append(sweep.supported[[sweep.zero, 1 - sweep.zero]])
    stay, move = np.mean(flags, axis=0)
    assert stay >= 0.9 and move <= 0.1
