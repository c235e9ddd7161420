"""PrivateAtlasConfig: cells through the door once, with noise, in place of exact latent sums.

Formal: epsilon, delta, unit patient (of the training split, as it was divided), neighbours add or
remove one patient, accounted in closed form. It covers the `latent_sums` exchange and all that is
computed from it, under the encoder and the basis of the request; what weights and counts of other
exchanges say stands under their own labels.

Where the run has a secure sum the server sees the sum of at least `min_sites` sites and each site
adds the share 1 / min_sites of the variance, so what is released never has less noise than
promised: with S contributing sites it has S / min_sites times the variance, as a margin for
S - min_sites sites that tell the server their own noise. Without it each site's cells are seen
alone, so each adds all of the noise and the sum has S times the variance.
What crosses the hospital's boundary: nothing here; `client.private_release` releases the cells.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from mfm_core.autoencoder import latent_grid
from mfm_core.config import Part
from mfm_core.discrete_noise import gaussian_epsilon, noise_multiplier_for
from mfm_core.private_cells import CellPlan
from mfm_core.public_basis import MOST_DIRECTIONS

if TYPE_CHECKING:
    from strategies.config import RunConfig

CELLS = "private_cells"
"""The one array of an answer: all cells of `CellPlan.schema`, flat."""

ACCOUNTANT = "Gaussian mechanism in closed form"


class PrivateAtlasConfig(Part):
    """Differential privacy of the released cells."""

    mechanism: Literal["none", "gaussian"] = Field(
        "none", description="gaussian: clipped cells with discrete Gaussian noise, released once."
    )
    epsilon: float | None = Field(
        None, gt=0, le=100, description="Of one release; or give noise_multiplier."
    )
    noise_multiplier: float | None = Field(
        None, gt=0, le=1000, description="Standard deviation of the noise over the sensitivity."
    )
    delta: float = Field(1e-6, gt=0, lt=1e-2, description="Delta of epsilon.")
    directions: int = Field(
        32, ge=1, le=MOST_DIRECTIONS, description="Public directions d of the latent; fewer, less "
        "noise and less of the atlas."
    )  # fmt: skip
    clip_radius: float | None = Field(
        None, gt=0, description="B, longest latent from the reference, in latent units; None: the "
        "median of the public pictures."
    )  # fmt: skip
    covariance: bool = Field(
        True, description="Release the second moment too; without it, one variance for all."
    )
    attributes: tuple[str, ...] = Field(
        (), description="Attributes that get a table; each one costs noise."
    )
    min_cell_count: float = Field(
        50.0,
        ge=1,
        description="Least noisy count of a cell that is shown, applied after the noise.",
    )
    min_sites: int = Field(3, ge=1, le=256, description="Fewest sites whose cells make an atlas.")
    releases: int = Field(
        3, ge=1, le=100, description="Most releases of a site in one run, each of another encoder."
    )

    @property
    def private(self) -> bool:
        """Return whether cells leave with noise."""
        return self.mechanism == "gaussian"

    @property
    def sigma(self) -> float:
        """Return the noise multiplier of one release; 0 without a mechanism."""
        if not self.private:
            return 0.0
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        return noise_multiplier_for(self.epsilon or 0.0, self.delta)

    @model_validator(mode="after")
    def _noise_is_named_once(self) -> Self:
        given = sum(value is not None for value in (self.epsilon, self.noise_multiplier))
        if given != int(self.private):
            raise ValueError(
                "mechanism gaussian needs epsilon or noise_multiplier, not both; none needs neither"
            )
        if len(set(self.attributes)) < len(self.attributes):
            raise ValueError("attributes: one stands twice; name every attribute once")
        return self


def latent_numbers(run: RunConfig) -> int:
    """Return L, the numbers of one latent."""
    return int(run.model.latent_channels * latent_grid(run.model, run.image) ** 2)


def cell_plan(run: RunConfig) -> CellPlan:
    """Return what one private release of this run holds."""
    agreed, ontology = run.privacy.atlas, run.ontology
    tables = tuple((name, len(ontology.attributes[name])) for name in agreed.attributes)
    return CellPlan(len(ontology.classes), tables, agreed.directions, agreed.covariance)


def has_secure_sum(run: RunConfig) -> bool:
    """Return whether the server sees sums of sites only."""
    return run.secure_sum.enabled


def site_deviation(run: RunConfig) -> float:
    """Return the standard deviation, in patients, of the noise that each site adds."""
    agreed = run.privacy.atlas
    share = agreed.min_sites if has_secure_sum(run) else 1
    return agreed.sigma * cell_plan(run).sensitivity / math.sqrt(share)


def released_deviation(run: RunConfig, sites: int) -> float:
    """Return the standard deviation of the noise in the sum of so many sites, in patients."""
    return site_deviation(run) * math.sqrt(max(1, sites))


def atlas_problems(run: RunConfig) -> list[str]:
    """Return why the agreed private release is impossible in this run; empty if it is not."""
    agreed = run.privacy.atlas
    if not agreed.private:
        return []
    known, problems = run.ontology.attributes, []
    if unknown := [name for name in agreed.attributes if name not in known]:
        problems.append(f"privacy.atlas.attributes: {', '.join(unknown)} not in the ontology")
    wanted = run.mitigation.attribute
    if wanted is not None and wanted not in agreed.attributes:
        problems.append(f"privacy.atlas.attributes must list {wanted}: mitigation needs its cells")
    if agreed.directions > (size := latent_numbers(run)):
        problems.append(f"privacy.atlas.directions is {agreed.directions}, a latent has {size}")
    fewest = run.secure_sum.min_sites
    if has_secure_sum(run) and fewest < agreed.min_sites:
        problems.append(
            f"secure_sum.min_sites is {fewest}: fewer sites than privacy.atlas.min_sites "
            f"({agreed.min_sites}) would add too little noise"
        )
    if has_secure_sum(run) and agreed.min_sites < 2:
        problems.append("privacy.atlas.min_sites must be 2 or more under a secure sum")
    return problems


def mechanism_words(run: RunConfig) -> str:
    """Return the mechanism in one line."""
    agreed = run.privacy.atlas
    epsilon = gaussian_epsilon(agreed.sigma, agreed.delta)
    share = f", 1/{agreed.min_sites} of it per site" if has_secure_sum(run) else " per site"
    return (
        f"discrete Gaussian on clipped cells, epsilon {epsilon:.3g} at delta {agreed.delta:g}, "
        f"noise {agreed.sigma:.4g} x sensitivity{share}"
    )
