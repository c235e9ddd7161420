"""The site's half of the private atlas: cells without noise stay, cells with noise leave once.

The process that computes gives exact cells under a name that the outbox refuses (`latent_release`);
the process that talks pays for the release, adds the noise and keeps the noisy cells (`protect`).
The same question, that is the same cells of the same cohort under the same encoder and basis, gets
the same bytes again and costs nothing more, so nobody can average the noise away. Another cohort in
the same run is refused: the difference of two releases would show who came or went. Under a secure
sum the group of sites is part of the question: the same bytes in two groups could be subtracted
down to one site with its share of the noise, so every group gets fresh noise and is paid for.
What crosses the hospital's boundary: the noisy cells, through the outbox.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.cohort import cohort_path
from client.limits import guarded_latent_sum
from client.privacy_ledger import Spend
from client.site import Site
from mfm_core.atlas import Atlas, save_atlas
from mfm_core.axis_forecast import AxisForecast, forecast
from mfm_core.checkpoint import encoder_hash, load_arrays, save_arrays
from mfm_core.config import canonical_hash
from mfm_core.discrete_noise import with_noise
from mfm_core.errors import CheckpointError, DataError, LimitRefusal
from mfm_core.latent_sums import latent_sum
from mfm_core.local_moments import shrunk_atlas
from mfm_core.private_cells import GRAINS, as_sum, exact_cells
from mfm_core.public_basis import PublicBasis, basis_from
from mfm_core.sums import Array, Sum
from strategies.private_atlas import (
    CELLS,
    cell_plan,
    has_secure_sum,
    released_deviation,
    site_deviation,
)

EXACT = "exact_cells"
"""Never on the list of what may leave."""

OWN_ATLAS = "own_atlas.safetensors"
"""For `mfm-client explain --atlas`."""

USEFUL = 0.8
"""Cosine with the true axis below which a noisy one is of little use."""

KEPT = "releases"
"""Folder of the noisy cells, in the state folder."""


def latent_release(site: Site, weights: NDArray[np.float32], asked: Sum | None) -> tuple[int, Sum]:
    """Return how many images stand behind a release of the train split, and its cells.

    Without a private atlas: the guarded latent Sum. With one: exact cells, for `protect` only, and
    no number of images.

    Raises:
        UpdateRejected: "basis"; the public basis of the request cannot be used.
    """
    site.load(weights)
    chosen, images = site.images.select("train"), site.images
    if site.run.privacy.atlas.private:
        assert asked is not None
        return 0, Sum({EXACT: _exact(site, basis_from(asked)).astype(np.float64)})
    cells = (images.labels[chosen], images.attributes[chosen], images.patients[chosen])
    smallest = site.config.limits.min_cell_count
    found = guarded_latent_sum(site.latents("train"), cells, site.run.ontology, smallest)
    return len(chosen), found


def protect(site: Site, weights: NDArray[np.float32], asked: tuple[Sum, str], exact: Sum) -> Sum:
    """Return the noisy cells that may leave: those kept for this question, or new ones, paid for.

    Args:
        site: whose cells they are.
        weights: of the request.
        asked: the public basis of the request, and the group of a secure sum (or "").
        exact: what `latent_release` gave.

    Raises:
        LimitRefusal: fewer patients a cell than the site's limit, another cohort in the same run,
            or more releases than agreed.
        BudgetSpent: it would pass the site's limit.
        PrivacyLedgerBroken: the ledger is not whole or cannot be written.
    """
    agreed, limits = site.run.privacy.atlas, site.config.limits
    if agreed.min_cell_count < limits.min_cell_count:
        raise LimitRefusal(
            f"privacy.atlas.min_cell_count is {agreed.min_cell_count:g}, limits.min_cell_count "
            f"asks for {limits.min_cell_count}; agree on more or lower the limit to take part"
        )
    planned = planned_release(site, weights, *asked)
    path = site.config.state_folder / KEPT / f"{planned.release}.safetensors"
    paid = {spend.release for spend in site.privacy.read().spends}
    if planned.release in paid and path.is_file():
        kept = _kept(path, planned.release)
        site.privacy.repeat(planned.release)
        return Sum({CELLS: kept})
    site.privacy.spend(planned, most=min(agreed.releases, limits.max_atlas_releases))
    grains = exact[EXACT].astype(np.int64)
    noisy = with_noise(grains, site_deviation(site.run) * GRAINS) / GRAINS
    path.parent.mkdir(parents=True, exist_ok=True)
    save_arrays(path, {CELLS: noisy}, {"release": planned.release})
    return Sum({CELLS: noisy})


def planned_release(site: Site, weights: NDArray[np.float32], asked: Sum, group: str = "") -> Spend:
    """Return what one release costs, with the hash of the question that it answers.

    Under a secure sum the noise is that of the smallest group of sites whose sum may be seen, and
    the group is part of the question.

    Raises:
        DataError: what the run began with was not noted.
    """
    run, path = site.run, cohort_path(site)
    if not path.is_file():
        raise DataError(str(path), ["no note of the images this run began with; start it anew"])
    cohort = hashlib.sha256(path.read_bytes()).hexdigest()
    encoder = encoder_hash(site.load(weights))
    parts = [hashlib.sha256(array.tobytes()).hexdigest() for array in asked.arrays.values()]
    schema = [cell_plan(run).schema, site_deviation(run), canonical_hash(run.ontology), parts]
    question = json.dumps([schema, cohort, encoder, group])
    return Spend(
        run=site.config_hash,
        round=0,
        unit="patient",
        units=0,
        noise_multiplier=run.privacy.atlas.sigma,
        max_grad_norm=1.0,
        sample_rate=1.0,
        steps=1,
        release=hashlib.sha256(question.encode()).hexdigest(),
        cohort=cohort,
    )


def forecast_release(site: Site, basis: PublicBasis, sites: int) -> tuple[AxisForecast, ...]:
    """Return how good the axes would be if so many sites had the cells of this one.

    Args:
        site: with the encoder loaded.
        basis: public basis of that encoder.
        sites: how many sites like this one release.
    """
    run = site.run
    plan = cell_plan(run)
    alone = as_sum(_exact(site, basis), plan)
    exact = Sum({name: array * sites for name, array in alone.arrays.items()})
    noise = released_deviation(run, sites)
    return forecast(exact, plan, run.ontology.classes, noise, run.privacy.atlas.min_cell_count)


def forecast_words(site: Site, basis: PublicBasis) -> str:
    """Return the forecast for people, of as few sites like this one as are agreed on."""
    agreed = site.run.privacy.atlas
    rows = forecast_release(site, basis, agreed.min_sites)
    shown = "; ".join(
        f"{row.axis} {row.cosine:.2f} ({row.n1:.0f} against {row.n0:.0f} patients)" for row in rows
    )
    way = "under the secure sum" if has_secure_sum(site.run) else "with the noise of every site"
    return (
        f"expected cosine of each released axis with the true one, if {agreed.min_sites} sites "
        f"like this one release {way}: {shown or 'no axis'}; below {USEFUL} an "
        "axis is of little use"
    )


def keep_own_atlas(site: Site, atlas: Atlas) -> None:
    """Write the site's own atlas beside a private one, for explanations here; it never leaves.

    Its exact moments are drawn towards the consortium's (`mfm_core.local_moments`). Without a
    private atlas there is none, and one that an earlier run left goes.
    """
    path, images = site.config.state_folder / OWN_ATLAS, site.images
    path.unlink(missing_ok=True)
    if not site.run.privacy.atlas.private:
        return
    chosen = images.select("train")
    parts = (images.labels[chosen], images.attributes[chosen], images.patients[chosen])
    own = latent_sum(site.latents("train"), *parts, site.run.ontology)
    save_atlas(path, shrunk_atlas(own, atlas))


def _exact(site: Site, basis: PublicBasis) -> NDArray[np.int64]:
    run, images, chosen = site.run, site.images, site.images.select("train")
    columns = [list(run.ontology.attributes).index(name) for name in run.privacy.atlas.attributes]
    return exact_cells(
        basis.coordinates(site.latents("train")),
        images.labels[chosen],
        images.attributes[chosen][:, columns],
        images.patients[chosen],
        cell_plan(run),
    )


def _kept(path: Path, question: str) -> Array:
    """Return kept noisy cells.

    Raises:
        CheckpointError: the file is damaged or holds another answer.
    """
    arrays, _ = load_arrays(path, {"release": question})
    if CELLS not in arrays:
        raise CheckpointError(f"{path}: holds no cells; remove it to release anew, at a new cost")
    return np.asarray(arrays[CELLS], dtype=np.float64)
