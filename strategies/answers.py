"""What each reply holds, known to both ends before it is sent.

A site's outbox lets nothing else out and the server takes nothing else in. The schemas follow
from the agreed run alone: each is read off the same function that fills the real Sum, called with
one empty picture's worth of zeros.

What crosses the hospital's boundary: the Sums described here, and the change of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mfm_core.config import OntologyConfig
from mfm_core.dataset import SPLITS, ImageSet
from mfm_core.errors import ConfigError
from mfm_core.evaluation import metric_sum
from mfm_core.explanation_sums import empty_explanation_sum
from mfm_core.flips import empty_flip_sum
from mfm_core.head import SHRINKAGES, Head, candidate_sum
from mfm_core.head_files import heads_to_sum
from mfm_core.latent_sums import latent_sum
from mfm_core.mitigation import TRAINED, MethodName, empty_head_round_sum
from mfm_core.objective import TERM_NAMES
from mfm_core.patches import patch_moments
from mfm_core.public_basis import empty_basis
from mfm_core.subgroups import empty_subgroup_sum
from mfm_core.sums import Schema, Sum
from strategies.central_noise import CLIP, WITHIN
from strategies.config import RunConfig
from strategies.plan import KEYS, Kind, plan_of
from strategies.privacy import NO_LABEL, Label, label_of
from strategies.private_atlas import CELLS, cell_plan, latent_numbers
from strategies.scaffold import control_schema, with_control
from strategies.task_answers import empty_task_metrics, empty_task_training

VALIDATION, LOSS, SUPPRESSED = "val.", "loss.", "suppressed"
LATENT, HEADS = "latent_sums", "mitigated_heads"
EXPLANATIONS, FLIPS, SUBGROUPS = "explanations", "flips", "subgroups"
LARGEST_SUM_MIB = 60
"""A site's default limit is 64 MiB for a whole message."""

SPENT, PAID = "spent.epsilon", "spent.rounds"
"""What a site of a private run says of its privacy ledger, with its answer to the atlas."""

CHOSEN = "chosen"
"""Name of the head in the weights, beside the names of the mitigated ones."""


@dataclass(frozen=True)
class Answer:
    """What a reply holds: a change of weights, the schema of its Sum, keys; and its label.

    `clip` is the longest update that the server takes where sites clip; None: the agreed norm.
    """

    update: bool = False
    total: Schema | None = None
    protection: Label = NO_LABEL
    sealed: bool = False
    clip: float | None = None


def answer_of(run: RunConfig, kind: Kind) -> Answer:
    """Return what every site replies in an exchange of this kind.

    A private training reply is the change of the weights alone: counts and losses are not paid for.
    What was paid leaves once, with the answer to the atlas.
    Where the atlas is private the latent sums leave as one array of noisy cells.
    """
    label = label_of(run, kind)
    if kind in ("atlas", "receipts"):
        says = kind == "atlas" and run.privacy.private
        return Answer(False, spent_sum(0.0, 0).schema if says else None, label)
    if kind in KEYS:
        return Answer(protection=label, sealed=True)
    if kind == "train" and run.privacy.private:
        return Answer(True, WITHIN if _follows(run) else None, label)
    if kind == "train":
        return Answer(True, _training(run).schema, label)
    if kind == "latent_sums" and run.privacy.atlas.private:
        return Answer(False, ((CELLS, (cell_plan(run).size,)),), label)
    return Answer(False, _example(run, kind).schema, label)


def _example(run: RunConfig, kind: Kind) -> Sum:
    """Return the Sum of a site with one black picture."""
    makers: dict[Kind, Callable[[], Sum]] = {
        "hello": lambda: Sum({"images": np.zeros(len(SPLITS))}),
        "patch_moments": lambda: patch_moments(_black(run), np.zeros(1, np.int64), run.model),
        "class_sums": lambda: _empty_latent_sum(run, classes_alone(run)),
        "latent_sums": lambda: _empty_latent_sum(run, run.ontology),
        "heads": lambda: _empty_candidates(run),
        "mitigate": lambda: empty_head_round_sum(
            trained_methods(run), len(run.ontology.classes), latent_size(run)
        ),
        "evaluate": lambda: _evaluation(run),
        "audit": lambda: _empty_audit(run),
    }
    return makers[kind]()


def classes_alone(run: RunConfig) -> OntologyConfig:
    """Return the ontology of class sums: the run's classes, no attributes."""
    return OntologyConfig(classes=run.ontology.classes)


def _empty_latent_sum(run: RunConfig, ontology: OntologyConfig) -> Sum:
    nobody = np.zeros(1, dtype=np.int64)
    attributes = np.zeros((1, len(ontology.attributes)), dtype=np.int64)
    mu = np.zeros((1, latent_size(run)))
    return with_suppressed(latent_sum(mu, nobody, attributes, nobody, ontology), 0)


def _empty_candidates(run: RunConfig) -> Sum:
    heads = (zero_head(run),) * (1 + len(SHRINKAGES))
    return candidate_sum(np.zeros((1, latent_size(run))), np.zeros(1, dtype=np.int64), heads)


def _empty_audit(run: RunConfig) -> Sum:
    parts = {}
    for name in (CHOSEN, *mitigated_methods(run)):
        parts[f"{SUBGROUPS}/{name}"] = empty_subgroup_sum(run.ontology)
        parts[f"{FLIPS}/{name}"] = empty_flip_sum(run.ontology)
    if run.audit.explained_per_class:
        parts[EXPLANATIONS] = empty_explanation_sum(run.ontology)
    return joined(parts)


def spent_sum(epsilon: float, rounds: int) -> Sum:
    """Return what training has cost a site's patients in a run.

    Args:
        epsilon: at the run's delta, rounded up so that the number of patients does not follow.
        rounds: paid training rounds, repeated ones included.
    """
    return Sum({SPENT: np.array([epsilon]), PAID: np.array([float(rounds)])})


def joined(parts: Mapping[str, Sum]) -> Sum:
    """Return several Sums as one, whose names are "<part>/<name>"."""
    return Sum(
        {
            f"{part}/{name}": array
            for part, total in parts.items()
            for name, array in total.arrays.items()
        }
    )


def part_of(total: Sum, part: str) -> Sum:
    """Return one part of a joined Sum; without arrays when it is not there."""
    prefix = f"{part}/"
    return Sum(
        {
            name.removeprefix(prefix): array
            for name, array in total.arrays.items()
            if name.startswith(prefix)
        }
    )


def mitigated_methods(run: RunConfig) -> tuple[MethodName, ...]:
    """Return the mitigated heads that a run makes, in the order of its settings."""
    return run.mitigation.methods if run.mitigation.attribute is not None else ()


def trained_methods(run: RunConfig) -> tuple[MethodName, ...]:
    """Return those of them that the sites train."""
    return tuple(method for method in mitigated_methods(run) if method in TRAINED)


def refuse_too_large(run: RunConfig) -> None:
    """Refuse a run with an exchange whose Sum no site lets pass by default.

    Raises:
        ConfigError: named are the exchanges, their sizes and what makes them smaller.
    """
    problems = []
    for step in plan_of(run):
        answer = answer_of(run, step.kind).total
        request = request_schema(run, step.kind, step.round)
        for end, schema in (("reply", answer), ("request", request)):
            mib = 8 * sum(math.prod(shape) for _, shape in schema or ()) / 2**20
            if mib > LARGEST_SUM_MIB and step.round in (0, 1):
                problems.append(
                    f"the {end} of {step.kind} would hold {mib:.0f} MiB, sites allow "
                    f"{LARGEST_SUM_MIB} (limits.max_message_mib); name fewer mitigation.methods, "
                    "fewer attribute values or classes, fewer latent_channels or"
                    " bootstrap_replicates"
                )
    if problems:
        raise ConfigError(f"run {run.name}", problems)


def latent_size(run: RunConfig) -> int:
    """Return L, the numbers of one latent."""
    return latent_numbers(run)


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


def request_schema(run: RunConfig, kind: Kind, number: int = 0) -> Schema | None:
    """Return the schema of the Sum that the server sends with a message of this kind, or None.

    Args:
        run: agreed.
        kind: of the message.
        number: its round; class sums go with training rounds that use pseudo-labels.
    """
    if kind == "train":
        return _train_request(run, number)
    if kind == "heads":
        return heads_sum((zero_head(run),) * (1 + len(SHRINKAGES))).schema
    if kind == "latent_sums" and run.privacy.atlas.private:
        return empty_basis(run.privacy.atlas.directions, latent_size(run)).schema
    latent = _example(run, "latent_sums")
    if kind == "mitigate":
        return joined({LATENT: latent, HEADS: _empty_heads(run, trained_methods(run))}).schema
    if kind == "atlas":
        methods = mitigated_methods(run)
        names = (CHOSEN, *methods) if methods else ()
        return joined({LATENT: latent, HEADS: _empty_heads(run, names)}).schema
    return None


def _train_request(run: RunConfig, number: int) -> Schema | None:
    """Return the schema of class sums, of SCAFFOLD's mean gradient or of the server's clip."""
    if run.learning.pseudo_labels.used_in(number):
        return _example(run, "class_sums").schema
    if run.aggregation.kind == "scaffold":
        return control_schema(run)
    return CLIP if _follows(run) else None


def _follows(run: RunConfig) -> bool:
    """Return whether the sites clip at what the server says."""
    return run.privacy.private_sum and run.privacy.central.adaptive


def _empty_heads(run: RunConfig, names: Sequence[str]) -> Sum:
    return heads_to_sum({name: zero_head(run) for name in names})


def request_has_model(kind: Kind) -> bool:
    """Return whether the server's message of this kind holds the weights."""
    return kind not in ("hello", "patch_moments", "audit", "receipts", *KEYS)


def _terms(run: RunConfig) -> tuple[str, ...]:
    extra = ("proximal",) if run.aggregation.proximal_mu > 0 else ()
    return (*TERM_NAMES, *extra)


def _metrics(run: RunConfig, replicates: int) -> Sum:
    nobody = np.zeros(1, dtype=np.int64)
    logits = np.zeros((1, len(run.ontology.classes)))
    return metric_sum(logits, nobody, np.zeros(1), nobody, replicates, seed=0)


def _training(run: RunConfig) -> Sum:
    zeros = dict.fromkeys(_terms(run), 0.0)
    if run.ontology.tasks:
        return empty_task_training(run.ontology.tasks, zeros)
    plain = training_sum(_metrics(run, 0), zeros, 1)
    if run.aggregation.kind != "scaffold":
        return plain
    ((_, shape),) = control_schema(run)
    return with_control(plain, np.zeros(shape, dtype=np.float32), 1)


def _evaluation(run: RunConfig) -> Sum:
    replicates = run.statistics.bootstrap_replicates
    if run.ontology.tasks:
        return empty_task_metrics(run.ontology.tasks, replicates)
    return _metrics(run, replicates)


def _black(run: RunConfig) -> ImageSet:
    side, nobody = run.image.size_px, np.zeros(1, dtype=np.int64)
    images = np.zeros((1, run.image.channels, side, side), dtype=np.uint8)
    attributes = np.zeros((1, len(run.ontology.attributes)), dtype=np.int64)
    return ImageSet(images, nobody, attributes, nobody, nobody)
