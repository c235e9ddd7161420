"""Latent sums: what one site releases about where its images lie in latent space.

The unit is a patient within a class: a patient's images of one class are averaged first, so nobody
counts more for having been imaged more often. Each image therefore carries the weight
1 / (images of this patient in this class) in every table, and a patient seen both in AP and in PA
is shared between the two cells; no patient's weight in a table exceeds one per class.

Source: paper section 2.5.1 (average latent vectors of a condition and of the others) and
section 3.3 (AP and PA). What crosses the hospital's boundary: cell counts, cell sums and one
second moment, added over all patients of a class. Never a patient's own row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from mfm_core.config import OntologyConfig
from mfm_core.errors import DataError
from mfm_core.sums import Array, Sum


def latent_sum(
    mu: NDArray[np.floating],
    labels: NDArray[np.int64],
    attributes: NDArray[np.int64],
    patients: NDArray[np.int64],
    ontology: OntologyConfig,
) -> Sum:
    """Return the class and class x attribute cells of one site's latents.

    Args:
        mu: `[N, L]` latent means (never sampled latents), finite.
        labels: `[N]` class index; -1 is unlabelled and left out of everything.
        attributes: `[N, A]` value index of each attribute in the ontology's order; -1 is unknown
            and left out of that attribute's table only.
        patients: `[N]` equal for images of one patient.
        ontology: the classes (K) and each attribute's values (V).

    Returns:
        A Sum of float64 arrays: "class.count" `[K]` patients, "class.sum" `[K, L]`,
        "second_moment" `[L, L]` (sum of u u' over patient x class means u), "images" `[1]`, and
        per attribute "attribute.<name>.count" `[K, V]`, "attribute.<name>.sum" `[K, V, L]`.

    Raises:
        DataError: shapes disagree, an index is outside the ontology, a latent is not finite.
    """
    _refuse_unusable(mu, labels, attributes, patients, ontology)
    labelled = np.flatnonzero(labels >= 0)
    latents, classes = mu[labelled].astype(np.float64), labels[labelled]
    number = len(ontology.classes)
    _, patient = np.unique(patients[labelled], return_inverse=True)
    units, unit, images = np.unique(
        patient * number + classes, return_inverse=True, return_counts=True
    )
    weights = 1.0 / images[unit]
    means = _add_up(unit, weights, latents, len(units))
    unit_class, ones = units % number, np.ones(len(units))
    arrays = {
        "images": np.array([float(len(labelled))]),
        "class.count": np.bincount(unit_class, minlength=number).astype(np.float64),
        "class.sum": _add_up(unit_class, ones, means, number),
        "second_moment": means.T @ means,
    }
    for column, (name, values) in enumerate(ontology.attributes.items()):
        value = attributes[labelled, column]
        known = np.flatnonzero(value >= 0)
        cell = classes[known] * len(values) + value[known]
        shape = (number, len(values))
        count = np.bincount(cell, weights[known], minlength=number * len(values))
        total = _add_up(cell, weights[known], latents[known], number * len(values))
        arrays[f"attribute.{name}.count"] = count.reshape(shape)
        arrays[f"attribute.{name}.sum"] = total.reshape(*shape, -1)
    return Sum(arrays)


def _add_up(cell: NDArray[np.int64], weights: Array, rows: Array, cells: int) -> Array:
    """Return `[cells, L]`: for each cell the weighted sum of its rows."""
    place = (cell, np.arange(len(cell)))
    total: Array = csr_array((weights, place), shape=(cells, len(cell))) @ rows
    return total


def _refuse_unusable(
    mu: NDArray[np.floating],
    labels: NDArray[np.int64],
    attributes: NDArray[np.int64],
    patients: NDArray[np.int64],
    ontology: OntologyConfig,
) -> None:
    """Raise one DataError that lists everything wrong with the inputs."""
    images, tables = len(mu), len(ontology.attributes)
    if mu.ndim != 2 or labels.shape != (images,) or patients.shape != (images,):
        found = f"found {mu.shape}, {labels.shape}, {patients.shape}"
        raise DataError("latents", [f"expected mu [N, L], labels [N], patients [N]; {found}"])
    if attributes.shape != (images, tables):
        expected = f"expected attributes [{images}, {tables}], one column per attribute"
        raise DataError("latents", [f"{expected}; found {attributes.shape}"])
    problems = []
    broken = int((~np.isfinite(mu).all(axis=1)).sum())
    if broken:
        problems.append(
            f"{broken} of {images} images have a latent that is not finite: the model has "
            "diverged; go back to an earlier checkpoint or lower the learning rate"
        )
    problems += index_problems(labels, attributes, ontology)
    if problems:
        raise DataError("latents", problems)


def index_problems(
    labels: NDArray[np.int64], attributes: NDArray[np.int64], ontology: OntologyConfig
) -> list[str]:
    """Return what is wrong with labels `[N]` and attributes `[N, A]`: indices off the ontology."""
    tops = {"label": (labels, len(ontology.classes))}
    for column, (name, values) in enumerate(ontology.attributes.items()):
        tops[f"attribute {name}"] = (attributes[:, column], len(values))
    problems = []
    for name, (indices, top) in tops.items():
        outside = int(((indices < -1) | (indices >= top)).sum())
        if outside:
            problems.append(f"{name}: {outside} indices outside -1..{top - 1} of the ontology")
    return problems
