"""A training round under central DP at the site: paid for, trained as ever, clipped at the door.

The process that computes trains as in any run (`train_openly`); the process that talks pays before
(`pay_for_round`), clips, counts and, under a secure sum, adds this site's share of the noise
(`shield`), so that the bound does not rest on code that reads images. The ledger counts what a
patient of this site can move: twice the clip, so half the agreed noise. Without a secure sum the
noise is the server's, which the line says; a site that trusts no server sets
`limits.require_secure_sum`. A round that is asked again is paid again, with fresh noise.
What crosses the hospital's boundary: the clipped update and one bit, through the outbox.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.local_round import lesson_of
from client.privacy_ledger import Spend
from client.site import Site
from mfm_core.errors import UpdateRejected
from mfm_core.finetuning import fine_tune
from mfm_core.sums import Sum
from strategies.central_noise import CLIP, LEAST_CLIP, WITHIN, clip_of, site_half, terms_of
from strategies.wire import Payload


def told_clip(site: Site, told: Sum | None) -> float:
    """Return the clip of a round: the agreed one, or the server's where it follows the norms.

    Raises:
        UpdateRejected: "clip"; it is outside what the run can have.
    """
    if told is None:
        return clip_of(site.run, {})
    clip, most = float(told[CLIP[0][0]][0]), site.run.aggregation.max_update_norm
    if not LEAST_CLIP <= clip <= most:
        raise UpdateRejected("clip", f"clip {clip:g}, expected {LEAST_CLIP:g} to {most:g}")
    return clip


def planned_spend(site: Site, number: int, clip: float) -> Spend:
    """Return what one round costs the patients of this site, whoever they are."""
    return Spend(
        run=site.config_hash,
        round=number,
        unit=site.config.limits.privacy_unit,
        units=0,
        noise_multiplier=site.run.privacy.patient_noise,
        max_grad_norm=clip,
        sample_rate=1.0,
        steps=1,
        noise="secret" if site.run.secure_sum.enabled else "server",
    )


def pay_for_round(site: Site, number: int, told: Sum | None) -> None:
    """Pay for one round before anything is computed.

    Raises:
        UpdateRejected: "clip".
        BudgetSpent: it would pass the site's limit.
        PrivacyLedgerBroken: the ledger is not whole or cannot be written.
    """
    line = site.privacy.spend(planned_spend(site, number, told_clip(site, told)))
    site.log.info("train round %d: paid for, line %.12s", number, line)


def train_openly(site: Site, weights: NDArray[np.float32], number: int) -> NDArray[np.float32]:
    """Return the change `[D] float32` of the weights after local training, as it is.

    Raises:
        DataError: the training split is empty.
    """
    model, run = site.load(weights), site.run
    head, head_only = set(model.head.parameters()), run.privacy.trainable == "head"
    frozen = [p for p in model.parameters() if head_only and p not in head and p.requires_grad]
    rows, lesson = site.images.select("train"), lesson_of(site, number)
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        return fine_tune(model, site.images, rows, run.learning, lesson)[0]
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def shield(site: Site, told: Sum | None, payload: Payload) -> Payload:
    """Return what may leave of an update: clipped, and with the noise that this site adds.

    Raises:
        UpdateRejected: "clip".
    """
    update = payload.model
    assert update is not None
    if not np.isfinite(update).all():
        site.log.error("the update is not finite: zeros leave in its place; look at the images")
    terms = terms_of(site.run, site.schema, told_clip(site, told))
    found = site_half(update, terms)
    bit = None if told is None else Sum({WITHIN[0][0]: np.array([found.within])})
    return Payload(found.update.astype(np.float32), bit)
