"""A head for one site's own unlabelled images: pseudo-labels added to what the consortium knows.

The atlas is turned back into the sums it was made of; the site's images that the class Gaussians
label (`pseudo_labels`) are added to them, patient by patient like any others, and a discriminant
head is fitted to the whole. The site needs no label and no exchange for it. Where nothing can be
labelled the head stays as it is. With `own_mean` all this is done with the site's latents moved
onto the consortium's mean; the head that comes back takes latents as they are.

Source: paper section 2.6 (labelled and unlabelled data together). What crosses the hospital's
boundary: nothing; the head is for the site itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mfm_core.atlas import Atlas
from mfm_core.config import OntologyConfig, PseudoLabelConfig
from mfm_core.erasure import scarcity
from mfm_core.head import Head, fit_heads
from mfm_core.latent_sums import latent_sum
from mfm_core.pseudo_labels import NO_LABEL, SHRINKAGE, class_atlas, moved, pseudo_labels
from mfm_core.sums import Sum


def class_sums_of(atlas: Atlas) -> Sum:
    """Return the class sums that an atlas was made of; `class_atlas` of them gives it back."""
    counts, means = atlas.counts, atlas.means
    free = counts.sum() - (counts > 0).sum()
    moment = atlas.covariance * free + means.T @ (counts[:, None] * means)
    return Sum(
        {
            "class.count": counts,
            "class.sum": counts[:, None] * means,
            "images": np.array([counts.sum()]),
            "second_moment": moment,
        }
    )


def local_head(
    head: Head,
    atlas: Atlas,
    mu: NDArray[np.floating],
    patients: NDArray[np.int64],
    config: PseudoLabelConfig,
    trained: Head | None = None,
) -> tuple[Head, NDArray[np.int64]]:
    """Return a head for the site's own images, and the labels `[N]` they got (-1: none).

    Args:
        head: the consortium's; returned as it is where no image can be labelled.
        atlas: of the consortium, of the same encoder.
        mu: `[N, L]`, latents of the site's unlabelled images.
        patients: `[N]`.
        config: bound and gate of the pseudo-labels, and whether the mean is moved.
        trained: with the encoder; its directions are where the Gaussians are compared. Those of a
            head fitted to the very sums of the atlas follow the noise of its labelled patients.
    """
    labels = pseudo_labels(mu, atlas, config, trained).labels
    if not (labels != NO_LABEL).any():
        return head, labels
    placed = moved(mu, atlas) if config.own_mean else mu
    ontology = OntologyConfig(classes=atlas.ontology.classes)
    nothing = np.zeros((len(mu), 0), dtype=np.int64)
    own = latent_sum(placed, labels, nothing, patients, ontology)
    joined = class_atlas(class_sums_of(atlas).merge(own), ontology.classes)
    assert joined is not None
    found = fit_heads(joined, (SHRINKAGE * scarcity(joined),))[0]
    if config.own_mean:  # w (x + d) + b = w x + (b + w d)
        way = (placed - mu).mean(axis=0)
        found = Head(found.weight, (found.bias + found.weight @ way).astype(np.float32))
    return found, labels
