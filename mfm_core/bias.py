"""Which recorded field biases which answer: ranked from released cells alone.

Per contrast of an attribute (`contrasts`) and class, from the atlas and the head:

- encoded: squared Mahalanobis distance D^2 of the two sides within classes (`whitening`), and
  AUC = Phi(D / 2). With nu = patients - classes and Omega = sum_y n_y1 n_y0 / n_y, the distance in
  units of S_w is R^2 nu / Omega of the regression of the attribute on the latents within classes.
  R^2 is corrected for its chance value k / nu (Wherry 1931), and the field's own part of S_w is
  taken away. The atlas keeps no spread within patients: where a patient's images differ in the
  field (counts are not whole) only half of that part is taken away, and the AUC of a field that
  is plain to see reads too low rather than too high.
- confounded: phi of value and class, from the counts.
- aligned: Mahalanobis cosine of the field's axis and the class axis.
- used: tau, the change of the class's logit (against the mean of the others) along the axis, and
  the effect tau / sd(logit within classes).

Score = (2 AUC - 1) |effect|. The null permutes the attribute within classes; the mean difference
is then a random direction of covariance S_w / Omega (`Whitened.draw`). The score's p is drawn,
the effect's p is exact for such a direction (Student's t), and the row's p is the larger one: a
bias must be encoded *and* used, and a field that is plain to see but used by nobody is none. q is
Benjamini and Hochberg's (1995) over all contrasts and classes.

Source: design section 10 (ours); paper section 3.3 has one attribute and no test.
What crosses the hospital's boundary: nothing new; everything is computed from released sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from mfm_core.atlas import Atlas
from mfm_core.contrasts import (
    Contrast,
    Sides,
    contrasts_of,
    here_or_elsewhere,
    sides_of,
    with_sites,
)
from mfm_core.errors import DataError
from mfm_core.flips import empty_flip_sum, flip_figures, flip_sum, without_small_cells
from mfm_core.head import Head
from mfm_core.sums import Array
from mfm_core.whitening import Null, Whitened, whiten

__all__ = [
    "BiasRow",
    "empty_flip_sum",
    "flip_figures",
    "flip_sum",
    "here_or_elsewhere",
    "rank_biases",
    "rank_fields",
    "with_sites",
    "without_small_cells",
]

SMALLEST_OMEGA = 10.0
"""Least Omega, e.g. 20 against 20 patients; below it the central limit is no guide."""

SMALLEST_EFFECT = 0.2
"""Least |effect| of a flagged row. A shift by less changes at most 8 % of the answers even if all
logits of a class were centred on the decision: 2 Phi(0.1) - 1."""

SMALLEST_AUC = 0.6
"""Least encoded AUC of a flagged row."""

LEVEL = 0.05
"""False discovery rate of the flags."""

FEWEST_DEGREES = 20
"""Patients beyond one per class that are needed to judge anything."""

DRAWS = 20_000

REST = 0.01
"""Part of the variance along an axis that is never explained away; the AUC stays below 1."""

MIXED = 0.5
"""Part of a field's variance found between patients when their images differ in it; 0.61 in
phantoms of 1 to 3 films, smaller with more."""

WHOLE = 1e-3
"""Counts this near to whole numbers are whole; fixed-point sums round."""


@dataclass(frozen=True)
class BiasRow:
    """What one contrast does to one class; numbers are None where `reason` says why.

    Attributes:
        attribute: the field.
        value: the side that the axis points to.
        against: the other side, in words.
        class_name: the class; "class" in `to_dict`.
        n_value: patients of all classes with the value.
        n_against: patients of all classes with another known value.
        encoded_auc: how well the sides can be told apart within a class, in [0.5, 1].
        d_squared: squared distance of the sides, corrected for chance; at or below 0 is chance.
        phi: correlation of value and class over patients, in [-1, 1].
        aligned: Mahalanobis cosine of the field's axis and the class axis, in [-1, 1].
        tau: change of the class's logit from `against` to `value`, nats.
        effect: tau over the within-class standard deviation of that logit.
        score: (2 encoded_auc - 1) |effect|.
        p: the larger p-value of score and effect.
        q: p after Benjamini and Hochberg.
        flagged: q <= LEVEL, |effect| >= SMALLEST_EFFECT and encoded_auc >= SMALLEST_AUC.
        reason: why there are no numbers, else empty.
        sentence: the row in plain words.
    """

    attribute: str
    value: str
    against: str
    class_name: str
    n_value: float
    n_against: float
    encoded_auc: float | None = None
    d_squared: float | None = None
    phi: float | None = None
    aligned: float | None = None
    tau: float | None = None
    effect: float | None = None
    score: float | None = None
    p: float | None = None
    q: float | None = None
    flagged: bool = False
    reason: str = ""
    sentence: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the row ready for JSON: numbers of six digits, p and q of three significant."""
        content = asdict(self)
        content["class"] = content.pop("class_name")
        for name, found in content.items():
            if isinstance(found, float):
                content[name] = float(f"{found:.3g}") if name in ("p", "q") else round(found, 6)
        return content


def rank_biases(atlas: Atlas, head: Head, *, seed: int = 0) -> tuple[BiasRow, ...]:
    """Return a row per contrast and class, highest score first; rows without numbers come last.

    Args:
        atlas: pooled cells; `with_sites` adds site identity as a field.
        head: whose answers are examined, on latents of the same encoder.
        seed: of the null's draws.

    Raises:
        DataError: atlas or head holds numbers that are not finite, or their shapes disagree.
    """
    _refuse_unusable(atlas, head)
    contrasts = contrasts_of(atlas.ontology)
    present = int((atlas.counts > 0).sum())
    degrees = float(atlas.counts.sum()) - present
    if present < 2 or degrees < FEWEST_DEGREES:
        reason = f"{atlas.counts.sum():.0f} patients in {present} classes are too few"
        rows = [r for c in contrasts for r in _empty(atlas, c, sides_of(atlas, c), reason)]
        return tuple(_told(row) for row in rows)
    space = whiten(atlas, head)
    null = space.draw(seed, DRAWS)
    rows = [row for contrast in contrasts for row in _judge(atlas, contrast, space, null)]
    told = [_told(row) for row in _with_q(rows)]
    return tuple(sorted(told, key=lambda row: (row.score is None, -(row.score or 0.0))))


def rank_fields(rows: Sequence[BiasRow]) -> tuple[BiasRow, ...]:
    """Return each attribute's highest row, in the order of `rank_biases`."""
    best: dict[str, BiasRow] = {}
    for row in rows:
        best.setdefault(row.attribute, row)
    return tuple(best.values())


def encoded_distance(
    r_squared: Array, directions: int, degrees: int, omega: float, own: float
) -> Array:
    """Return the squared distance of two sides from R^2, corrected for chance (module docstring).

    Args:
        r_squared: any shape, of the attribute on `directions` latents within classes.
        directions: k < `degrees`.
        degrees: nu.
        omega: sum of n1 n0 / (n1 + n0) over classes.
        own: part of the field's variance that S_w contains, 1 when it is a patient's.
    """
    adjusted = 1.0 - (1.0 - r_squared) * degrees / (degrees - directions)
    rest = np.maximum(1.0 - own * np.maximum(adjusted, 0.0), REST)
    distance: Array = degrees / omega * adjusted / rest
    return distance


def encoded_auc(distance: Array) -> Array:
    """Return Phi(D / 2) of squared distances, 0.5 at or below 0."""
    auc: Array = norm.cdf(np.sqrt(np.maximum(distance, 0.0)) / 2.0)
    return auc


def _judge(atlas: Atlas, contrast: Contrast, space: Whitened, null: Null) -> list[BiasRow]:
    """Return the rows of one contrast, without q."""
    sides = sides_of(atlas, contrast)
    omega = float(sides.omega.sum())
    reason = sides.problem
    if not reason and omega < SMALLEST_OMEGA:
        reason = "too few patients on one side"
    if reason:
        return _empty(atlas, contrast, sides, reason)
    place, degrees = space.place(sides.axis), space.degrees
    measure = (space.size, degrees, omega, _own_part(atlas, contrast, sides))
    squared = np.array(min(1.0, float(place @ place) * omega / degrees))
    distance = encoded_distance(squared, *measure)
    visible = 2.0 * encoded_auc(distance) - 1.0
    drawn = 2.0 * encoded_auc(encoded_distance(null.r_squared, *measure)) - 1.0
    tau = space.logit_change(sides.axis)
    effects = tau / space.spread
    p_effect = _effect_p(effects * np.sqrt(omega / degrees), degrees)
    rows = []
    for label, row in enumerate(_empty(atlas, contrast, sides, "")):
        if row.reason:
            rows.append(row)
            continue
        score = float(visible * abs(effects[label]))
        as_high = (drawn * np.abs(null.effects[:, label]) / np.sqrt(omega) >= score).sum()
        class_place = space.place(atlas.class_axis(row.class_name))
        measured = replace(
            row,
            encoded_auc=float(encoded_auc(distance)),
            d_squared=float(distance),
            phi=_phi(sides.counts, label),
            aligned=_cosine(place, class_place),
            tau=float(tau[label]),
            effect=float(effects[label]),
            score=score,
            p=max(float(1 + as_high) / (1 + DRAWS), float(p_effect[label])),
        )
        rows.append(measured)
    return rows


def _empty(atlas: Atlas, contrast: Contrast, sides: Sides, reason: str) -> list[BiasRow]:
    """Return a row per class without numbers."""
    absent = "no patient of this class was counted"
    return [
        BiasRow(
            attribute=contrast.attribute,
            value=contrast.value,
            against=contrast.against,
            class_name=name,
            n_value=float(sides.counts[0].sum()),
            n_against=float(sides.counts[1].sum()),
            reason=reason or ("" if count > 0 else absent),
        )
        for name, count in zip(atlas.ontology.classes, atlas.counts, strict=True)
    ]


def _own_part(atlas: Atlas, contrast: Contrast, sides: Sides) -> float:
    """Return how much of the field's variance S_w contains, as a multiple of what Omega says.

    1 for a field of the patient that is known of everybody; more where it is not known of all
    (their spread holds it too), less where a patient's images differ in it.
    """
    counts = atlas.attribute_counts[contrast.attribute]
    whole = bool((np.abs(counts - counts.round()) < WHOLE).all())
    both = sides.omega > 0
    unknown = float(atlas.counts[both].sum() / sides.counts[:, both].sum())
    return max(1.0, unknown) * (1.0 if whole else MIXED)


def _effect_p(correlations: Array, degrees: int) -> Array:
    """Return the two-sided p of correlations with one fixed direction among `degrees`."""
    bounded = np.clip(np.abs(correlations), 0.0, 1.0 - 1e-12)
    statistic = bounded * np.sqrt((degrees - 1) / (1.0 - bounded**2))
    p: Array = 2.0 * student.sf(statistic, degrees - 1)
    return p


def _phi(counts: Array, label: int) -> float | None:
    """Return phi of value and class from `[2, K]` counts, None where a margin is empty."""
    inside, total = counts[:, label], counts.sum()
    value, own = counts[0].sum() / total, inside.sum() / total
    spread = value * (1 - value) * own * (1 - own)
    return float((inside[0] / total - value * own) / np.sqrt(spread)) if spread > 0 else None


def _cosine(one: Array, other: Array) -> float:
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / size if size > 0 else 0.0


def _with_q(rows: list[BiasRow]) -> list[BiasRow]:
    """Return the rows with q and flag."""
    tested = [index for index, row in enumerate(rows) if row.p is not None]
    p = np.array([rows[index].p for index in tested])
    order = np.argsort(p)[::-1]
    q = np.empty(len(p))
    q[order] = np.minimum.accumulate(p[order] * len(p) / np.arange(len(p), 0, -1))
    done = list(rows)
    for index, found in zip(tested, q.tolist(), strict=True):
        row = rows[index]
        clear = abs(row.effect or 0.0) >= SMALLEST_EFFECT
        seen = (row.encoded_auc or 0.0) >= SMALLEST_AUC
        done[index] = replace(row, q=min(1.0, found), flagged=found <= LEVEL and clear and seen)
    return done


def _told(row: BiasRow) -> BiasRow:
    """Return the row with its sentence."""
    field = row.attribute[0].upper() + row.attribute[1:]
    subject = f"{field} ({row.value} against {row.against})"
    if row.encoded_auc is None or row.tau is None or row.effect is None:
        return replace(
            row, sentence=f"{subject} was not judged for {row.class_name}: {row.reason}."
        )
    auc = "above 0.99" if row.encoded_auc > 0.99 else f"{row.encoded_auc:.2f}"
    way = "higher" if row.tau > 0 else "lower"
    moved = f"{abs(row.tau):.1f} logits {way} for {row.class_name} with {row.value}"
    if row.encoded_auc < SMALLEST_AUC:
        text = f"{subject} is hardly visible in the latents (AUC {auc}); no effect is claimed."
    elif row.flagged:
        text = (
            f"{subject} is visible in the latents (AUC {auc}) and moves the model's answer: "
            f"images are read {moved} than with {row.against}."
        )
    elif abs(row.effect) < SMALLEST_EFFECT:
        text = (
            f"{subject} is visible in the latents (AUC {auc}) but hardly moves the answer for "
            f"{row.class_name} ({row.tau:+.1f} logits)."
        )
    else:
        text = (
            f"{subject} is visible in the latents (AUC {auc}); images are read {moved}, "
            "which may be chance."
        )
    if row.phi is not None and abs(row.phi) >= 0.1:
        tie = "more" if row.phi > 0 else "less"
        text += (
            f" Among the training patients {row.class_name} has {row.value} {tie} often than the "
            f"other classes (phi {row.phi:+.2f})."
        )
    return replace(row, sentence=text)


def _refuse_unusable(atlas: Atlas, head: Head) -> None:
    """Raise one DataError that lists everything wrong with atlas and head."""
    problems = []
    if head.weight.shape != atlas.means.shape or head.bias.shape != atlas.counts.shape:
        reason = f"the head has shape {head.weight.shape}, the atlas needs {atlas.means.shape}"
        problems.append(f"{reason}; use model and atlas of the same run")
    if not (np.isfinite(head.weight).all() and np.isfinite(head.bias).all()):
        problems.append("the head is not finite; use an earlier checkpoint")
    cells = [*atlas.attribute_counts.values(), *atlas.attribute_means.values()]
    arrays = [atlas.counts, atlas.means, atlas.covariance, *cells]
    if not all(np.isfinite(array).all() for array in arrays):
        problems.append("the atlas is not finite; ask the coordinator for a new one")
    elif any((array < 0).any() for array in (atlas.counts, *atlas.attribute_counts.values())):
        problems.append("the atlas has counts below 0; ask the coordinator for a new one")
    if problems:
        raise DataError("bias ranking", problems)
