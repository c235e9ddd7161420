"""Gaussian latents with a planted shortcut: view moves the latent and goes with the disease."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

from mfm_core.atlas import Atlas, atlas_from
from mfm_core.config import OntologyConfig
from mfm_core.head import Head
from mfm_core.head_training import HeadData
from mfm_core.latent_sums import latent_sum

ONTOLOGY = OntologyConfig(classes=("well", "ill"), attributes={"view": ("PA", "AP")})
DISEASE, VIEW = 1.2, 2.9


def draw_world(seed: int, people: int, phi: float, size: int = 64) -> HeadData:
    """Return one image a person; `phi` couples view and disease, both of share 1/2."""
    shape, draw = np.random.default_rng(0), np.random.default_rng(seed)
    mixing = shape.normal(size=(size, size)) * np.exp(0.2 * shape.normal(size=size))
    mixing = mixing / np.sqrt(size) + np.eye(size)
    across, along = np.linalg.qr(shape.normal(size=(size, 2)))[0].T
    ill = draw.integers(0, 2, people)
    view = np.where(draw.random(people) < (1 + phi) / 2, ill, 1 - ill)
    white = draw.normal(size=(people, size))
    white += DISEASE * np.outer(ill, across) + VIEW * np.outer(view, along)
    mu = (white @ mixing.T).astype(np.float32)
    return HeadData(mu, ill, view[:, None], np.arange(people))


def take(data: HeadData, rows: np.ndarray) -> HeadData:
    """Return some of the images."""
    return HeadData(data.mu[rows], data.labels[rows], data.attributes[rows], data.patients[rows])


def world_atlas(data: HeadData, ontology: OntologyConfig = ONTOLOGY) -> Atlas:
    """Return the atlas of the images."""
    total = latent_sum(data.mu, data.labels, data.attributes, data.patients, ontology)
    return atlas_from(total, ontology, "encoder")


def auc(head: Head, data: HeadData) -> float:
    """Return the AUC of the disease."""
    logits = head.logits(data.mu)
    return float(roc_auc_score(data.labels, logits[:, 1] - logits[:, 0]))
