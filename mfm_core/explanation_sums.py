"""How far explanations can be believed, per class, as one mergeable sum (design section 9).

Every metric of `metric_table` is a histogram over patients, one row per class and a last row for
all classes together. Of each patient one image is scored, with one question about its own class
(it has to fade) and perhaps one about another class (it has to appear): so a patient stands at
most once in the row of a class, and in the last row once per metric (which of two questions counts
there is drawn). Each row is a sample of patients, from which `figure_of` draws intervals.

Which image, which question and every random number follow from the pixels and the seed, not from
the place in a list: with one seed, sums of two sites are the sum over their pooled images wherever
`per_class` takes all of them. Cells (one metric in one row) of fewer than `smallest` patients stay
at the site as zeros and are counted; what they would have added to the last row stays as well.

Source: paper section 2.5.2; metrics and goals are ours.
What crosses the hospital's boundary: "scored" `[K + 1]` patients per row, "suppressed" `[K + 1]`
withheld cells and a histogram `[K + 1, points]` per metric. No picture, map or latent.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from mfm_core.atlas import Atlas
from mfm_core.autoencoder import Autoencoder
from mfm_core.config import OntologyConfig
from mfm_core.dataset import ImageSet
from mfm_core.explanation_scores import Case, Scores, bench_of, score_case
from mfm_core.metric_table import OWN_METHOD, Metric, figure_of, metrics_of
from mfm_core.question import check_encoder
from mfm_core.sums import Sum

ALL_CLASSES = "all classes"
"""Name of the last row."""

PER_CLASS = 8
"""Patients of a class, and of the others, that are scored per site unless told otherwise."""


class Extent(TypedDict, total=False):
    """How much is scored and released.

    Attributes:
        per_class: at most this many patients of a class and of the others; 8 if not given. Fewer
            than `smallest` keep all figures of maps at the site: they rest on the class alone.
        seed: of the choice and of everything random; 0 if not given. With seeds of their own,
            sites draw heads and labels of their own for the sanity checks.
        smallest: cells of fewer patients stay at the site; 1 (no cell) if not given.
    """

    per_class: int
    seed: int
    smallest: int


@dataclass(frozen=True)
class _Asked:
    """One chosen image: its questions as (label, own), the one that counts first being last."""

    index: int
    seed: int
    questions: tuple[tuple[int, bool], ...]


def empty_explanation_sum(ontology: OntologyConfig) -> Sum:
    """Return the sum of a site that scored nothing: zeros under the very same names."""
    rows = len(ontology.classes) + 1
    arrays = {metric.name: np.zeros((rows, metric.points)) for metric in metrics_of(ontology)}
    return Sum({**arrays, "scored": np.zeros(rows), "suppressed": np.zeros(rows)})


def explanation_sum(
    model: Autoencoder,
    atlas: Atlas,
    images: ImageSet,
    indices: NDArray[np.int64],
    masks: NDArray[np.bool_] | None = None,
    **extent: Unpack[Extent],
) -> Sum:
    """Return one site's explanation scores as histograms.

    Args:
        model: the autoencoder.
        atlas: class means of the same encoder.
        images: one site's images.
        indices: `[M] int64` into `images`, usually the test split; unlabelled ones are left out.
        masks: `[N, H, W] bool` true region per image of `images`; all False where it is unknown.
        extent: how much is scored and released, see `Extent`.

    Raises:
        CheckpointError: the atlas belongs to another encoder.
        DataError: an image gives no finite latent.
    """
    check_encoder(model, atlas)
    per_class, seed = extent.get("per_class", PER_CLASS), extent.get("seed", 0)
    bench = bench_of(model, atlas, seed)
    names = tuple(bench.probes.targets)
    labels = [atlas.ontology.classes.index(name) for name in names]
    found: list[dict[int, Scores]] = []
    for asked in _choose(images, indices, labels, (per_class, seed)):
        image = images.batch(np.array([asked.index]))[0].numpy()
        mask = None if masks is None else masks[asked.index]
        found.append(
            {
                label: score_case(
                    bench, Case(image, atlas.ontology.classes[label], own, mask, asked.seed)
                )
                for label, own in asked.questions
            }
        )
    return _histograms(found, atlas.ontology, extent.get("smallest", 1))


def _choose(
    images: ImageSet, indices: NDArray[np.int64], targets: Sequence[int], how: tuple[int, int]
) -> Iterator[_Asked]:
    """Yield the images to score, one a patient, with their questions.

    The image with the smallest digest stands for its patient. Each patient is a candidate for its
    own class and for one drawn other class; of each list the `per_class` smallest digests are kept.
    """
    per_class, seed = how
    chosen: dict[int, tuple[bytes, int]] = {}
    for index in indices[images.labels[indices] >= 0]:
        patient, digest = int(images.patients[index]), _digest(images.images[index], seed)
        chosen[patient] = min(chosen.get(patient, (digest, int(index))), (digest, int(index)))
    people = sorted(chosen.values())
    taken: Counter[tuple[int, bool]] = Counter()
    for digest, index in people:
        own = int(images.labels[index])
        others = [label for label in targets if label != own]
        wanted = [(own, True)] if own in targets else []
        if others:
            wanted.append((others[int.from_bytes(digest[8:12]) % len(others)], False))
        asked = [question for question in wanted if taken[question] < per_class]
        taken.update(asked)
        if asked:
            own_last = digest[12] % 2 == 0
            ordered = tuple(sorted(asked, key=lambda question: question[1] == own_last))
            yield _Asked(index, int.from_bytes(digest[:8]), ordered)


def _digest(pixels: NDArray[np.uint8], seed: int) -> bytes:
    """Return 16 bytes that follow from the pixels and the seed alone."""
    salt = (seed % 2**64).to_bytes(8, "little")
    return hashlib.blake2b(pixels.tobytes(), digest_size=16, salt=salt).digest()


def _histograms(found: list[dict[int, Scores]], ontology: OntologyConfig, smallest: int) -> Sum:
    """Return the sum of the scored patients; each is label to scores, in order of precedence."""
    total = empty_explanation_sum(ontology)
    metrics = metrics_of(ontology)
    last = len(ontology.classes)
    for label in range(last):
        rows = [scores[label] for scores in found if label in scores]
        _fill(total, metrics, label, rows, smallest)
    together = [_released(scores, total) for scores in found]
    _fill(total, metrics, last, [scores for scores in together if scores], smallest)
    return total


def _released(patient: dict[int, Scores], total: Sum) -> Scores:
    """Return what a patient adds to the last row: of each label what its own row shows.

    A metric that a row withholds would otherwise be the last row less the other rows.
    """
    merged: Scores = {}
    for label, scores in patient.items():
        merged |= {name: value for name, value in scores.items() if total[name][label].any()}
    return merged


def _fill(
    total: Sum, metrics: Sequence[Metric], row: int, rows: list[Scores], smallest: int
) -> None:
    """Count one row of the table into the arrays; cells of too few patients stay zero."""
    total["scored"][row] = len(rows) if len(rows) >= smallest else 0
    for metric in metrics:
        values = np.array([scores[metric.name] for scores in rows if metric.name in scores])
        if 0 < len(values) < smallest:
            total["suppressed"][row] += 1
        elif len(values):
            counts = np.bincount(metric.place(values), minlength=metric.points)
            total[metric.name][row] = counts


def explanation_figures(total: Sum, ontology: OntologyConfig) -> list[dict[str, Any]]:
    """Return the table of merged sums, ready for JSON: one dict a class, the last for all classes.

    Args:
        total: `explanation_sum` of all sites (or of one), merged.
        ontology: the one the sums were made with.

    Returns:
        Per row "class", "n" scored patients, "n_masks" patients with a known region, "suppressed"
        withheld cells, and per family of metrics a figure `{"value", "low", "high", "n", "goal",
        "met"}` or, for families with parts (methods, attributes), a dict of figures by part.
    """
    rows = []
    for row, name in enumerate((*ontology.classes, ALL_CLASSES)):
        content: dict[str, Any] = {
            "class": name,
            "n": round(float(total["scored"][row])),
            "n_masks": round(float(total[f"iou.{OWN_METHOD}"][row].sum())),
            "suppressed": round(float(total["suppressed"][row])),
        }
        for metric in metrics_of(ontology):
            figure = asdict(figure_of(metric, total[metric.name][row]))
            if metric.part:
                content.setdefault(metric.family, {})[metric.part] = figure
            else:
                content[metric.family] = figure
        content.setdefault("collateral", {})
        rows.append(content)
    return rows
