"""How many answers change when only an attribute's part of the latent is exchanged.

Every test latent whose attribute value is known is moved along the class-conditional axis from its
own side of a contrast to the other (alpha = 1: exactly the mean difference of the two sides within
classes), and the head is asked again. A changed answer is a flip. A field can be plain to see in
the latents and flip nothing: encoded is not used.

The unit is a patient within a class: an image counts 1 / (images of this patient in this class
with a known value). Source: ours (design section 10).
What crosses the hospital's boundary: per contrast and true class the number of patients and how
many of them flipped; cells of fewer than `smallest` patients are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfm_core.atlas import Atlas
from mfm_core.config import OntologyConfig
from mfm_core.contrasts import Contrast, contrasts_of, sides_of
from mfm_core.errors import DataError
from mfm_core.head import Head
from mfm_core.intervals import share_interval
from mfm_core.sums import Array, Sum

DIGITS = 6

Integers = NDArray[np.int64]


def empty_flip_sum(ontology: OntologyConfig) -> Sum:
    """Return the flip sum of no image: zeros in the schema of every `flip_sum`."""
    arrays = {"flip.images": np.zeros(1)}
    for name in ontology.attributes:
        shape = (len(contrasts_of(ontology, name)), len(ontology.classes))
        arrays[f"flip.{name}.count"] = np.zeros(shape)
        arrays[f"flip.{name}.flipped"] = np.zeros(shape)
    return Sum(arrays)


def flip_sum(
    mu: NDArray[np.floating],
    labels: Integers,
    attributes: Integers,
    patients: Integers,
    atlas: Atlas,
    head: Head,
) -> Sum:
    """Return one site's flips.

    Args:
        mu: `[N, L]` latent means, finite.
        labels: `[N]` true class; -1 is left out.
        attributes: `[N, A]` value index per attribute of the atlas's ontology, in its order; -1
            is unknown and left out of that attribute only.
        patients: `[N]` equal for images of one patient.
        atlas: axes of the same encoder.
        head: the head that is asked, `[K, L]`.

    Returns:
        "flip.images" `[1]` labelled images, and per attribute of C contrasts "flip.<name>.count"
        `[C, K]` patients and "flip.<name>.flipped" `[C, K]` (parts of one where a patient's
        images differ). A contrast without an axis has zeros.

    Raises:
        DataError: shapes disagree, an index is outside the ontology, a latent, the head or the
            atlas is not finite.
    """
    _refuse_unusable((mu, labels, attributes, patients), atlas, head)
    labelled = np.flatnonzero(labels >= 0)
    latents, true = mu[labelled].astype(np.float64), labels[labelled]
    logits = head.logits(latents)
    arrays = dict(empty_flip_sum(atlas.ontology).arrays)
    arrays["flip.images"] = np.array([float(len(labelled))])
    for column, name in enumerate(atlas.ontology.attributes):
        value = attributes[labelled, column]
        known = np.flatnonzero(value >= 0)
        weights = _weights(patients[labelled][known], true[known])
        for row, contrast in enumerate(contrasts_of(atlas.ontology, name)):
            flipped = _flipped(logits[known], value[known], contrast, atlas, head)
            if flipped is None:
                continue
            count = np.bincount(true[known], weights, len(atlas.counts))
            flips = np.bincount(true[known], weights * flipped, len(atlas.counts))
            arrays[f"flip.{name}.count"][row], arrays[f"flip.{name}.flipped"][row] = count, flips
    return Sum(arrays)


def without_small_cells(total: Sum, smallest: float) -> Sum:
    """Return a flip sum in which cells of fewer than `smallest` patients are 0, flips and count."""
    arrays = dict(total.arrays)
    for name in [key for key in arrays if key.endswith(".flipped")]:
        count = name.removesuffix(".flipped") + ".count"
        kept = arrays[count] >= smallest
        arrays[name], arrays[count] = arrays[name] * kept, arrays[count] * kept
    return Sum(arrays)


def flip_figures(
    total: Sum, ontology: OntologyConfig, *, smallest: float = 0.0
) -> list[dict[str, Any]]:
    """Return one row per contrast and true class, ready for results.json.

    Args:
        total: `flip_sum` of all sites (or of one), merged.
        ontology: the one the sums were made with.
        smallest: rows of fewer patients hold None and a reason.

    Returns:
        Rows of attribute, value, against, class, n (patients), flipped (patients), share and its
        95 % Wilson interval low and high, reason (empty, or why there are no figures).
    """
    rows = []
    for name in ontology.attributes:
        for row, contrast in enumerate(contrasts_of(ontology, name)):
            for label, class_name in enumerate(ontology.classes):
                n = float(total[f"flip.{name}.count"][row, label])
                flipped = float(total[f"flip.{name}.flipped"][row, label])
                rows.append(
                    {
                        "attribute": name,
                        "value": contrast.value,
                        "against": contrast.against,
                        "class": class_name,
                        **_figures(n, flipped, smallest),
                    }
                )
    return rows


def _figures(n: float, flipped: float, smallest: float) -> dict[str, Any]:
    if n <= 0 or n < smallest:
        reason = "no patient was counted"
        if n > 0:
            reason = f"fewer than {smallest:g} patients; not shown"
        empty = dict.fromkeys(("n", "flipped", "share", "low", "high"))
        return {**empty, "reason": reason}
    low, high = share_interval(flipped, n)
    return {
        "n": round(n, DIGITS),
        "flipped": round(flipped, DIGITS),
        "share": round(flipped / n, DIGITS),
        "low": round(low, DIGITS),
        "high": round(high, DIGITS),
        "reason": "",
    }


def _weights(patients: Integers, true: Integers) -> Array:
    """Return `[M]`: 1 / (images of this patient in this class)."""
    if not len(patients):
        return np.zeros(0)
    pairs = np.stack([patients, true], axis=1)
    _, unit, images = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    weights: Array = 1.0 / images[unit.ravel()]
    return weights


def _flipped(
    logits: Array, value: Integers, contrast: Contrast, atlas: Atlas, head: Head
) -> NDArray[np.bool_] | None:
    """Return `[M]` whether each answer changes, or None where the contrast has no axis."""
    sides = sides_of(atlas, contrast)
    if sides.problem:
        return None
    push = head.weight.astype(np.float64) @ sides.axis
    direction = np.where(value == contrast.one, -1.0, 1.0)[:, None]
    changed: NDArray[np.bool_] = (logits + direction * push).argmax(axis=1) != logits.argmax(axis=1)
    return changed


def _refuse_unusable(
    columns: tuple[NDArray[np.floating], Integers, Integers, Integers], atlas: Atlas, head: Head
) -> None:
    """Raise one DataError that lists everything wrong with the inputs."""
    mu, labels, attributes, _ = columns
    images, tables = len(mu), len(atlas.ontology.attributes)
    wanted = ((images, atlas.latent_size), (images,), (images, tables), (images,))
    found = tuple(array.shape for array in columns)
    if found != wanted:
        reason = "expected latents, labels, attributes and patients of shape"
        raise DataError("flips", [f"{reason} {wanted}, found {found}"])
    if head.weight.shape != atlas.means.shape:
        reason = f"the head has shape {head.weight.shape}, the atlas needs {atlas.means.shape}"
        raise DataError("flips", [f"{reason}; use model and atlas of the same run"])
    problems = []
    if not np.isfinite(mu).all():
        problems.append("a latent is not finite: the model has diverged; use an earlier checkpoint")
    if not (np.isfinite(head.weight).all() and np.isfinite(head.bias).all()):
        problems.append("the head is not finite; use an earlier checkpoint")
    if not all(np.isfinite(means).all() for means in atlas.attribute_means.values()):
        problems.append("the atlas is not finite; ask the coordinator for a new one")
    tops = {"label": (labels, len(atlas.ontology.classes))}
    for column, (name, values) in enumerate(atlas.ontology.attributes.items()):
        tops[f"attribute {name}"] = (attributes[:, column], len(values))
    for name, (indices, top) in tops.items():
        if ((indices < -1) | (indices >= top)).any():
            problems.append(f"{name}: an index is outside -1..{top - 1} of the ontology")
    if problems:
        raise DataError("flips", problems)
