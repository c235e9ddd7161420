"""Test figures from mergeable sums: AUC, AP, F1 and rate per class, with intervals by patient.

A site counts its scores into histograms; histograms of all sites add up; the figures are read from
the total. The score of class k is the one-vs-rest log-odds of the softmax, log p_k / (1 - p_k).
Bins are even in asinh((s - s0) / 0.1) over s0 +- 512, s0 = -log(K - 1) the log-odds of not
knowing: fine where scores of an undecided model lie, wider where it is sure, so that one grid fits
logits of any scale. With 4,096 bins the AUC is within 1e-3 (typically 1e-4) and the AP within 1e-2
of the exact one unless all logits lie within about 0.02; scores in one bin count half, as ties do.

Intervals are 95 % percentiles of the Poisson bootstrap (Chamandy et al. 2012): each replicate gives
each *patient* a weight drawn from Poisson(1), all the patient's images together. Sites draw on
their own, so replicates add as the counts do, and no site needs to know another's patients.
Replicates use 128 bins (32 of the fine ones each) and are moved by fine minus coarse.

Source: paper section 3.1, Table 1. What crosses the hospital's boundary: the histograms, confusion
matrices and SSIM totals, and their weighted copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import logsumexp

from mfm_core.errors import DataError
from mfm_core.sums import Array, Sum

FINE_BINS = 4096
COARSE_BINS = 128
RANGE = 512.0
LINEAR_PART = 0.1
PATIENTS_AT_ONCE = 4096
LEVELS = (2.5, 97.5)
DIGITS = 6


@dataclass(frozen=True)
class Estimate:
    """One figure: value and 95 % interval; None where it is not defined or not drawn."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class ClassMetrics:
    """The row of one class in the paper's Table 1; n counts its images, rate is their part."""

    name: str
    auc: Estimate
    ap: Estimate
    f1: Estimate
    rate: float | None
    n: int


@dataclass(frozen=True)
class Metrics:
    """All test figures; macro figures are means over the classes that have test images."""

    macro_auc: Estimate
    macro_ap: Estimate
    macro_f1: Estimate
    accuracy: Estimate
    ssim: Estimate
    per_class: tuple[ClassMetrics, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what goes into results.json: floats of six digits, None for undefined."""
        content = asdict(self)
        content["per_class"] = [{"class": row.pop("name"), **row} for row in content["per_class"]]
        return content


def metric_sum(
    logits: NDArray[np.floating],
    labels: NDArray[np.int64],
    ssim: NDArray[np.floating],
    patients: NDArray[np.int64],
    replicates: int,
    seed: int,
) -> Sum:
    """Return one site's part of the test figures.

    Args:
        logits: `[N, K]`, finite.
        labels: `[N]` class index; -1 counts for SSIM only.
        ssim: `[N]` in [-1, 1].
        patients: `[N]` equal for images of one patient: the unit that is drawn.
        replicates: R bootstrap replicates; 0 draws none and gives no intervals.
        seed: of this site's draws; sites need different ones.

    Returns:
        "histogram" `[K, 2, 4096]` (others, own), "confusion" `[K, K]` (true, predicted),
        "ssim" `[2]` (total, images) and, for R > 0, the same weighted: "replicate.histogram"
        `[R, K, 2, 128]`, "replicate.confusion" `[R, K, K]`, "replicate.ssim" `[R, 2]`.

    Raises:
        DataError: lengths differ, or a logit or SSIM is not finite.
    """
    _refuse_unusable(logits, labels, ssim, patients)
    classes, labelled = logits.shape[1], np.flatnonzero(labels >= 0)
    true = labels[labelled]
    fine = _bins(logits[labelled])
    own = np.arange(classes) == true[:, None]
    column = 2 * np.arange(classes) + own
    confused = true * classes + logits[labelled].argmax(axis=1)
    histogram = np.bincount((column * FINE_BINS + fine).ravel(), minlength=classes * 2 * FINE_BINS)
    arrays = {
        "histogram": histogram.reshape(classes, 2, FINE_BINS),
        "confusion": np.bincount(confused, minlength=classes**2).reshape(classes, classes),
        "ssim": np.array([ssim.sum(dtype=np.float64), len(ssim)]),
    }
    if replicates > 0:
        people, patient = np.unique(patients, return_inverse=True)
        who, sizes = patient[labelled], (classes * 2 * COARSE_BINS, classes**2, 2)
        coarse = column * COARSE_BINS + fine // (FINE_BINS // COARSE_BINS)
        tables = (
            _per_patient(coarse.ravel(), np.repeat(who, classes), sizes[0], len(people)),
            _per_patient(confused, who, sizes[1], len(people)),
            csr_array(np.stack([np.bincount(patient, ssim, len(people)), np.bincount(patient)])),
        )
        drawn = _draw(tables, len(people), replicates, seed)
        shape = (replicates, classes, 2, COARSE_BINS)
        arrays["replicate.histogram"] = drawn[0].reshape(shape)
        arrays["replicate.confusion"] = drawn[1].reshape(replicates, classes, classes)
        arrays["replicate.ssim"] = drawn[2]
    return Sum(arrays)


def metrics_from(total: Sum, classes: tuple[str, ...]) -> Metrics:
    """Return the figures of merged sums.

    Args:
        total: `metric_sum` of all sites (or of one), merged.
        classes: the ontology's names, in order.

    Returns:
        Metrics; a class without test images has None everywhere, and intervals are None without
        replicates or where fewer than half of them hold the class.
    """
    confusion = total["confusion"]
    images = confusion.sum(axis=1)
    point = _figures(total["histogram"], confusion)
    replicas: Mapping[str, Array] | None = None
    if "replicate.histogram" in total.arrays:
        grouped = (*total["histogram"].shape[:2], COARSE_BINS, -1)
        coarse = _figures(total["histogram"].reshape(grouped).sum(axis=-1), confusion)
        drawn = _figures(total["replicate.histogram"], total["replicate.confusion"], coarse)
        replicas = {name: drawn[name] + point[name] - coarse[name] for name in point}

    def estimate(name: str, n: float, *index: int) -> Estimate:
        values = None if replicas is None else replicas[name].T[index]
        return _estimate(float(point[name][index]), values, int(n))

    n = images.sum()
    rows = [
        ClassMetrics(
            name=name,
            auc=estimate("auc", images[k], k),
            ap=estimate("ap", images[k], k),
            f1=estimate("f1", images[k], k),
            rate=round(float(images[k] / n), DIGITS) if n > 0 else None,
            n=int(images[k]),
        )
        for k, name in enumerate(classes)
    ]
    return Metrics(
        macro_auc=estimate("macro_auc", n),
        macro_ap=estimate("macro_ap", n),
        macro_f1=estimate("macro_f1", n),
        accuracy=estimate("accuracy", n),
        ssim=_ssim_estimate(total),
        per_class=tuple(rows),
    )


def _refuse_unusable(
    logits: NDArray[np.floating],
    labels: NDArray[np.int64],
    ssim: NDArray[np.floating],
    patients: NDArray[np.int64],
) -> None:
    """Raise one DataError that lists everything wrong with the inputs."""
    images = (len(logits),)
    if logits.ndim != 2 or not labels.shape == ssim.shape == patients.shape == images:
        shapes = f"{logits.shape}, {labels.shape}, {ssim.shape}, {patients.shape}"
        expected = "expected logits [N, K] and labels, ssim, patients [N]"
        raise DataError("test scores", [f"{expected}; found {shapes}"])
    problems = []
    if not np.isfinite(logits).all():
        problems.append("a logit is not finite: the model has diverged; use an earlier checkpoint")
    if not np.isfinite(ssim).all():
        problems.append("an SSIM is not finite: the model has diverged; use an earlier checkpoint")
    if ((labels < -1) | (labels >= logits.shape[1])).any():
        problems.append(f"a label is outside -1..{logits.shape[1] - 1}; check the ontology")
    if problems:
        raise DataError("test scores", problems)


def _bins(logits: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return `[N, K]` fine bins of the one-vs-rest log-odds."""
    scores, classes = logits.astype(np.float64), logits.shape[1]
    for k in range(classes):
        scores[:, k] -= logsumexp(np.delete(logits, k, axis=1), axis=1) if len(logits) else 0.0
    unsure = -np.log(max(classes - 1, 1))
    place = np.arcsinh((scores - unsure) / LINEAR_PART) / np.arcsinh(RANGE / LINEAR_PART)
    bins = np.floor((place + 1) / 2 * FINE_BINS)
    fine: NDArray[np.int64] = np.clip(bins, 0, FINE_BINS - 1).astype(np.int64)
    return fine


def _per_patient(
    cell: NDArray[np.int64], patient: NDArray[np.int64], cells: int, patients: int
) -> csr_array:
    """Return `[cells, patients]`: how often each patient's images fall into each cell."""
    return csr_array((np.ones(len(cell)), (cell, patient)), shape=(cells, patients))


def _draw(tables: tuple[csr_array, ...], patients: int, replicates: int, seed: int) -> list[Array]:
    """Return each table weighted by Poisson(1) per patient and replicate, `[R, cells]`."""
    generator = np.random.default_rng(seed)
    totals = [np.zeros((table.shape[0], replicates)) for table in tables]
    for first in range(0, patients, PATIENTS_AT_ONCE):
        some = slice(first, min(first + PATIENTS_AT_ONCE, patients))
        weights = generator.poisson(1.0, (some.stop - first, replicates)).astype(np.float64)
        for index, table in enumerate(tables):
            totals[index] += table[:, some] @ weights
    return [np.ascontiguousarray(total.T) for total in totals]


def _figures(
    histogram: Array, confusion: Array, absent: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Return the figures of `[..., K, 2, B]` and `[..., K, K]`; NaN where not defined.

    `absent` holds what a class counts for in the macro figures of a replicate that drew none of
    its patients. Leaving it out instead would drop the rare classes, often the hard ones, and
    lift the interval above the figure.
    """
    others, own = histogram[..., 0, :], histogram[..., 1, :]
    n_others, n_own = others.sum(axis=-1), own.sum(axis=-1)
    below = np.cumsum(others, axis=-1) - others / 2
    own_above = np.cumsum(own[..., ::-1], axis=-1)[..., ::-1]
    all_above = own_above + np.cumsum(others[..., ::-1], axis=-1)[..., ::-1]
    precision = own_above / np.maximum(all_above, 1.0)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    f1 = _ratio(2 * hits, true + predicted)
    figures = {
        "auc": _ratio((own * below).sum(axis=-1), n_own * n_others),
        "ap": _ratio((own * precision).sum(axis=-1), n_own),
        "f1": np.where(true > 0, f1, np.nan),
        "accuracy": _ratio(hits.sum(axis=-1), true.sum(axis=-1)),
    }
    for name in ("auc", "ap", "f1"):
        values = figures[name]
        if absent is not None:
            values = np.where(np.isfinite(values), values, absent[name])
        known = np.isfinite(values)
        total = np.where(known, values, 0.0).sum(axis=-1)
        figures[f"macro_{name}"] = _ratio(total, known.sum(axis=-1))
    return figures


def _ratio(upper: Array, lower: Array) -> Array:
    """Return upper / lower, NaN where lower is 0."""
    safe = np.where(lower > 0, lower, 1.0)
    ratio: Array = np.where(lower > 0, upper / safe, np.nan)
    return ratio


def _estimate(value: float, drawn: Array | None, n: int, lowest: float = 0.0) -> Estimate:
    """Return the rounded figure; an interval needs half of the replicates to be defined."""
    if not np.isfinite(value):
        return Estimate(None, None, None, n)
    usable = drawn[np.isfinite(drawn)] if drawn is not None else np.zeros(0)
    if drawn is None or 2 * len(usable) < len(drawn):
        return Estimate(round(value, DIGITS), None, None, n)
    low, high = np.clip(np.percentile(usable, LEVELS), lowest, 1.0)
    return Estimate(round(value, DIGITS), round(float(low), DIGITS), round(float(high), DIGITS), n)


def _ssim_estimate(total: Sum) -> Estimate:
    """Return the mean SSIM over all images, labelled or not."""
    mean = _ratio(total["ssim"][0], total["ssim"][1])
    drawn = None
    if "replicate.ssim" in total.arrays:
        drawn = _ratio(total["replicate.ssim"][:, 0], total["replicate.ssim"][:, 1])
    return _estimate(float(mean), drawn, int(total["ssim"][1]), lowest=-1.0)
