"""Judges one finished cell of a grid: makes each method's head and measures it.

The heads come from what the federation left, the atlas and the hospitals' latents, by the functions
that sites and server call in the `mitigate` rounds, one hospital after another; so a method that
is added to the list later needs no new federation. A method's evidence is one file, tied to model,
atlas and settings by its key; what is there and whole is not computed again.

What crosses a hospital's boundary: nothing; this needs all images in one place, which only a
researcher has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mfm_core.atlas import Atlas, load_atlas
from mfm_core.checkpoint import encoder_hash, load_arrays, load_model, save_arrays
from mfm_core.config import load_yaml
from mfm_core.dataset import SPLITS, ImageSet
from mfm_core.erasure import eraser
from mfm_core.errors import CheckpointError, ConfigError
from mfm_core.head import Head
from mfm_core.inference import infer
from mfm_core.mitigation import (
    ERASING,
    TRAINED,
    HeadData,
    MethodName,
    Recipe,
    axis_of,
    finish_round,
    head_round,
    head_round_sum,
    start_heads,
)
from mfm_core.sums import Sum
from simulation.baselines import pool
from simulation.bias_evidence import (
    RELEASED,
    Figures,
    Films,
    Floats,
    Sides,
    draw_weights,
    head_figures,
    value_shares,
    within_class_auc,
)
from simulation.config import StudyConfig
from simulation.grid import GridConfig
from simulation.hospitals import HELD_OUT, SITES, open_hospitals
from simulation.probes import ProbeKind, Seen, across_scores, choose_penalty, inside_scores

EVIDENCE = "evidence"
VERSION = 1
"""Part of every evidence file's key: raise it when figures are computed otherwise."""

SEEN_PROBES: tuple[tuple[ProbeKind, str], ...] = (
    *(("linear", "across"), ("linear", "inside")),
    *(("mlp", "across"), ("mlp", "inside")),
)
"""Probes of what a head sees: its latents, erased ones for leace."""
SAID_PROBES: tuple[tuple[ProbeKind, str], ...] = (("linear", "across"), ("mlp", "across"))
"""Probes of what a head says: its logits."""

Probes = Sequence[tuple[ProbeKind, str]]


def evidence_key(folder: Path, config: GridConfig) -> str:
    """Return what a cell's evidence rests on: model, atlas, images and settings, as one hash."""
    digest = hashlib.sha256()
    for name in ("final.safetensors", "atlas.safetensors"):
        digest.update((folder / name).read_bytes())
    study = folder / "study.yaml"
    for images in _all_images(folder) if study.is_file() else ():
        for array in (images.labels, images.attributes, images.patients, images.splits):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(np.ascontiguousarray(images.images).tobytes())
    settings = (config.attribute, config.sigma, config.head_rounds, config.head_steps)
    told = [VERSION, *settings, config.replicates, *sorted(config.probes)]
    digest.update(json.dumps(told).encode())
    return digest.hexdigest()


def _all_images(folder: Path) -> list[ImageSet]:
    run = load_yaml(folder / "study.yaml", StudyConfig).run
    return [images for kind in (SITES, HELD_OUT) for images in open_hospitals(folder, run, kind)[1]]


def read_evidence(folder: Path, config: GridConfig, method: str, key: str) -> Figures | None:
    """Return a method's figures, None where they are missing, damaged or of another run."""
    path = folder / EVIDENCE / f"{method}.safetensors"
    try:
        arrays, _ = load_arrays(path, {"kind": EVIDENCE, "key": key, "method": method})
    except CheckpointError:
        return None
    whole = all(row.shape == (1 + config.replicates,) for row in arrays.values())
    return arrays if whole and arrays else None


def lacking(folder: Path, config: GridConfig) -> tuple[str, ...]:
    """Return the heads of a finished cell, the released one first, that have no whole evidence."""
    key = evidence_key(folder, config)
    heads = (RELEASED, *config.methods)
    return tuple(head for head in heads if read_evidence(folder, config, head, key) is None)


def judge_cell(folder: Path, config: GridConfig) -> tuple[str, ...]:
    """Compute and write the evidence that a finished cell lacks; return the heads judged.

    Raises:
        CheckpointError: model or atlas cannot be read.
        DataError: a side has no usable image, or no class has both values of the attribute.
    """
    waiting = lacking(folder, config)
    if not waiting:
        return ()
    key, case = evidence_key(folder, config), read_case(folder, config)
    methods = [method for method in config.methods if method in waiting]
    made = fit_heads(methods, case, config)
    heads = {RELEASED: case.head, **{str(method): head for method, head in made.items()}}
    known: dict[str, Figures] = {}
    for method in waiting:
        figures = judge_head(method, heads[method], case, known)
        metadata = {"kind": EVIDENCE, "key": key, "method": method}
        save_arrays(folder / EVIDENCE / f"{method}.safetensors", figures, metadata)
    return waiting


@dataclass(frozen=True)
class Case:
    """A finished cell, ready to be judged.

    Attributes:
        atlas: of the run.
        head: of the released model.
        recipe: what is removed.
        sites: training images of each hospital that took part.
        fitted: the same images in one place, labelled and of known value: what probes learn on.
        sides: what is compared.
        probes: kinds that are fitted.
    """

    atlas: Atlas
    head: Head
    recipe: Recipe
    sites: tuple[HeadData, ...]
    fitted: Films
    sides: Sides
    probes: tuple[ProbeKind, ...] = ("linear", "mlp")


def read_case(folder: Path, config: GridConfig) -> Case:
    """Return a cell's latents, from the hospitals' images and the final model.

    A patient's bootstrap weights follow from the place among the patients of all splits, not from
    the seed: real patients who are tested under every seed are drawn once, not once per seed.

    Raises:
        CheckpointError: as `judge_cell`. ConfigError: a side has no usable image.
    """
    study = load_yaml(folder / "study.yaml", StudyConfig)
    model, _ = load_model(folder / "final.safetensors")
    atlas = load_atlas(folder / "atlas.safetensors", encoder_hash(model))
    column = list(study.run.ontology.attributes).index(config.attribute)
    sites: list[HeadData] = []
    films: dict[str, Films] = {}
    weights: list[Floats] = []
    for side, kind in enumerate((SITES, HELD_OUT)):
        _, sets = open_hospitals(folder, study.run, kind)
        images = pool(sets)
        mu = infer(model, images, np.arange(len(images))).mu
        usable = (images.labels >= 0) & (images.attributes[:, column] >= 0)
        all_films = Films(mu, images.labels, images.attributes[:, column], images.patients)
        tested = usable if kind == HELD_OUT else usable & (images.splits == SPLITS.index("test"))
        drawn = draw_weights(images.patients, config.replicates, side)
        weights.append(drawn[:, np.flatnonzero(tested)])
        if kind == HELD_OUT:
            films[kind] = all_films.take(np.flatnonzero(usable))
            continue
        home = np.repeat(np.arange(len(sets)), [len(one) for one in sets])
        for split in ("train", "test"):
            rows = images.select(split)
            films[split] = all_films.take(rows[usable[rows]])
        train = images.select("train")
        for site in range(len(sets)):
            rows = train[home[train] == site]
            parts = (images.labels[rows], images.attributes[rows], images.patients[rows])
            sites.append(HeadData(mu[rows], *parts))
    empty = [name for name, side in films.items() if len(side) == 0]
    if empty:
        reason = f"no labelled image of known {config.attribute} in {', '.join(empty)}"
        raise ConfigError(str(folder), [f"{reason}; choose other hospitals"])
    values = study.run.ontology.attributes[config.attribute]
    shares = value_shares(films["train"], len(study.run.ontology.classes))
    names = (values[0], values[1])
    sides = Sides(films["test"], films[HELD_OUT], shares, (weights[0], weights[1]), names)
    head = Head(model.head.weight.detach().numpy(), model.head.bias.detach().numpy())
    recipe = Recipe(config.attribute, config.sigma)
    return Case(atlas, head, recipe, tuple(sites), films["train"], sides, config.probes)


def fit_heads(
    methods: Sequence[MethodName], case: Case, config: GridConfig
) -> dict[MethodName, Head]:
    """Return a head per method: the rounds that a federation makes, hospital by hospital."""
    heads = start_heads(methods, case.atlas, case.head, case.recipe)
    trained = [method for method in methods if method in TRAINED]
    for _ in range(config.head_rounds if trained else 0):
        before = {method: heads[method] for method in trained}
        parts = [_site_part(before, data, case, config.head_steps) for data in case.sites]
        total = parts[0]
        for part in parts[1:]:
            total = total.merge(part)
        heads = finish_round(heads, total)
    return heads


def _site_part(before: Mapping[MethodName, Head], data: HeadData, case: Case, steps: int) -> Sum:
    after = {
        method: head_round(method, head, data, case.atlas, case.recipe, steps=steps)
        for method, head in before.items()
    }
    return head_round_sum(before, after, data.images)


def judge_head(method: str, head: Head, case: Case, known: dict[str, Figures]) -> Figures:
    """Return all figures of a head and of the probes on what it sees and says.

    Args:
        method: name; those that erase see erased latents, the others the latents themselves.
        head: to judge.
        case: the cell.
        known: probes on latents that were computed already; is added to.
    """
    sides = case.sides
    trained, held_out = head.logits(sides.trained.mu), head.logits(sides.held_out.mu)
    figures = head_figures(trained, held_out, sides)
    seen = method if method in ERASING else "latents"
    if seen not in known:
        inputs = [_seen_by(method, case, mu) for mu in (case.fitted.mu, sides.held_out.mu)]
        known[seen] = probe_figures(inputs[0], inputs[1], case, SEEN_PROBES)
    logits = (head.logits(case.fitted.mu), held_out)
    said = probe_figures(_relative(logits[0]), _relative(logits[1]), case, SAID_PROBES)
    figures |= {f"seen.{name}": row for name, row in known[seen].items()}
    return figures | {f"said.{name}": row for name, row in said.items()}


def _seen_by(method: str, case: Case, mu: np.ndarray) -> Floats:
    """Return `[N, L] float64`, the latents that a method's head is given."""
    for name in ERASING:
        if method == name:
            mu = eraser(case.atlas, case.recipe.attribute, **axis_of(name)).apply(mu)
    return np.asarray(mu, dtype=np.float64)


def _relative(logits: Floats) -> Floats:
    """Return `[N, K - 1]` logits against the first class: what can be told from them at all."""
    return logits[:, 1:] - logits[:, :1]


def probe_figures(fitted: Floats, held_out: Floats, case: Case, probes: Probes) -> Figures:
    """Return AUC within classes of probes of the attribute at the held-out hospital.

    Args:
        fitted: `[N, F]` inputs at the training hospitals, rows of `case.fitted`.
        held_out: `[M, F]` inputs, rows of `case.sides.held_out`.
        case: the cell.
        probes: kind, and "across" (fitted at the training hospitals) or "inside" (fitted and read
            at the held-out hospital by patient folds); kinds that the case leaves out are skipped.

    Returns:
        Figures by "<kind>.<way>".
    """
    films, weights = case.sides.held_out, case.sides.weights[1]
    home, there = _seen(fitted, case.fitted), _seen(held_out, films)
    penalty = choose_penalty(home)
    figures: Figures = {}
    for kind, way in (probe for probe in probes if probe[0] in case.probes):
        if way == "across":
            scores = across_scores(kind, home, there, penalty)
        else:
            scores = inside_scores(kind, there, penalty)
        figures[f"{kind}.{way}"] = within_class_auc(scores, films, weights)
    return figures


def _seen(x: Floats, films: Films) -> Seen:
    return Seen(x, films.values, films.labels, films.patients)
