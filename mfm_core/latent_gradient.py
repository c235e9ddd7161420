"""Latent shift: the image moved along the gradient of what the model says to its own drawing.

z + lambda g with g = grad_z f(D(z)) (Cohen et al., 2021, "Gifsplanation via latent shift",
arXiv 2102.09475, section 2), f being the log odds of the target after encoding the drawing again,
so that the direction is asked of decoder and encoder and not of the head alone. As in the paper
lambda is searched: outwards by powers of two until the wanted log odds are reached, then between
the last two. One step of alpha is the lambda that was found, in the direction of the target, so
the answer turns at alpha = 1, or at -1 where it is the target already. Differences from the paper:
the end is a wanted probability, as in `counterfactual`, and not a fixed drop of it; a search that
never gets there takes the step that came nearest.
What crosses the hospital's boundary: nothing; frames are pictures of a patient.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from mfm_core.atlas import Atlas
from mfm_core.autoencoder import Autoencoder
from mfm_core.devices import to_array, to_device
from mfm_core.errors import DataError
from mfm_core.latent_path import Way, draw_way, with_zero
from mfm_core.question import Asked, Explanation, Question, ask, reading
from mfm_core.sums import Array
from mfm_core.sweep import Pixels

OUTWARDS = 2.0 ** np.arange(-3, 8)
"""First lambdas, as multiples of the one that a straight line would need."""

BETWEEN = 8
"""Lambdas tried between the last that fell short and the first that reached."""


def latent_gradient(
    model: Autoencoder, atlas: Atlas, image: Pixels, question: Question
) -> Explanation:
    """Return the image moved along the latent gradient, and its change at the searched end.

    Raises:
        CheckpointError: the atlas belongs to another encoder.
        DataError: the question does not fit, or the gradient is zero.
    """
    asked = ask(model, atlas, image, question)
    start, gradient = score_gradient(model, asked)
    if not np.any(gradient) or not np.isfinite(gradient).all():
        problem = "the model's answer to its own drawing does not change with the latent"
        raise DataError("explanation", [f"{problem}; use a trained model"])
    sure = math.log(question.probability / (1 - question.probability))
    goal = sure if start <= 0 else -sure
    step, reached = _search(model, asked, gradient, (start, goal))
    towards = 1.0 if goal > start else -1.0
    alphas = with_zero((*question.alphas, towards))
    sweep = draw_way(model, atlas, asked, Way(alphas, step * gradient))
    end = sweep.images[int(np.flatnonzero(alphas == towards)[0])]
    figures = {
        "lambda": step,
        "log_odds": start,
        "wanted_log_odds": goal,
        "reached_log_odds": reached,
    }
    saliency = np.abs((end - sweep.reconstruction).mean(axis=0))
    return Explanation("latent_gradient", question, image, saliency, sweep, figures)


def score_gradient(model: Autoencoder, asked: Asked) -> tuple[float, Array]:
    """Return the log odds of the drawing, f(D(z)), and their gradient `[L] float64` in z.

    The decoder's own clamp lets some gradient through where a pixel lies outside [0, 1], for
    training; here such a pixel does not move, so it counts for nothing.
    """
    latent = asked.latent.clone().requires_grad_()
    with reading(model), torch.enable_grad():
        frame = model.decode(latent)
        inside = (frame > 0) & (frame < 1)
        frame = torch.where(inside, frame, frame.detach())
        again, _ = model.encode(frame)
        score = asked.sides.score(asked.sides.judge(again)).sum()
        (gradient,) = torch.autograd.grad(score, latent)
    return float(to_array(score)), to_array(gradient[0].double())


def _search(
    model: Autoencoder, asked: Asked, gradient: Array, odds: tuple[float, float]
) -> tuple[float, float]:
    """Return the lambda > 0 at which the log odds go from start to goal, and what they reach."""
    start, goal = odds
    sign = 1.0 if goal > start else -1.0
    unit = max(abs(goal - start), 1e-3) / float(gradient @ gradient)
    tried = OUTWARDS * unit
    found = _scores(model, asked, sign * tried[:, None] * gradient)
    first = np.flatnonzero(sign * (found - goal) >= 0)
    if first.size:
        low = 0.0 if first[0] == 0 else tried[first[0] - 1]
        tried = np.linspace(low, tried[first[0]], BETWEEN + 1)[1:]
        found = _scores(model, asked, sign * tried[:, None] * gradient)
        first = np.flatnonzero(sign * (found - goal) >= 0)
    best = int(first[0]) if first.size else int((sign * found).argmax())
    return float(tried[best]), float(found[best])


def _scores(model: Autoencoder, asked: Asked, moves: Array) -> Array:
    """Return the log odds `[A]` of the drawings at z + moves, encoded again."""
    with reading(model), torch.no_grad():
        frames = model.decode(asked.latent + to_device(moves.astype(np.float32), model))
        again, _ = model.encode(frames.clamp(0, 1))
        scores: Array = to_array(asked.sides.score(asked.sides.judge(again)).double())
    return scores
