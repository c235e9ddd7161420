import numpy as np
import pytest
import torch

from mfm_core.errors import DataError
from mfm_core.latent_gradient import latent_gradient, score_gradient
from mfm_core.question import Question, ask
from tests.mfm_core.view_world import lively_world, view_world


def score_at(world, asked, latent):
    with torch.no_grad():
        frame = world.model.decode(latent).clamp(0, 1)
        mu, _ = world.model.encode(frame)
        return asked.sides.score(asked.sides.judge(mu).double()).item()


@pytest.mark.parametrize(("make", "outside"), [(view_world, 0.0), (lively_world, 0.05)])
@pytest.mark.parametrize("question", [Question("left blob"), Question("clear", "right blob")])
def test_the_gradient_agrees_with_finite_differences(make, outside, question):
    """Units drawn at random also draw pixels outside [0, 1], whose gradient has to be zero."""
    world = make()
    asked = ask(world.model, world.atlas, world.image(world.first(1)), question)
    with torch.no_grad():
        frame = world.model.decode(asked.latent)
    assert ((frame <= 0) | (frame >= 1)).float().mean().item() >= outside
    start, gradient = score_gradient(world.model, asked)
    assert start == pytest.approx(score_at(world, asked, asked.latent), rel=1e-3, abs=1e-4)
    rng = np.random.default_rng(0)
    unit = gradient / np.linalg.norm(gradient)
    for _ in range(6):
        direction = unit + rng.normal(size=len(unit)) / np.sqrt(len(unit))
        step = torch.from_numpy(0.01 * direction.astype(np.float32))
        ahead = score_at(world, asked, asked.latent + step)
        behind = score_at(world, asked, asked.latent - step)
        assert (ahead - behind) / 0.02 == pytest.approx(gradient @ direction, rel=0.03)


@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("target", ["clear", "left blob"])
def test_the_searched_step_turns_the_redrawn_answer(label, target):
    world = view_world()
    found = latent_gradient(
        world.model, world.atlas, world.image(world.first(label)), Question(target)
    )
    sweep, figures = found.sweep, found.figures
    was_target = figures["log_odds"] > 0
    end = int(np.flatnonzero(sweep.alphas == (-1.0 if was_target else 1.0))[0])
    chance = sweep.probabilities_reencoded[end, sweep.target_index]
    assert chance <= 0.1 + 1e-6 if was_target else chance >= 0.9 - 1e-6
    assert sweep.log_odds[end] == pytest.approx(figures["reached_log_odds"], abs=1e-2)
    assert sweep.score.spearman > 0.95 and figures["lambda"] > 0
    change = np.abs(sweep.images[end, 0] - sweep.reconstruction[0])
    assert np.allclose(found.saliency, change)


def test_the_search_stops_short_of_twice_what_is_needed():
    world = view_world()
    asked_for = Question("left blob", alphas=(1.0,))
    image = world.image(world.first(0))
    figures = latent_gradient(world.model, world.atlas, image, asked_for).figures
    overshoot = (figures["reached_log_odds"] - figures["log_odds"]) / (
        figures["wanted_log_odds"] - figures["log_odds"]
    )
    assert 1 <= overshoot < 1.3


def test_an_answer_that_cannot_be_turned_takes_the_nearest(monkeypatch):
    """Frames that fade to grey far out never reach the wanted odds."""
    world = view_world()
    decode = world.model.decode
    monkeypatch.setattr(world.model, "decode", lambda z: 0.5 + (decode(z) - 0.5) * 0.005)
    image = world.image(world.first(0))
    question = Question("left blob", probability=0.999)
    figures = latent_gradient(world.model, world.atlas, image, question).figures
    assert figures["log_odds"] < figures["reached_log_odds"] < figures["wanted_log_odds"]


def test_a_drawing_that_says_nothing_is_refused(monkeypatch):
    world = view_world()
    blank = torch.full((1, 1, 32, 32), 0.5)
    monkeypatch.setattr(
        world.model, "decode", lambda z: blank.expand(len(z), -1, -1, -1) + 0 * z.sum()
    )
    with pytest.raises(DataError, match="trained model"):
        latent_gradient(world.model, world.atlas, world.image(0), Question("clear"))
