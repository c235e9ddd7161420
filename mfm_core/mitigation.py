"""Mitigations with one face: each takes what is known and ends as a `Head` on the same latent.

Model, atlas and explanations stay valid, because only the head changes.

| method | what it does | needs |
| --- | --- | --- |
| erm | trains the head again, nothing removed: the comparison | rounds at the sites |
| random_alpha_marginal | random steps along the marginal axis (the paper's) | rounds |
| random_alpha | the same along the class-conditional axis | rounds |
| random_alpha_shrunk | the same along that axis as few patients tell it | rounds |
| leace | class-conditional LEACE folded into the current head | atlas, head |
| leace_shrunk | the same along the axis as few patients tell it | atlas, head |
| lda | discriminants of balanced, erased cell means | atlas |
| ccvr | a head trained on virtual latents, equally many per cell | atlas |
| reweighting | trains with weights that make class and attribute independent | rounds |

The trained methods need few exchanges: `head_round` at every site, `head_round_sum` through the
door, `finish_round` with the merged sums. Five to ten rounds of one step converge. More steps a
round save nothing and let sites drift apart whose couplings differ: with phi = 0.8 and -0.3 at two
sites, five local steps cost reweighting 0.06 of the AUC under the reversed coupling (random alpha
nothing). Random alpha starts from the softly erased head, the optimum for Gaussian latents.

Source: paper section 3.3 (random alpha, only the classification layer is trained again); the rest
as named in the modules.
What crosses the hospital's boundary: per trained method the change of one linear head times the
number of images, added over the sites, and the number of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

import numpy as np

from mfm_core.atlas import Atlas
from mfm_core.erasure import eraser
from mfm_core.errors import ConfigError
from mfm_core.head import Head
from mfm_core.head_training import (
    PENALTY,
    Course,
    HeadData,
    course_of,
    no_shifts,
    refuse_unusable,
    train_head,
)
from mfm_core.random_alpha import axis_shifts
from mfm_core.reweighting import group_weights, image_weights
from mfm_core.sums import Sum
from mfm_core.sums_head import ccvr_head, lda_head

__all__ = [
    "ERASING",
    "METHODS",
    "TRAINED",
    "HeadData",
    "MethodName",
    "Recipe",
    "axis_of",
    "empty_head_round_sum",
    "finish_round",
    "head_round",
    "head_round_sum",
    "start_heads",
]

MethodName = Literal[
    "erm",
    "random_alpha_marginal",
    "random_alpha",
    "random_alpha_shrunk",
    "leace",
    "leace_shrunk",
    "lda",
    "ccvr",
    "reweighting",
]
METHODS: tuple[MethodName, ...] = get_args(MethodName)
"""All methods, in the order of tables."""

TRAINED: tuple[MethodName, ...] = (
    "erm",
    "random_alpha_marginal",
    "random_alpha",
    "random_alpha_shrunk",
    "reweighting",
)
"""Methods that need `head_round` at the sites; the others are finished by `start_heads`."""

RANDOM_ALPHA: tuple[MethodName, ...] = (
    "random_alpha_marginal",
    "random_alpha",
    "random_alpha_shrunk",
)

ERASING: tuple[MethodName, ...] = ("leace", "leace_shrunk")
"""Methods whose head sees erased latents."""


class Axis(TypedDict):
    """Which axis a method takes, as arguments of `eraser` and `axis_shifts`."""

    conditional: bool
    shrunk: bool


def axis_of(method: MethodName) -> Axis:
    """Return which axis of the attribute a method works along."""
    return {
        "conditional": method != "random_alpha_marginal",
        "shrunk": method in ("random_alpha_shrunk", "leace_shrunk"),
    }


@dataclass(frozen=True)
class Recipe:
    """What to remove and how strongly.

    Attributes:
        attribute: name in the ontology.
        sigma: standard deviation of alpha, in lengths of the axis: 0 removes nothing, infinity
            projects it away.
        penalty: >= 0, L2 on the variance of the logits in training (`head_training`).
    """

    attribute: str
    sigma: float = 2.0
    penalty: float = PENALTY


def start_heads(
    methods: Iterable[MethodName], atlas: Atlas, head: Head, recipe: Recipe
) -> dict[MethodName, Head]:
    """Return a head per method: finished ones, and the trained ones at their start.

    Args:
        methods: of METHODS.
        atlas: pooled.
        head: the model's current head; erased by leace, start of the trained methods.
        recipe: what to remove.

    Raises:
        ConfigError: unknown method or attribute. DataError: no class has two of its values.
    """
    chosen = tuple(methods)
    _refuse_unknown(chosen)
    heads: dict[MethodName, Head] = {}
    for name in chosen:
        if name in ERASING:
            heads[name] = eraser(atlas, recipe.attribute, **axis_of(name)).fold(head)
        elif name == "lda":
            heads[name] = lda_head(atlas, recipe.attribute, head)
        elif name == "ccvr":
            heads[name] = ccvr_head(atlas, recipe.attribute, head)
        else:
            _course(name, atlas, recipe)  # refuses now what a site would refuse later
            heads[name] = head
            if name in RANDOM_ALPHA:
                soft = eraser(atlas, recipe.attribute, sigma=recipe.sigma, **axis_of(name))
                heads[name] = soft.fold(head)
    return heads


def head_round(
    method: MethodName, head: Head, data: HeadData, atlas: Atlas, recipe: Recipe, *, steps: int
) -> Head:
    """Return `head` after `steps` full-batch steps on one site's images.

    There is no seed: full batches and an expectation over alpha leave nothing to chance.

    Raises:
        ConfigError: not a trained method. DataError: latents or indices cannot be used.
    """
    course = _course(method, atlas, recipe)
    refuse_unusable(data, atlas)
    weights = None
    if method == "reweighting":
        column = list(atlas.ontology.attributes).index(recipe.attribute)
        groups = group_weights(atlas, recipe.attribute)
        weights = image_weights(groups, data.labels, data.attributes[:, column])
    return train_head(head, data, atlas, course, steps=steps, weights=weights)


def empty_head_round_sum(methods: Iterable[MethodName], classes: int, latent_size: int) -> Sum:
    """Return zeros in the schema of `head_round_sum`."""
    arrays = {"images": np.zeros(1)}
    for name in methods:
        if name in TRAINED:
            arrays[f"{name}.weight"] = np.zeros((classes, latent_size))
            arrays[f"{name}.bias"] = np.zeros(classes)
    return Sum(arrays)


def head_round_sum(
    before: Mapping[MethodName, Head], after: Mapping[MethodName, Head], images: int
) -> Sum:
    """Return one site's part of a round: images times the change of every trained head.

    Args:
        before: heads that were sent; methods that are not trained are left out.
        after: the same methods after `head_round`.
        images: `HeadData.images` of the site; 0 gives zeros.

    Returns:
        "<method>.weight" `[K, L]`, "<method>.bias" `[K]` and "images" `[1]`.
    """
    arrays = {"images": np.array([float(images)])}
    for name in before:
        if name in TRAINED:
            old, new = before[name], after[name]
            arrays[f"{name}.weight"] = images * (new.weight.astype(np.float64) - old.weight)
            arrays[f"{name}.bias"] = images * (new.bias.astype(np.float64) - old.bias)
    return Sum(arrays)


def finish_round(heads: Mapping[MethodName, Head], total: Sum) -> dict[MethodName, Head]:
    """Return the heads moved by the image-weighted mean change; closed forms stay as they are.

    Args:
        heads: what was sent.
        total: `head_round_sum` of all sites, merged; without an image nothing moves.
    """
    images = max(float(total["images"][0]), 1.0)
    moved = dict(heads)
    for name in heads:
        if name in TRAINED:
            weight = heads[name].weight + total[f"{name}.weight"] / images
            bias = heads[name].bias + total[f"{name}.bias"] / images
            moved[name] = Head(weight.astype(np.float32), bias.astype(np.float32))
    return moved


def _course(method: MethodName, atlas: Atlas, recipe: Recipe) -> Course:
    """Return what is the same at every site; raises ConfigError for a method without rounds."""
    if method not in TRAINED:
        trained = ", ".join(TRAINED)
        raise ConfigError("mitigation", [f"{method!r} has no rounds; those that have: {trained}"])
    shifts = no_shifts(atlas.latent_size)
    if method in RANDOM_ALPHA:
        shifts = axis_shifts(atlas, recipe.attribute, recipe.sigma, **axis_of(method))
    elif method == "reweighting":
        group_weights(atlas, recipe.attribute)
    return course_of(atlas, shifts, recipe.penalty)


def _refuse_unknown(methods: Iterable[str]) -> None:
    known = ", ".join(METHODS)
    problems = [
        f"unknown method {name!r}; known are {known}" for name in methods if name not in METHODS
    ]
    if problems:
        raise ConfigError("mitigation", problems)
