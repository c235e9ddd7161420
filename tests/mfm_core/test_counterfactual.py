from dataclasses import replace

import numpy as np
import pytest
import torch

from mfm_core.counterfactual import counterfactual, smallest_move
from mfm_core.errors import DataError
from mfm_core.head import Head
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


def shortest_found(world, asked, move, rng):
    """Return the shortest of many other moves to the same odds, over the move's own length.

    Directions are drawn about the move and at random, half of them from the patterns of the
    logits, the only ones that can be better; each is followed until the odds are the same.
    """
    root = np.linalg.cholesky(world.atlas.covariance)
    patterns = world.atlas.covariance @ asked.sides.head.weight.T.astype(float)
    factors, lengths = np.linspace(0.0, 3.0, 3001), []
    for turn, nearness in enumerate((0.01, 0.03, 0.1, 0.3, 1.0, 3.0) * 24):
        noise = root @ rng.normal(size=len(root))
        if turn % 2:
            noise = patterns @ rng.normal(size=patterns.shape[1])
        direction = move.change + nearness * noise * move.length / length_of(world, noise)
        odds = odds_along(asked, direction, factors)
        crossed = np.flatnonzero(np.diff(np.sign(odds - move.wanted)))
        if crossed.size:
            lengths.append(factors[crossed[0] + 1] * length_of(world, direction))
    assert len(lengths) >= 60
    return min(lengths) / move.length


@pytest.mark.parametrize(("label", "target"), PAIRS)
def test_no_shorter_move_reaches_the_same_odds(label, target):
    world = blob_world()
    asked = ask(world.model, world.atlas, world.image(world.first(label)), Question(target))
    move = smallest_move(world.atlas, asked)
    assert move.length == pytest.approx(length_of(world, move.change), rel=1e-3)
    assert shortest_found(world, asked, move, np.random.default_rng(label)) >= 1 - 1e-5


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("loud", [0.05, 1.0, 30.0])
def test_it_is_the_shortest_among_many_rivals_of_any_loudness(seed, loud):
    """Heads of eight classes drawn at random, from timid to far too sure of themselves."""
    world, rng = blob_world(), np.random.default_rng(seed)
    asked = ask(world.model, world.atlas, world.image(seed), Question("clear"))
    weight = rng.normal(size=(8, asked.latent.shape[1])) * rng.uniform(0.3, 3, (8, 1))
    head = Head((loud * weight / 10).astype(np.float32), rng.normal(size=8).astype(np.float32))
    sides = replace(asked.sides, names=tuple("abcdefgh"), label=seed, head=head)
    asked = replace(asked, sides=sides)
    move = smallest_move(world.atlas, asked)
    assert odds_along(asked, move.change, np.ones(1))[0] == pytest.approx(move.wanted, abs=1e-4)
    assert shortest_found(world, asked, move, rng) >= 1 - 1e-5
    slope = head.weight.astype(float)
    end = torch.from_numpy(head.logits(asked.latent.numpy()) + slope @ move.change)
    (gradient,) = torch.autograd.grad(sides.score(end.requires_grad_()).sum(), end)
    pattern = world.atlas.covariance @ slope.T @ gradient[0].numpy()
    likeness = pattern @ move.change / np.linalg.norm(pattern) / np.linalg.norm(move.change)
    assert abs(likeness) > 1 - 1e-6  # the first-order condition of the shortest move


def test_the_pattern_is_shown_and_not_the_filter():
    world = blob_world()
    asked = ask(world.model, world.atlas, world.image(0), Question("left blob", "clear"))
    change = smallest_move(world.atlas, asked).change
    weight = asked.sides.head.weight[1].astype(float) - asked.sides.head.weight[0]
    scaled = change / np.linalg.norm(change)
    pattern = world.atlas.covariance @ weight
    assert abs(scaled @ pattern) / np.linalg.norm(pattern) == pytest.approx(1.0)
    assert abs(scaled @ weight) / np.linalg.norm(weight) < 0.999


def test_a_head_that_answers_to_nothing_is_refused():
    world = blob_world.__wrapped__()
    with torch.no_grad():
        world.model.head.weight.zero_()
        world.model.head.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    with pytest.raises(DataError, match="no move"):
        counterfactual(world.model, world.atlas, world.image(0), Question("clear"))


def test_the_saliency_is_the_change_at_the_end():
    world = blob_world()
    image = world.image(world.first(0))
    found = counterfactual(world.model, world.atlas, image, Question("left blob"))
    change = np.abs(found.sweep.images[-1, 0] - found.sweep.images[0, 0])
    assert np.array_equal(found.saliency, change) and found.saliency.dtype == np.float32
    assert found.figures["mahalanobis"] > 0


def test_going_away_finds_the_nearest_of_the_other_classes():
    """Two rivals at unlike distances: the shortest way out is towards the nearer one."""
    world = blob_world()
    asked = ask(world.model, world.atlas, world.image(0), Question("clear"))
    size = asked.latent.shape[1]
    weight = np.zeros((3, size), dtype=np.float32)
    weight[1, 0], weight[2, 1] = 1.0, 1.0
    head = Head(weight, np.array([9, 0, 0], dtype=np.float32))
    covariance = np.eye(size)
    covariance[1, 1] = 4.0
    sides = replace(asked.sides, head=head)
    flat = replace(asked, latent=torch.zeros(1, size), sides=sides)
    move = smallest_move(replace(world.atlas, covariance=covariance), flat)
    assert move.change[1] > 9
    assert abs(move.change[0]) < 1
