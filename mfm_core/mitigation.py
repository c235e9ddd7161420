"""Mitigations with one face: each takes what is known and ends as a `Head` on the same latent.

Model, atlas and explanations stay valid, because only the head changes.

| method | what it does | needs |
| --- | --- | --- |
| erm | trains the head again, nothing removed: the comparison | rounds at the sites |
| random_alpha_marginal | random steps along the marginal axis (the paper's) | rounds |
| random_alpha | the same along the class-conditional axis | rounds |
| leace | class-conditional LEACE folded into the current head | atlas, head |
| lda | discriminants of balanced, erased cell means | atlas |
| ccvr | a head trained on virtual latents, equally many per cell | atlas |
| reweighting | trains with weights that make class and attribute independent | rounds |

The trained methods need few exchanges: `head_round` at every site, `head_round_sum` through the
door, `finish_round` with the merged sums.

Source: paper section 3.3 (random alpha, only the classification layer is trained again); the rest
as named in the modules.
What crosses the hospital's boundary: per trained method the change of one linear head times the
number of images, added over the sites, and the number of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mfm_core.atlas import Atlas
from mfm_core.errors import ConfigError
from mfm_core.head import Head
from mfm_core.sums import Sum

MethodName = Literal[
    "erm", "random_alpha_marginal", "random_alpha", "leace", "lda", "ccvr", "reweighting"
]
METHODS: tuple[MethodName, ...] = get_args(MethodName)
"""All methods, in the order of tables."""

TRAINED: tuple[MethodName, ...] = ("erm", "random_alpha_marginal", "random_alpha", "reweighting")
"""Methods that need `head_round` at the sites; the others are finished by `start_heads`."""


@dataclass(frozen=True)
class Recipe:
    """What to remove and how strongly.

    Attributes:
        attribute: name in the ontology.
        sigma: standard deviation of alpha, in lengths of the axis: 0 removes nothing, infinity
            is projection.
    """

    attribute: str
    sigma: float = 2.0


@dataclass(frozen=True)
class HeadData:
    """One site's training images as the frozen encoder sees them.

    Attributes:
        mu: `[N, L]` latent means.
        labels: `[N]` class index; -1 is left out.
        attributes: `[N, A]` value indices in the ontology's order; -1 is unknown.
        patients: `[N]` equal for images of one patient.
    """

    mu: np.ndarray
    labels: np.ndarray
    attributes: np.ndarray
    patients: np.ndarray

    @property
    def images(self) -> int:
        """Labelled images: what this site counts for in `head_round_sum`."""
        return int((self.labels >= 0).sum())


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
    raise NotImplementedError


def head_round(
    method: MethodName, head: Head, data: HeadData, atlas: Atlas, recipe: Recipe, *, steps: int
) -> Head:
    """Return `head` after `steps` full-batch steps on one site's images.

    There is no seed: full batches and an expectation over alpha leave nothing to chance.

    Raises:
        ConfigError: not a trained method. DataError: latents or indices cannot be used.
    """
    raise NotImplementedError


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


def _refuse_unknown(methods: Iterable[str]) -> None:
    known = ", ".join(METHODS)
    problems = [
        f"unknown method {name!r}; known are {known}" for name in methods if name not in METHODS
    ]
    if problems:
        raise ConfigError("mitigation", problems)
