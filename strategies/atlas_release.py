"""The coordinator's half of the private atlas: the basis it sends, and what noisy cells become.

A site plays it too, in a dry run. What crosses a hospital's boundary: towards it, the public basis.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfm_core.autoencoder import build_autoencoder
from mfm_core.checkpoint import load_flat_weights
from mfm_core.errors import DataError
from mfm_core.noisy_cells import Repaired, lifted, repaired
from mfm_core.private_cells import GRAINS, as_sum
from mfm_core.public_basis import PublicBasis, public_basis
from mfm_core.public_pictures import Pixels
from mfm_core.sums import Array, Sum
from strategies.answers import with_suppressed
from strategies.config import RunConfig
from strategies.private_atlas import CELLS, cell_plan, released_deviation


def basis_of(
    run: RunConfig, weights: NDArray[np.float32], pictures: Pixels | None = None
) -> PublicBasis:
    """Return the public basis of these weights; the same object while they are the latest asked.

    Args:
        run: the agreed run.
        weights: `[D]` of the model whose latents are released.
        pictures: public ones that the run names; None generates some.
    """
    shown = b"" if pictures is None else pictures.tobytes()
    return _basis(run.model_dump_json(), weights.tobytes(), shown)


@lru_cache(maxsize=2)
def _basis(run_json: str, weights: bytes, pictures: bytes) -> PublicBasis:
    run = RunConfig.model_validate_json(run_json)
    model = build_autoencoder(run.model, run.image, len(run.ontology.classes), run.seed)
    load_flat_weights(model, np.frombuffer(weights, dtype=np.float32))
    agreed = run.privacy.atlas
    shape = (-1, run.image.channels, run.image.size_px, run.image.size_px)
    shown: NDArray[np.float32] | None = None
    if pictures:
        shown = np.frombuffer(pictures, dtype=np.uint8).reshape(shape).astype(
            np.float32
        ) / np.float32(255)
    return public_basis(model.eval(), agreed.directions, run.seed, agreed.clip_radius, shown)


def understood(run: RunConfig, cells: Array, sites: int) -> Repaired:
    """Return what the noisy cells `[D]` of so many sites say."""
    plan, agreed = cell_plan(run), run.privacy.atlas
    grains = np.rint(cells * GRAINS).astype(np.int64)
    deviation = released_deviation(run, sites)
    return repaired(as_sum(grains, plan), plan, deviation, agreed.min_cell_count)


def latent_sum_of(
    run: RunConfig, basis: PublicBasis, noisy: Sum, sites: int
) -> tuple[Sum, dict[str, Any]]:
    """Return the latent Sum of pooled noisy cells, and what a run's record says of the release.

    Raises:
        DataError: too few sites, or too few patients are left after the suppression.
    """
    agreed = run.privacy.atlas
    if sites < agreed.min_sites:
        reason = f"{sites} sites released cells, privacy.atlas.min_sites is {agreed.min_sites}"
        raise DataError("private atlas", [f"{reason}; admit more sites, then resume the run"])
    found = understood(run, noisy[CELLS], sites)
    if found.counts.sum() <= (found.counts > 0).sum():
        reason = f"no class has {agreed.min_cell_count:g} patients after the noise"
        raise DataError(
            "private atlas",
            [
                f"{reason}; with so few patients no private atlas can be made. Agree on a run "
                "without one, on more sites or on a larger epsilon; asked again, the sites give "
                "the same cells"
            ],
        )
    total = with_suppressed(lifted(found, basis, run.ontology), found.suppressed)
    counts = [round(float(count)) for count in found.counts]
    release = {
        "noise_deviation": released_deviation(run, sites),
        "sites": sites,
        "directions": agreed.directions,
        "clip_radius": basis.radius,
        "basis": hashlib.sha256(basis.directions.tobytes()).hexdigest(),
    }
    return total, {
        "patients_per_class": dict(zip(run.ontology.classes, counts, strict=True)),
        "suppressed_cells": {"all sites": found.suppressed},
        "private": release,
    }


def refuse_too_few_patients(counts: Array) -> None:
    """Refuse class counts `[K]` from which `atlas_from` could make no atlas.

    Raises:
        DataError: not more patients than classes, or a negative count.
    """
    patients, classes = float(counts.sum()), int((counts > 0).sum())
    if counts.min(initial=0.0) < 0 or patients <= classes:
        raise DataError(
            "latent sums",
            [
                f"found {patients:.0f} training patients in {classes} classes over all sites, "
                "expected more patients than classes and no negative count; lower min_cell_count "
                "at the sites or admit more sites, then resume the run, which asks again"
            ],
        )
