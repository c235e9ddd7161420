import numpy as np
import pytest
import torch

from mfm_core.counterfactual import counterfactual, smallest_move
from mfm_core.question import Question, ask
from tests.mfm_core.blob_world import CLASSES, blob_world

PAIRS = [(label, target) for label in range(3) for target in CLASSES]


def odds_along(asked, change, factors):
    """Return the log odds at z + factor * change, for all factors."""
    logits = asked.sides.head.logits(asked.latent.numpy())[0]
    slope = asked.sides.head.weight.astype(float) @ change
    return asked.sides.score(torch.from_numpy(logits + factors[:, None] * slope)).numpy()


def length_of(world, change):
    return float(np.sqrt(change @ np.linalg.solve(world.atlas.covariance, change)))


@pytest.mark.parametrize(("label", "target"), PAIRS)
@pytest.mark.parametrize("probability", [0.5, 0.9, 0.999])
def test_the_end_reaches_the_wanted_probability(label, target, probability):
    world = blob_world()
    image = world.image(world.first(label))
    found = counterfactual(
        world.model, world.atlas, image, Question(target, probability=probability)
    )
    sweep = found.sweep
    start, end = sweep.zero, 0 if sweep.zero else -1
    read_as_target = sweep.probabilities_direct[start, sweep.target_index] > 0.5
    wanted = 1 - probability if read_as_target else probability
    reached = sweep.probabilities_direct[end, sweep.target_index]
    assert reached == pytest.approx(wanted, abs=1e-3)
    assert read_as_target == (sweep.alphas[end] == -1.0)
    assert len(sweep.alphas) == 11


def test_the_probability_against_one_class_is_of_the_two():
    world = blob_world()
    image = world.image(world.first(1))
    question = Question("right blob", "left blob", probability=0.8)
    last = counterfactual(world.model, world.atlas, image, question).sweep.probabilities_direct[-1]
    assert last[2] / (last[1] + last[2]) == pytest.approx(0.8, abs=1e-3)


def test_against_one_class_it_is_the_closed_form():
    world = blob_world()
    asked = ask(world.model, world.atlas, world.image(0), Question("left blob", "clear"))
    move = smallest_move(world.atlas, asked)
    weight = asked.sides.head.weight[1].astype(float) - asked.sides.head.weight[0]
    pattern = world.atlas.covariance @ weight
    closed = pattern * (move.wanted - move.start) / (weight @ pattern)
    assert np.allclose(move.change, closed, rtol=1e-6, atol=1e-9)
    assert move.length == pytest.approx(length_of(world, closed), rel=1e-4)


@pytest.mark.parametrize(("label", "target"), PAIRS)
def test_no_shorter_move_reaches_the_same_odds(label, target):
    """Directions drawn about the move and at random, each scaled until the odds are the same."""
    world = blob_world()
    asked = ask(world.model, world.atlas, world.image(world.first(label)), Question(target))
    move = smallest_move(world.atlas, asked)
    rng = np.random.default_rng(0)
    root = np.linalg.cholesky(world.atlas.covariance)
    shortest, compared, factors = np.inf, 0, np.linspace(0.0, 3.0, 3001)
    for nearness in (0.0, 0.03, 0.3, 1.0, 3.0) * 30:
        noise = root @ rng.normal(size=len(root))
        direction = move.change + nearness * noise * move.length / length_of(world, noise)
        odds = odds_along(asked, direction, factors)
        crossed = np.flatnonzero(np.diff(np.sign(odds - move.wanted)))
        if not crossed.size:
            continue
        compared += 1
        first = factors[crossed[0]] * length_of(world, direction)
        shortest = min(shortest, first)
    assert compared >= 80
    assert shortest >= move.length * (1 - 2e-3)
