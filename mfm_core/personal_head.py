"""A hospital's own head on the common encoder, kept only where it reads its patients better.

A federation of unlike hospitals can read one of them worse than its own model would. Such a site
keeps the common encoder and takes a head of its own: discriminants of its own latents
(`mfm_core.head`), alone or mixed with the common head (a mixture of linear heads is a linear
head). Candidates learn from the training images and are compared on the validation images by
cross-entropy; the common head stays unless the best of them is better there, patient by patient,
by more than MARGIN standard errors. Test images play no part.

Source: Arivazhagan et al. 2019, arXiv:1912.00818 (FedPer), and Deng et al. 2020, arXiv:2003.13461
(mixing, chosen on validation data). What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfm_core.atlas import atlas_from
from mfm_core.autoencoder import Autoencoder
from mfm_core.config import OntologyConfig
from mfm_core.dataset import ImageSet
from mfm_core.errors import DataError
from mfm_core.head import Head, candidate_sum, chosen_head, fit_heads
from mfm_core.inference import infer
from mfm_core.latent_sums import latent_sum
from mfm_core.sums import Array

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Parts of the site's own head in the mixtures that are tried."""

MARGIN = 1.0
"""Standard errors by which an own head must win on the validation patients."""

FEWEST_PATIENTS = 8
"""With fewer validation patients nothing can be said, and the common head stays."""


@dataclass(frozen=True)
class PersonalHead:
    """What a site decided.

    Attributes:
        head: the head to use at this site.
        own: whether it is the site's own, or the common one.
        share: part of the site's head in it; 0 is the common head.
        gain: mean over validation patients of the common head's cross-entropy less that of the
            best own head, nats; positive is better.
        error: its standard error; None where nothing was compared.
        patients: validation patients with a label.
        reason: why, in words.
    """

    head: Head
    own: bool
    share: float
    gain: float
    error: float | None
    patients: int
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the head, for a report."""
        content = asdict(self)
        del content["head"]
        return content


@dataclass(frozen=True)
class _Seen:
    """Latents, labels and patients of one split."""

    mu: NDArray[np.float32]
    labels: NDArray[np.int64]
    patients: NDArray[np.int64]
    attributes: NDArray[np.int64]


def personal_head(model: Autoencoder, images: ImageSet, ontology: OntologyConfig) -> PersonalHead:
    """Return the head that the site should use, chosen on its own validation images.

    Args:
        model: the final model of a run; not changed.
        images: the site's images.
        ontology: of the run.
    """
    common = Head(model.head.weight.detach().numpy(), model.head.bias.detach().numpy())
    val = _see(model, images, "val")
    patients = len(np.unique(val.patients))
    if patients < FEWEST_PATIENTS:
        reason = f"{patients} validation patients are fewer than {FEWEST_PATIENTS}"
        return PersonalHead(common, False, 0.0, 0.0, None, patients, reason)
    train = _see(model, images, "train")
    total = latent_sum(train.mu, train.labels, train.attributes, train.patients, ontology)
    try:
        fitted = fit_heads(atlas_from(total, ontology, ""))
    except DataError as error:
        reason = f"no head can be fitted here: {'; '.join(error.problems)}"
        return PersonalHead(common, False, 0.0, 0.0, None, patients, reason)
    return _chosen(common, fitted, val)


def _chosen(common: Head, fitted: tuple[Head, ...], val: _Seen) -> PersonalHead:
    # Each at its best temperature: a head must not win for its scale.
    alone = chosen_head(fitted, candidate_sum(val.mu, val.labels, fitted))
    cooled = chosen_head((common,), candidate_sum(val.mu, val.labels, (common,)))
    common_losses = _losses(cooled, val)
    means = {}
    for share in SHARES:
        losses = _losses(_mixed(cooled, alone, share), val)
        means[share] = _by_patient(common_losses - losses, val.patients)
    share = max(SHARES, key=lambda s: float(means[s].mean()))
    gains = means[share]
    gain, error = float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains)))
    own = gain > MARGIN * error
    words = "more" if own else "not more"
    reason = f"better by {gain:.3f} nats a patient, {words} than {MARGIN:g} standard error"
    head = _mixed(cooled, alone, share) if own else common
    return PersonalHead(head, own, share if own else 0.0, gain, error, len(gains), reason)


def _see(model: Autoencoder, images: ImageSet, split: str) -> _Seen:
    rows = images.select(split)
    rows = rows[images.labels[rows] >= 0]
    mu = infer(model, images, rows).mu
    return _Seen(mu, images.labels[rows], images.patients[rows], images.attributes[rows])


def _mixed(common: Head, alone: Head, share: float) -> Head:
    weight = (1.0 - share) * common.weight + share * alone.weight
    bias = (1.0 - share) * common.bias + share * alone.bias
    return Head(weight.astype(np.float32), bias.astype(np.float32))


def _losses(head: Head, seen: _Seen) -> Array:
    """Return `[N]` cross-entropies, nats."""
    logits = head.logits(seen.mu)
    losses: Array = (
        np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(logits)), seen.labels]
    )
    return losses


def _by_patient(values: Array, patients: NDArray[np.int64]) -> Array:
    """Return the mean of each patient's values."""
    _, who = np.unique(patients, return_inverse=True)
    means: Array = np.bincount(who, values) / np.bincount(who)
    return means
