"""Every metric of one explained image: what `explanation_sums` counts into histograms.

An image is asked about its own class, which then has to fade, or about another class, which has to
appear. The curve is scored on both; maps (place, sanity, deletion and insertion) on questions about
the own class only, because nobody knows where a finding that is not there would be. Methods that
need gradients run only where the region is known; class shift and counterfactual always.

Sanity, in two ways (after Adebayo et al., NeurIPS 2018). "sanity_head": each method again with a
random head whose rows have the lengths of the true ones. The class shift draws the difference of
class means and uses the head only to choose the step that is shown, so its map can hardly change:
that figure tells that the map explains the classes, not this head. "sanity_labels": the class
shift again along the axis that shuffled labels would give, a draw from the within-class spread at
the true axis's length in within-class deviations; this is the class shift's own check.

Source: design section 9; the paper scores no explanation.
What crosses the hospital's boundary: nothing; these are figures of one patient.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from mfm_core.atlas import Atlas
from mfm_core.autoencoder import Autoencoder
from mfm_core.collateral import Probes, collateral, probes_of
from mfm_core.devices import to_array, to_device
from mfm_core.errors import DataError
from mfm_core.explanation import METHODS
from mfm_core.faithfulness import likeness_outside, localise, map_likeness
from mfm_core.metric_table import OWN_METHOD, PLACE_METHOD
from mfm_core.perturbation import areas_of, moved_at_random
from mfm_core.question import Question, reading
from mfm_core.sweep import Pixels, Sweep

ALWAYS = ("class_shift", "counterfactual")
"""Methods that run on every image of the class; the others only where its region is known."""

Scores = dict[str, float]


@dataclass(frozen=True)
class Bench:
    """What every image of one audit shares.

    Attributes:
        model: the autoencoder.
        atlas: class means of the same encoder.
        probes: of the atlas.
        absent: per class `[C, H, W] float32 in [0, 1]`, drawn for the mean of the other classes.
        shuffled: per class an atlas whose axis of that class is that of shuffled labels.
        random_head: `[K, L] float32`, rows of the true lengths and random directions.
    """

    model: Autoencoder
    atlas: Atlas
    probes: Probes
    absent: Mapping[str, Pixels]
    shuffled: Mapping[str, Atlas]
    random_head: NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """One image and what it is asked.

    Attributes:
        image: `[C, H, W] float32 in [0, 1]`.
        target: the class in question.
        own: the image is of that class.
        mask: `[H, W] bool`, the true region of the finding, None where nobody knows it.
        seed: of what is drawn for this image.
    """

    image: Pixels
    target: str
    own: bool
    mask: NDArray[np.bool_] | None
    seed: int


def bench_of(model: Autoencoder, atlas: Atlas, seed: int) -> Bench:
    """Return what every image of one audit shares; equal for equal seeds.

    Raises:
        DataError: a mean or the covariance of the atlas is not finite.
    """
    if not (np.isfinite(atlas.means).all() and np.isfinite(atlas.covariance).all()):
        reason = "means or covariance are not finite; use the atlas of a run that ended well"
        raise DataError("atlas", [reason])
    generator = np.random.default_rng(seed)
    weight = to_array(model.head.weight)
    drawn = generator.normal(size=weight.shape)
    lengths = np.linalg.norm(weight, axis=1, keepdims=True)
    drawn *= lengths / np.linalg.norm(drawn, axis=1, keepdims=True)
    probes = probes_of(atlas)
    shuffled = _shuffled(atlas, tuple(probes.targets), generator)
    absent = _absent(model, atlas, tuple(probes.targets))
    return Bench(model, atlas, probes, absent, shuffled, drawn.astype(np.float32))


def _absent(model: Autoencoder, atlas: Atlas, names: Sequence[str]) -> dict[str, Pixels]:
    """Return what the model draws for the mean of each class's others."""
    found = {}
    with reading(model), torch.inference_mode():
        for name in names:
            mean = to_device(atlas.others_mean(name).astype(np.float32), model)
            found[name] = to_array(model.decode(mean[None])[0].clamp(0, 1))
    return found


def _shuffled(
    atlas: Atlas, names: Sequence[str], generator: np.random.Generator
) -> dict[str, Atlas]:
    """Return per class an atlas whose axis of that class is a draw from the within-class spread."""
    factor = np.linalg.cholesky(atlas.covariance)
    shuffled = {}
    for name in names:
        length = np.linalg.norm(solve_triangular(factor, atlas.class_axis(name), lower=True))
        drawn = generator.normal(size=len(factor))
        means = atlas.means.copy()
        other = factor @ (drawn * length / np.linalg.norm(drawn))
        means[atlas.ontology.classes.index(name)] = atlas.others_mean(name) + other
        shuffled[name] = replace(atlas, means=means)
    return shuffled


def score_case(bench: Bench, case: Case) -> Scores:
    """Return every metric that this image gives, by the name of its histogram.

    Raises:
        CheckpointError: the atlas belongs to another encoder.
        DataError: the image gives no finite latent, or does not fit the model.
    """
    with reading(bench.model):
        question = Question(target=case.target)
        explained = METHODS[OWN_METHOD](bench.model, bench.atlas, case.image, question)
        if explained.sweep is None:
            raise TypeError(f"{OWN_METHOD} gave no sweep")
        scores = _curve_scores(bench, case, explained.sweep)
        if case.own:
            maps = {OWN_METHOD: explained.saliency, **_other_maps(bench, case)}
            scores |= _sanity_scores(bench, case, maps)
            scores |= _perturbation_scores(bench, case, maps)
            scores |= _place_scores(case, maps)
    return {name: value for name, value in scores.items() if not np.isnan(value)}


def _region(case: Case) -> NDArray[np.bool_] | None:
    """Return the region that the question is about, None where it is unknown or empty."""
    known = case.own and case.mask is not None and case.mask.any()
    return case.mask if known else None


def _other_maps(bench: Bench, case: Case) -> dict[str, Pixels]:
    names = [name for name in METHODS if name != OWN_METHOD]
    if _region(case) is None:
        names = [name for name in names if name in ALWAYS]
    found = {name: _map(bench, case, name, bench.atlas) for name in names}
    return {name: saliency for name, saliency in found.items() if saliency is not None}


def _map(bench: Bench, case: Case, method: str, atlas: Atlas) -> Pixels | None:
    """Return the saliency; None where this method has no answer for this image."""
    try:
        question = Question(target=case.target)
        return METHODS[method](bench.model, atlas, case.image, question).saliency
    except DataError:  # the image itself is known to be fit: the sweep was made of it
        return None


def _curve_scores(bench: Bench, case: Case, sweep: Sweep) -> Scores:
    curve = sweep.score
    scores = {
        "spearman": curve.spearman,
        "strictly_monotone": float(curve.strictly_monotone),
        "flip_rate": float(curve.flip_alpha is not None),
        "cycle": sweep.cycle,
        "ssim": sweep.ssim,
    }
    if curve.flip_alpha is not None:
        scores["flip_alpha"] = abs(curve.flip_alpha)
        frame = sweep.images[int(np.flatnonzero(sweep.alphas == curve.flip_alpha)[0])]
        nowhere = np.zeros(frame.shape[1:], dtype=bool)
        scores["ssim_whole"] = _number(likeness_outside(frame, sweep.reconstruction, nowhere))
        region = _region(case)
        if region is not None:
            outside = likeness_outside(frame, sweep.reconstruction, region)
            scores["ssim_outside"] = _number(outside)
    with torch.inference_mode():
        latents, _ = bench.model.encode(to_device(sweep.images, bench.model))
    dragged = collateral(bench.probes, case.target, sweep.alphas, to_array(latents))
    return scores | {f"collateral.{name}": value for name, value in dragged.items()}


def _sanity_scores(bench: Bench, case: Case, maps: Mapping[str, Pixels]) -> Scores:
    shuffled = _map(bench, case, OWN_METHOD, bench.shuffled[case.target])
    scores = {"sanity_labels": _likeness(maps[OWN_METHOD], shuffled)}
    with _random_head(bench):
        for name, original in maps.items():
            again = _map(bench, case, name, bench.atlas)
            scores[f"sanity_head.{name}"] = _likeness(original, again)
    return scores


def _likeness(one: Pixels, other: Pixels | None) -> float:
    return float("nan") if other is None else _number(map_likeness(one, other))


@contextmanager
def _random_head(bench: Bench) -> Iterator[None]:
    """Give the model the random head, then its own back."""
    weight = bench.model.head.weight
    own = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.copy_(torch.from_numpy(bench.random_head))
        yield
    finally:
        with torch.no_grad():
            weight.copy_(own)


def _perturbation_scores(bench: Bench, case: Case, maps: Mapping[str, Pixels]) -> Scores:
    generator = np.random.default_rng(case.seed)
    rivals = [moved_at_random(saliency, generator) for saliency in maps.values()]
    label = bench.atlas.ontology.classes.index(case.target)
    every = np.stack([*maps.values(), *rivals])
    pictures = (case.image, bench.absent[case.target])
    areas = areas_of(bench.model, pictures, every, label, generator)
    deletion, insertion = areas.deletion.reshape(2, -1), areas.insertion.reshape(2, -1)
    scores = {}
    for place, name in enumerate(maps):
        scores[f"deletion.{name}"] = float(deletion[1, place] - deletion[0, place])
        scores[f"insertion.{name}"] = float(insertion[0, place] - insertion[1, place])
    return scores


def _place_scores(case: Case, maps: Mapping[str, Pixels]) -> Scores:
    region = _region(case)
    if region is None:
        return {}
    places = {name: localise(saliency, region) for name, saliency in maps.items()}
    scores = {f"iou.{name}": place.iou for name, place in places.items()}
    scores |= {f"pointing.{name}": float(place.pointing) for name, place in places.items()}
    if (ours := places.pop(PLACE_METHOD, None)) is not None:
        for name, place in places.items():
            scores[f"iou_gain.{name}"] = ours.iou - place.iou
            scores[f"pointing_gain.{name}"] = float(ours.pointing) - float(place.pointing)
    return scores


def _number(value: float | None) -> float:
    """Return the value, NaN for one that is not defined."""
    return float("nan") if value is None else value


def sweep_seconds(
    model: Autoencoder,
    atlas: Atlas,
    image: Pixels,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the median wall time of one sweep of 11 frames, seconds, on torch's own threads.

    A property of the machine: shown at the site that measured it, never part of a sum.

    Raises:
        CheckpointError, DataError: as in `score_case`.
    """
    question = Question(target=atlas.present[0])
    METHODS[OWN_METHOD](model, atlas, image, question)
    times = []
    for _ in range(repeats):
        start = clock()
        METHODS[OWN_METHOD](model, atlas, image, question)
        times.append(clock() - start)
    return float(np.median(times))
