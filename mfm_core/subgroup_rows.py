"""The rows of the subgroup table: figures per value and class, gaps between values, with intervals.

Every figure is a mean of class-conditional parts under a mix of classes. With the value's own mix
it is the plain figure; with the mix of all values together it is the prevalence-matched one,
restricted to the classes that every compared value shows. A sensitivity belongs to one class and
does not change with the mix; with two classes neither do specificity and AUC.
What crosses the hospital's boundary: nothing; rows are made from sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfm_core.config import OntologyConfig
from mfm_core.intervals import Kind, Measured, estimate_of, gap_of, jackknife_variance, worst_of
from mfm_core.sums import Array, Sum

RANGE, LINEAR_PART = 40.0, 0.5
"""Scores are binned evenly in asinh(score / LINEAR_PART) over +-RANGE."""

LEVELS_OF_CONFIDENCE = 10
CLASS_FIGURES: dict[str, Kind] = {
    "auc": "rank",
    "sensitivity": "share",
    "specificity": "share",
    "calibration_error": "error",
    "over_confidence": "signed",
}
"""Per value and class, and how their intervals are made."""

VALUE_FIGURES: dict[str, Kind] = {
    "accuracy": "share",
    "calibration_error": "error",
    "over_confidence": "signed",
}
"""Per value, over all classes."""

TABLES = ("scores", "decisions", "excess")


@dataclass(frozen=True)
class _Measurements:
    """All figures of one attribute under one mix: values and variances `[V, K]` or `[V]`."""

    by_class: Mapping[str, tuple[Array, Array]]
    by_value: Mapping[str, tuple[Array, Array]]


@dataclass(frozen=True)
class _Attribute:
    """What the merged sum says of one attribute; cells that are not shown hold zeros.

    Attributes:
        name: the attribute.
        values: its V values.
        classes: the K classes.
        patients: `[V, K]` of the cells shown.
        images: `[V, K]` likewise.
        hidden_at: `[V, K]` sites that left the cell out.
        too_few: `[V, K] bool`, left out here.
    """

    name: str
    values: tuple[str, ...]
    classes: tuple[str, ...]
    patients: Array
    images: Array
    hidden_at: Array
    too_few: NDArray[np.bool_]

    def measured(self, found: _Measurements, figure: str, value: int, k: int) -> Measured | None:
        """Return the figure of class `k` in a value, or None where it is not defined."""
        numbers, spread = found.by_class[figure]
        if not np.isfinite(numbers[value, k]):
            return None
        own, rest = (self.patients[value, k], np.delete(self.patients[value], k).sum())
        images = self.images[value]
        n, rests_on = {
            "sensitivity": (images[k], own),
            "specificity": (images.sum() - images[k], rest),
        }.get(figure, (images.sum(), min(own, rest)))
        kind = CLASS_FIGURES[figure]
        return Measured(float(numbers[value, k]), float(spread[value, k]), rests_on, int(n), kind)

    def measured_whole(self, found: _Measurements, figure: str, value: int) -> Measured | None:
        """Return the figure of a value over all its classes, or None."""
        numbers, spread = found.by_value[figure]
        if not np.isfinite(numbers[value]):
            return None
        patients, n = self.patients[value].sum(), int(self.images[value].sum())
        kind = VALUE_FIGURES[figure]
        return Measured(float(numbers[value]), float(spread[value]), patients, n, kind)

    def mean_auc(self, found: _Measurements, value: int, classes: Sequence[int]) -> Measured | None:
        """Return the mean AUC of some classes; its deviation is at most the mean of theirs."""
        known = [self.measured(found, "auc", value, k) for k in classes]
        each = [row for row in known if row is not None]
        if not each:
            return None
        spread = float(np.mean(np.sqrt([row.variance for row in each]))) ** 2
        mean = float(np.mean([row.value for row in each]))
        return Measured(mean, spread, min(r.patients for r in each), each[0].n, "rank")


def subgroup_figures(total: Sum, ontology: OntologyConfig, smallest: int) -> list[dict[str, Any]]:
    """Return the rows of the subgroup table.

    Args:
        total: `subgroup_sum` of all sites (or of one), merged.
        ontology: the one the sums were made with.
        smallest: fewest patients of a value and class that are shown; smaller cells are left out
            of every figure.

    Returns:
        Per attribute, rows of `kind` "value" (`attribute`, `value`, `class`, `n` images,
        `patients`, `hidden_sites`, `prevalence`, estimates, `reason`) and "gap" (`attribute`,
        `class`, `values` compared, `raw` and `matched` estimates, `reason`). `class` None stands
        for all classes: there `auc` is the mean over classes. An estimate holds value, low, high
        and n; where its value is None, `reason` says why.
    """
    rows, first = [], 0
    for name, values in ontology.attributes.items():
        place = slice(first, first + len(values))
        rows += _rows(total, (name, values), ontology.classes, place, smallest)
        first += len(values)
    return rows


def _rows(
    total: Sum,
    attribute: tuple[str, tuple[str, ...]],
    classes: tuple[str, ...],
    place: slice,
    smallest: int,
) -> list[dict[str, Any]]:
    patients = total["patients"][place]
    too_few = (patients > 0) & (patients < smallest)
    show = (patients > 0) & ~too_few
    fine = total["scores"][place] * show[:, None, :, None]
    groups = {
        "scores": total["group.scores"][:, place] * show[:, None, :, None],
        "decisions": total["group.decisions"][:, place] * show[:, :, None],
        "excess": total["group.excess"][:, place] * show[:, :, None],
    }
    images = groups["decisions"].sum(axis=(0, 3))
    hidden_at = total["suppressed"][place]
    about = _Attribute(*attribute, classes, patients * show, images, hidden_at, too_few)
    compared = np.flatnonzero(show.any(axis=1))
    common = show[compared].all(axis=0) if len(compared) else np.zeros(len(classes), bool)
    mix = np.where(common, images.sum(axis=0), 0.0)
    raw = _measure(fine, groups, None)
    matched = _measure(fine, groups, mix)
    rows = [_value_row(about, raw, v, k) for v in range(len(about.values)) for k in _each(about)]
    shared = [int(k) for k in np.flatnonzero(common)]
    return rows + [_gap_row(about, (raw, matched), k, shared) for k in _each(about)]


def _each(about: _Attribute) -> tuple[int | None, ...]:
    return (*range(len(about.classes)), None)


def _measure(fine: Array, groups: Mapping[str, Array], mix: Array | None) -> _Measurements:
    """Return figures of the totals, and variances from the tables without each group."""
    whole = {name: table.sum(axis=0) for name, table in groups.items()}
    without = {name: whole[name] - table for name, table in groups.items()}
    point = _figures({**whole, "scores": fine}, mix)
    drawn = _figures(without, mix)
    pairs = [
        {name: (values, jackknife_variance(drawn[level][name])) for name, values in part.items()}
        for level, part in enumerate(point)
    ]
    return _Measurements(*pairs)


def _figures(
    tables: Mapping[str, Array], mix: Array | None
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the figures per class `[..., V, K]` and per value `[..., V]`; NaN where undefined."""
    decisions, excess = tables["decisions"], tables["excess"]
    counts = decisions.sum(axis=-1)
    weights = counts if mix is None else np.broadcast_to(mix, counts.shape)
    rates = _ratio(decisions, counts[..., None])
    recall = np.diagonal(rates, axis1=-2, axis2=-1)
    others = weights[..., :, None] * (1.0 - np.eye(counts.shape[-1]))
    auc, calibration_error, over_confidence = _score_figures(tables["scores"], mix)
    by_class = {
        "auc": auc,
        "sensitivity": recall if mix is None else np.where(mix > 0, recall, np.nan),
        "specificity": 1.0 - _mean(rates, others, axis=-2),
        "calibration_error": calibration_error,
        "over_confidence": over_confidence,
    }
    if mix is not None:
        by_class = {name: np.where(mix > 0, found, np.nan) for name, found in by_class.items()}
    per_bin = _mean(_ratio(excess, counts[..., None]), weights[..., None], axis=-2)
    by_value = {
        "accuracy": _mean(recall, weights, axis=-1),
        "calibration_error": np.abs(per_bin).sum(axis=-1),
        "over_confidence": per_bin.sum(axis=-1),
    }
    return by_class, by_value


def _score_figures(scores: Array, mix: Array | None) -> tuple[Array, Array, Array]:
    """Return AUC, calibration error and mean probability less prevalence, `[..., V, K]` each."""
    classes, bins = scores.shape[-2], scores.shape[-1]
    counts = scores.sum(axis=-1)
    weights = counts if mix is None else np.broadcast_to(mix, counts.shape)
    density = _ratio(scores, counts[..., None])
    below = np.cumsum(density, axis=-1) - density / 2
    own = np.einsum("...kkb->...kb", density)
    against = np.einsum("...kb,...kjb->...kj", own, below)
    auc = _mean(against, weights * (1.0 - np.eye(classes)), axis=-1)
    shares = _ratio(weights, weights.sum(axis=-1, keepdims=True))
    mixed = np.einsum("...kj,...kjb->...kb", shares, np.where(shares[..., None] > 0, density, 0.0))
    ill = np.einsum("...kk->...k", shares)[..., None] * own
    probability = _probabilities(bins, classes)
    level = np.minimum((probability * LEVELS_OF_CONFIDENCE).astype(int), LEVELS_OF_CONFIDENCE - 1)
    excess = (mixed * probability - ill) @ np.eye(LEVELS_OF_CONFIDENCE)[level]
    return auc, np.abs(excess).sum(axis=-1), excess.sum(axis=-1)


def _probabilities(bins: int, classes: int) -> Array:
    """Return `[B]`: the probability at the middle of each score bin."""
    place = (np.arange(bins) + 0.5) / bins * 2 - 1
    scores = LINEAR_PART * np.sinh(place * np.arcsinh(RANGE / LINEAR_PART))
    probability: Array = 1.0 / (1.0 + max(classes - 1, 1) * np.exp(-scores))
    return probability


def _ratio(upper: Array, lower: Array) -> Array:
    """Return upper / lower, NaN where lower is 0."""
    safe = np.where(lower > 0, lower, 1.0)
    ratio: Array = np.where(lower > 0, upper / safe, np.nan)
    return ratio


def _mean(values: Array, weights: Array, axis: int) -> Array:
    """Return the weighted mean; NaN without weight, or where a part with weight is undefined."""
    parts = np.where(weights > 0, values * weights, 0.0)
    return _ratio(parts.sum(axis=axis), np.broadcast_to(weights, parts.shape).sum(axis=axis))


def _value_row(about: _Attribute, raw: _Measurements, value: int, k: int | None) -> dict[str, Any]:
    """Return the row of one value and class, or of a value and all classes."""
    images, patients = about.images[value], about.patients[value]
    whole = slice(None) if k is None else k
    found: dict[str, Measured | None]
    if k is None:
        every = range(len(about.classes))
        found = {name: about.measured_whole(raw, name, value) for name in VALUE_FIGURES}
        found["auc"] = about.mean_auc(raw, value, every)
    else:
        found = {name: about.measured(raw, name, value, k) for name in CLASS_FIGURES}
    n = int(images[whole].sum())
    share = n / images.sum() if k is not None and images.sum() > 0 else None
    return {
        "kind": "value",
        "attribute": about.name,
        "value": about.values[value],
        "class": None if k is None else about.classes[k],
        "n": n,
        "patients": int(patients[whole].sum()),
        "hidden_sites": int(about.hidden_at[value][whole].max()),
        "prevalence": None if share is None else round(float(share), 6),
        **{name: asdict(estimate_of(found[name], n)) for name in sorted(found)},
        "reason": _why_missing(about, value, k),
    }


def _why_missing(about: _Attribute, value: int, k: int | None) -> str | None:
    """Return why figures of a row are None, or None where none is."""
    images, whole = about.images[value], slice(None) if k is None else k
    shown = images[whole].sum() > 0
    if shown and (images > 0).sum() >= 2:
        return None
    if shown:
        return "one class is shown in this group; a comparison needs a second one"
    if about.too_few[value][whole].any() or about.hidden_at[value][whole].any():
        return "too few patients; not shown, so that nobody can be found in it"
    return "no test image of it"


def _gap_row(
    about: _Attribute,
    found: tuple[_Measurements, _Measurements],
    k: int | None,
    common: Sequence[int],
) -> dict[str, Any]:
    """Return the gaps between an attribute's values for one class, or for all classes."""
    names = [v for v, row in zip(about.values, about.images, strict=True) if row.sum() > 0]
    gaps = _gaps_whole if k is None else _gaps_of_class
    raw, matched = (gaps(about, part, k, common) for part in found)
    figure = "auc" if k is None else "sensitivity"
    reason = None
    if len(names) < 2:
        reason = f"test images show {len(names)} of the values; a gap needs two"
    elif raw[figure]["value"] is None:
        reason = "fewer than two values show enough patients of this class and of another"
    elif matched[figure]["value"] is None or len(common) < 2:
        reason = "not matched: the values share fewer than two classes, or not this one"
    return {
        "kind": "gap",
        "attribute": about.name,
        "class": None if k is None else about.classes[k],
        "values": names,
        "raw": raw,
        "matched": matched,
        "reason": reason,
    }


def _gaps_of_class(
    about: _Attribute, found: _Measurements, k: int | None, common: Sequence[int]
) -> dict[str, Any]:
    assert k is not None
    figures = ("auc", "sensitivity", "specificity")
    values = range(len(about.values))
    each = {name: [about.measured(found, name, v, k) for v in values] for name in figures}
    gaps = {name: gap_of(each[name]) for name in figures}
    odds = [each["sensitivity"], each["specificity"]]
    complete = all(sum(row is not None for row in family) >= 2 for family in odds)
    gaps["equalised_odds"] = worst_of(odds if complete else [])
    return {name: asdict(gap) for name, gap in gaps.items()}


def _gaps_whole(
    about: _Attribute, found: _Measurements, k: int | None, common: Sequence[int]
) -> dict[str, Any]:
    values = range(len(about.values))
    gaps = {
        name: gap_of([about.measured_whole(found, name, v) for v in values])
        for name in VALUE_FIGURES
    }
    gaps["auc"] = gap_of([about.mean_auc(found, v, common) for v in values])
    return {name: asdict(gap) for name, gap in gaps.items()}
