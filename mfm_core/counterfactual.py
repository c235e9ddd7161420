"""The smallest change that turns the answer: a minimum-change counterfactual.

With a linear head the latent move of least Mahalanobis length that reaches a wanted logit t is
dz = S w (t - f) / (w' S w), S the within-class covariance (design section 9; Haufe et al., 2014:
S w is the *pattern* that goes with the answer in the data and may be shown; w is the filter and
may not). The log odds f of a softmax class against all others are not linear, so the closed form
is repeated about the point reached so far,

    dz <- S g (t - f(z + dz) + g' dz) / (g' S g),   g = grad f(z + dz),

as the step of a sequential quadratic programme: with a line search (SLSQP, Kraft, 1988), because
undamped (Hasofer and Lind, 1974) it can swing between two rivals for ever. Towards the target the
set {f >= t} is convex and there is one smallest move. Away from it there may be one per other
class: each of them is started from and the shortest end is taken. f depends on the logits alone,
so everything is done in K numbers y: the logits move by R y, R R' = W S W', and |y| is the length.

Wanted is the turned answer: with p the probability that was asked for, t = logit(p) where the
target is the less probable side (f <= 0), else t = -logit(p).
What crosses the hospital's boundary: nothing; frames are pictures of a patient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from mfm_core.atlas import Atlas
from mfm_core.autoencoder import Autoencoder
from mfm_core.devices import to_array
from mfm_core.errors import DataError
from mfm_core.latent_path import Way, draw_way
from mfm_core.question import Asked, Explanation, Question, Sides, ask
from mfm_core.sums import Array
from mfm_core.sweep import Pixels

STEPS = 10
"""Steps from the image to the end of the way."""

ITERATIONS = 200
TOLERANCE = 1e-6
"""Largest distance from the wanted log odds at the end."""


@dataclass(frozen=True)
class Move:
    """A way through latent space that turns the answer.

    Attributes:
        change: `[L] float64`, dz.
        length: Mahalanobis length sqrt(dz' S^-1 dz).
        wanted: log odds of the target at the end.
        start: log odds of the target at the image.
    """

    change: Array
    length: float
    wanted: float
    start: float


def counterfactual(
    model: Autoencoder, atlas: Atlas, image: Pixels, question: Question
) -> Explanation:
    """Return the smallest move that turns the answer, in ten steps from the image to its end.

    alpha = 1 (or -1, where the image is read as the target and moves away from it) is the end;
    the saliency is the size of the change there. `question.alphas` are not used.

    Raises:
        CheckpointError: the atlas belongs to another encoder.
        DataError: the question does not fit, or the head does not answer to any move.
    """
    asked = ask(model, atlas, image, question)
    move = smallest_move(atlas, asked)
    towards = 1.0 if move.wanted > move.start else -1.0
    alphas = np.sort(towards * np.arange(STEPS + 1) / STEPS)
    alphas[alphas == 0] = 0.0  # no negative zero
    sweep = draw_way(model, atlas, asked, Way(alphas, towards * move.change))
    end = sweep.images[-1 if towards > 0 else 0]
    figures = {
        "mahalanobis": move.length,
        "log_odds": move.start,
        "wanted_log_odds": move.wanted,
    }
    saliency = np.abs((end - sweep.reconstruction).mean(axis=0))
    return Explanation("counterfactual", question, image, saliency, sweep, figures)


def smallest_move(atlas: Atlas, asked: Asked) -> Move:
    """Return the shortest move, by Mahalanobis length, that gives the turned answer.

    Raises:
        DataError: no move changes the answer, as with a head that was never fitted.
    """
    sides = asked.sides
    weight = sides.head.weight.astype(np.float64)
    pattern = atlas.covariance @ weight.T
    root, back = _roots(weight @ pattern)
    at: Array = sides.head.logits(to_array(asked.latent))[0]
    start, _ = _odds(at, sides)
    sure = math.log(asked.question.probability / (1 - asked.question.probability))
    goal = sure if start <= 0 else -sure
    ends = [_solve(root, at, sides, goal, first) for first in _starts(root, at, sides, goal)]
    good = [end for end in ends if abs(_odds(at + root @ end, sides)[0] - goal) <= TOLERANCE]
    if not good:
        problem = "no move along the patients' own differences turns the answer of this head"
        raise DataError("explanation", [f"{problem}; ask with another class or a fitted head"])
    lengths = [float(np.linalg.norm(end)) for end in good]
    best = int(np.argmin(lengths))
    return Move(pattern @ (back @ good[best]), lengths[best], goal, start)


def _roots(gram: Array) -> tuple[Array, Array]:
    """Return R `[K, r]` with R R' = gram, and B `[K, r]` with gram B = R, without null space."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > max(float(values[-1]), 0.0) * 1e-12
    size = np.sqrt(values[kept])
    return vectors[:, kept] * size, vectors[:, kept] / size


def _odds(logits: Array, sides: Sides) -> tuple[float, Array]:
    """Return the log odds of the target and their gradient `[K]` in the logits."""
    gradient = np.zeros(len(logits))
    rivals = [sides.rival] if sides.rival is not None else _others(sides)
    gradient[rivals] = -softmax(logits[rivals])
    gradient[sides.label] = 1.0
    return float(logits[sides.label] - logsumexp(logits[rivals])), gradient


def _others(sides: Sides) -> list[int]:
    return [column for column in range(len(sides.names)) if column != sides.label]


def _starts(root: Array, at: Array, sides: Sides, goal: float) -> list[Array]:
    """Return where to begin `[r]`: at the image, or, going away, level with each other class."""
    if goal > 0 or sides.rival is not None:
        return [np.zeros(root.shape[1])]
    starts = []
    for other in _others(sides):
        pull = root[sides.label] - root[other]
        gap = goal - (at[sides.label] - at[other])
        starts.append(pull * gap / max(float(pull @ pull), np.finfo(np.float64).tiny))
    return starts


def _solve(root: Array, at: Array, sides: Sides, goal: float, first: Array) -> Array:
    """Return y `[r]` of least length, near `first`, at which the log odds are `goal`."""
    reach = {
        "type": "eq",
        "fun": lambda y: _odds(at + root @ y, sides)[0] - goal,
        "jac": lambda y: _odds(at + root @ y, sides)[1] @ root,
    }
    found = minimize(
        lambda y: 0.5 * (y @ y),
        first,
        jac=lambda y: y,
        constraints=[reach],
        method="SLSQP",
        options={"maxiter": ITERATIONS, "ftol": 1e-9},
    )
    end: Array = found.x
    return end
