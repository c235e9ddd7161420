"""Latents with known fields: one that is visible and used, one visible and unused, one null."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mfm_core.atlas import Atlas, atlas_from
from mfm_core.config import OntologyConfig
from mfm_core.head import Head
from mfm_core.latent_sums import latent_sum
from mfm_core.sums import Sum

ONTOLOGY = OntologyConfig(
    classes=("effusion", "nodule", "none"),
    attributes={
        "view": ("AP", "PA"),
        "sex": ("F", "M"),
        "marker": ("none", "L", "R"),
        "coin": ("a", "b"),
    },
)


@dataclass(frozen=True)
class Latents:
    """N images: mu `[N, L]`, labels, attributes `[N, 4]`, patients, as `latent_sum` takes them."""

    mu: NDArray[np.float64]
    labels: NDArray[np.int64]
    attributes: NDArray[np.int64]
    patients: NDArray[np.int64]

    def sums(self, rows: NDArray[np.int64] | None = None) -> Sum:
        rows = np.arange(len(self.mu)) if rows is None else rows
        columns = (self.labels[rows], self.attributes[rows], self.patients[rows])
        return latent_sum(self.mu[rows], *columns, ONTOLOGY)

    def atlas(self) -> Atlas:
        return atlas_from(self.sums(), ONTOLOGY, "hash")

    def with_attribute(self, name: str, values: NDArray[np.int64]) -> Latents:
        attributes = self.attributes.copy()
        attributes[:, list(ONTOLOGY.attributes).index(name)] = values
        return replace(self, attributes=attributes)


def draw_latents(
    seed: int, people: int = 600, size: int = 12, films: int = 1, coupling: float = 0.0
) -> Latents:
    """Return latents of `people` patients.

    Class k lies at 2 on axis k, view AP at 3 on axis 3, sex F at 3 on axis 4, marker R at 3 on
    axis 5; coin is nowhere. `coupling` raises P(AP | effusion) and lowers P(AP | others). The
    noise is skewed, so that nothing rests on normal latents. Attributes belong to the patient.
    """
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 3, people)
    share = np.where(label == 0, 0.5 + coupling / 2, 0.5 - coupling / 2)
    view = (draw.random(people) >= share).astype(np.int64)
    values = [view, *(draw.integers(0, top, people) for top in (2, 3, 2))]
    attributes = np.stack(values, axis=1)
    centre = draw.gamma(4.0, 0.5, (people, size)) - 2.0
    centre[np.arange(people), label] += 2.0
    centre[:, 3] += 3.0 * (view == 0)
    centre[:, 4] += 3.0 * (attributes[:, 1] == 0)
    centre[:, 5] += 3.0 * (attributes[:, 2] == 2)
    who = np.repeat(np.arange(people), films)
    mu = centre[who] + 0.3 * draw.normal(size=(len(who), size)) * (films > 1)
    return Latents(mu, label[who], attributes[who], who)


def head_using(weight_of_view: float, size: int = 12, scale: float = 1.0) -> Head:
    """Return a head that reads class k from axis k, and effusion from the view as well."""
    weight = np.zeros((3, size), dtype=np.float32)
    weight[np.arange(3), np.arange(3)] = scale
    weight[0, 3] = weight_of_view * scale
    return Head(weight, np.zeros(3, dtype=np.float32))
