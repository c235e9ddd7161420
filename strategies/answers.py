"""What each reply holds, known to both ends before it is sent.

A site's outbox lets nothing else out and the server takes nothing else in. The schemas follow
from the agreed run alone: each is read off the same function that fills the real Sum, called with
one empty picture's worth of zeros.

What crosses the hospital's boundary: the Sums described here, and the change of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mfm_core.autoencoder import latent_grid
from mfm_core.dataset import SPLITS, ImageSet
from mfm_core.evaluation import metric_sum
from mfm_core.head import SHRINKAGES, Head, candidate_sum
from mfm_core.latent_sums import latent_sum
from mfm_core.objective import TERM_NAMES
from mfm_core.patches import patch_moments
from mfm_core.sums import Schema, Sum
from strategies.config import RunConfig
from strategies.plan import Kind

VALIDATION, LOSS, SUPPRESSED = "val.", "loss.", "suppressed"


@dataclass(frozen=True)
class Answer:
    """What a reply holds: a change of weights or not, and the schema of its Sum or none."""

    update: bool = False
    total: Schema | None = None


def answer_of(run: RunConfig, kind: Kind) -> Answer:
    """Return what every site replies in an exchange of this kind."""
    if kind == "atlas":
        return Answer()
    if kind == "train":
        zeros = dict.fromkeys(_terms(run), 0.0)
        return Answer(True, training_sum(_metrics(run, 0), zeros, 1).schema)
    return Answer(False, _example(run, kind).schema)


def _example(run: RunConfig, kind: Kind) -> Sum:
    """Return the Sum of a site with one black picture."""
    size = (1, latent_size(run))
    nobody, heads = np.zeros(1, dtype=np.int64), [zero_head(run)] * (1 + len(SHRINKAGES))
    if kind == "hello":
        return Sum({"images": np.zeros(len(SPLITS))})
    if kind == "patch_moments":
        return patch_moments(_black(run), nobody, run.model)
    if kind == "latent_sums":
        attributes = np.zeros((1, len(run.ontology.attributes)), dtype=np.int64)
        found = latent_sum(np.zeros(size), nobody, attributes, nobody, run.ontology)
        return with_suppressed(found, 0)
    if kind == "heads":
        return candidate_sum(np.zeros(size), nobody, heads)
    return _metrics(run, run.statistics.bootstrap_replicates)


def latent_size(run: RunConfig) -> int:
    """Return L, the numbers of one latent."""
    return int(run.model.latent_channels * latent_grid(run.model, run.image) ** 2)


def zero_head(run: RunConfig) -> Head:
    """Return a head of zeros of this run's shape."""
    classes = len(run.ontology.classes)
    weight = np.zeros((classes, latent_size(run)), dtype=np.float32)
    return Head(weight, np.zeros(classes, dtype=np.float32))


def training_sum(validation: Sum, terms: Mapping[str, float], images: int) -> Sum:
    """Return what a training reply holds beside the update.

    Args:
        validation: `metric_sum` of the weights *before* the round on the site's validation split.
        terms: mean loss terms of the local training.
        images: the site's training images, the weight of its terms.
    """
    arrays = {f"{VALIDATION}{name}": array for name, array in validation.arrays.items()}
    arrays |= {f"{LOSS}{name}": np.array([value * images]) for name, value in terms.items()}
    return Sum(arrays)


def read_training_sum(total: Sum, images: int) -> tuple[Sum, dict[str, float]]:
    """Return the validation Sum and the mean loss terms of merged training replies."""
    validation = {
        name.removeprefix(VALIDATION): array
        for name, array in total.arrays.items()
        if name.startswith(VALIDATION)
    }
    terms = {
        name.removeprefix(LOSS): float(array[0]) / max(1, images)
        for name, array in total.arrays.items()
        if name.startswith(LOSS)
    }
    return Sum(validation), terms


def with_suppressed(latent: Sum, cells: int) -> Sum:
    """Return a latent Sum that also says how many small cells the site left out."""
    return Sum({**latent.arrays, SUPPRESSED: np.array([float(cells)])})


def heads_sum(heads: tuple[Head, ...]) -> Sum:
    """Return candidate heads as arrays: "weight" `[H, K, L]` and "bias" `[H, K]`."""
    weight = np.stack([head.weight for head in heads]).astype(np.float64)
    return Sum({"weight": weight, "bias": np.stack([head.bias for head in heads])})


def read_heads(total: Sum) -> tuple[Head, ...]:
    """Return the candidate heads of `heads_sum`."""
    pairs = zip(total["weight"], total["bias"], strict=True)
    return tuple(Head(w.astype(np.float32), b.astype(np.float32)) for w, b in pairs)


def request_schema(run: RunConfig, kind: Kind) -> Schema | None:
    """Return the schema of the Sum that the server sends with a message of this kind, or None."""
    if kind == "heads":
        return heads_sum((zero_head(run),) * (1 + len(SHRINKAGES))).schema
    if kind == "atlas":
        return _example(run, "latent_sums").schema
    return None


def request_has_model(kind: Kind) -> bool:
    """Return whether the server's message of this kind holds the weights."""
    return kind not in ("hello", "patch_moments")


def _terms(run: RunConfig) -> tuple[str, ...]:
    extra = ("proximal",) if run.aggregation.proximal_mu > 0 else ()
    return (*TERM_NAMES, *extra)


def _metrics(run: RunConfig, replicates: int) -> Sum:
    nobody = np.zeros(1, dtype=np.int64)
    logits = np.zeros((1, len(run.ontology.classes)))
    return metric_sum(logits, nobody, np.zeros(1), nobody, replicates, seed=0)


def _black(run: RunConfig) -> ImageSet:
    side, nobody = run.image.size_px, np.zeros(1, dtype=np.int64)
    images = np.zeros((1, run.image.channels, side, side), dtype=np.uint8)
    attributes = np.zeros((1, len(run.ontology.attributes)), dtype=np.int64)
    return ImageSet(images, nobody, attributes, nobody, nobody)
