"""Central DP: every site shortens its update to a clip, and noise joins the sum of all sites once.

One mechanism, two halves. The site clips the change of the weights to an L2 norm of at most C and
cuts it towards zero to whole grains, so the bound holds for the integers. Every site weighs the
same. Then discrete Gaussian noise of z C joins the sum, once:

- without a secure sum the server adds it (formal only where the server is trusted);
- with one every site adds the share 1 / (min_sites - colluding_sites) of the variance, so that a
  sum over any min_sites sites has at least z C even for those who know the noise of so many of
  them. Sums of discrete Gaussians this wide are one to within exp(-1e8) (Kairouz, Liu, Steinke,
  arXiv:2102.06387, theorem 1).

The clip may follow a quantile of the norms (Andrew et al. 2021, arXiv:1905.03871): a site adds
one bit, within the clip or not, as +-1/2, which takes `count_share` of the budget.

Formal: epsilon, delta; unit one whole site; neighbours one site's updates replaced by zeros, in
every round. A patient's presence can turn a site's update into any other within the clip, twice as
far, so a patient of one site has the guarantee of half the noise. Who takes part is public and no
chance decides on it: nothing is amplified by sampling. What crosses the hospital's boundary: the
clipped update and the bit; with a secure sum both with their share of the noise, under masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mfm_core.accounting import epsilon_of
from mfm_core.config import Part
from mfm_core.discrete_noise import with_noise
from mfm_core.private_cells import SLACK
from mfm_core.sums import Array, Schema, Sum
from strategies.ring import largest_number

if TYPE_CHECKING:
    from strategies.config import RunConfig

Integers = NDArray[np.int64]
Draw = Callable[[Integers, float], Integers]
"""Adds noise of a standard deviation, in grains, to integers."""

CENTRAL = "central"
"""What a run's state and the ledger line of a round keep of the mechanism."""

CLIP: Schema = (("clip", (1,)),)
"""What the server sends where the clip follows a quantile."""

WITHIN: Schema = (("within_clip", (1,)),)
"""What a site then adds to its update: 1/2 within the clip, else -1/2."""

ACCOUNTANT = "Gaussian mechanism in closed form, every site in every round"
NEIGHBOURS = "one site's updates replaced by zeros; for a patient of a site, as with half the noise"
LEAST_CLIP = 2.0**-10
NOISE_BITS, CLIP_BITS, COUNT_BITS = 17, 22, 20
"""The noise has at least 2**17 grains, the clip at most 2**22, the bit's 1 is 2**20 of its own."""

TAIL = 16.0
"""Standard deviations that must fit into the ring: one number in 10**57 is beyond."""


class CentralConfig(Part):
    """Clipping at the sites, noise on their sum."""

    clip: float = Field(
        1.0, ge=LEAST_CLIP, description="Longest update of a site, L2; with quantile of round 1."
    )
    quantile: float | None = Field(
        None, gt=0, lt=1, description="Share of the sites whose update the clip should hold; the "
        "clip then follows it from round to round. None: it stays."
    )  # fmt: skip
    clip_rate: float = Field(0.2, gt=0, le=1, description="quantile: how fast the clip follows.")
    count_share: float = Field(
        0.1, gt=0, lt=1, description="quantile: share of the budget for counting such sites."
    )
    colluding_sites: int = Field(
        1, ge=0, le=254, description="Secure sum: sites that may put their noise together; each "
        "knows at least its own. Less noise is shared out, so more is added."
    )  # fmt: skip

    @property
    def adaptive(self) -> bool:
        """Return whether the clip follows a quantile."""
        return self.quantile is not None


@dataclass(frozen=True)
class Terms:
    """One round of the mechanism, the same at both ends.

    Attributes:
        clip: C, longest update.
        noise: standard deviation of the noise of the sum over C.
        count_deviation: of the noise of the counted bits; 0 where there are none.
        sharing: sites whose noise makes up that of the sum; 0 where the server adds it.
        released: `[D]` which weights are learnt; the others have neither change nor noise.
    """

    clip: float
    noise: float
    count_deviation: float
    sharing: int
    released: NDArray[np.bool_]

    @property
    def grain(self) -> float:
        """Return the width of one integer, a power of 2: float32 holds clipped and noisy ones."""
        by_noise = math.floor(math.log2(self.noise * self.clip)) - NOISE_BITS
        return 2.0 ** max(by_noise, math.ceil(math.log2(self.clip)) - CLIP_BITS)

    def deviations(self) -> tuple[float, float]:
        """Return the noise, in grains, of update and count: of a site where it is shared out."""
        share = math.sqrt(max(1, self.sharing))
        whole = self.noise * self.clip / self.grain, self.count_deviation * 2.0**COUNT_BITS
        return whole[0] / share, whole[1] / share


def terms_of(run: RunConfig, schema: Schema, clip: float) -> Terms:
    """Return the terms of a round with this clip.

    Args:
        run: the agreed run.
        schema: names and shapes of the weights.
        clip: of the round.
    """
    agreed, noise = run.privacy.central, run.privacy.noise_multiplier
    share = agreed.count_share if agreed.adaptive else 0.0
    return Terms(
        clip=clip,
        noise=noise / math.sqrt(1 - share),
        count_deviation=noise / (2 * math.sqrt(share)) if share else 0.0,
        sharing=_sharing(run),
        released=_released(schema, run.privacy.trainable == "head"),
    )


def _sharing(run: RunConfig) -> int:
    secure, most = run.secure_sum, run.privacy.central.colluding_sites
    return secure.min_sites - most if secure.enabled else 0


def _released(schema: Schema, head_only: bool) -> NDArray[np.bool_]:
    """Return which numbers of the flat weights `[D]` learn; attention needs a round of its own."""
    learns = [
        name.startswith("head.") if head_only else name != "attention_logits" for name, _ in schema
    ]
    return np.repeat(learns, [math.prod(shape) for _, shape in schema])


@dataclass(frozen=True)
class Shielded:
    """What leaves a site, or the noisy sum.

    Attributes:
        update: `[D] float64`, whole grains.
        within: sum of the bits, +-1/2 each; 0 without them.
    """

    update: Array
    within: float


def site_half(update: NDArray[np.floating], terms: Terms, draw: Draw = with_noise) -> Shielded:
    """Return a site's update, never longer than the clip before its share of the noise.

    One that is not finite becomes zeros: an error would tell what no noise covers.

    Args:
        update: `[D]` change of the weights.
        terms: of the round.
        draw: adds noise; from the operating system but for tests.
    """
    learnt = np.where(terms.released, np.asarray(update, dtype=np.float64), 0.0)
    length = float(np.linalg.norm(learnt))
    if not math.isfinite(length):
        learnt, length = np.zeros(len(learnt)), math.inf
    scale = SLACK * min(1.0, terms.clip / length if length > 0 else 1.0) / terms.grain
    grains = np.trunc(learnt * scale).astype(np.int64)
    counted = terms.count_deviation > 0
    within = math.copysign(0.5, terms.clip - length) if counted else 0.0
    plain = Shielded(np.asarray(grains * terms.grain, dtype=np.float64), within)
    return _noisy(plain, terms, draw) if terms.sharing else plain


def server_half(total: Shielded, terms: Terms, draw: Draw = with_noise) -> Shielded:
    """Return the sum of all sites with its noise; as it is where the sites have added theirs."""
    return total if terms.sharing else _noisy(total, terms, draw)


def _noisy(plain: Shielded, terms: Terms, draw: Draw) -> Shielded:
    wide, narrow = terms.deviations()
    grains = np.rint(plain.update / terms.grain).astype(np.int64)
    grains[terms.released] = draw(grains[terms.released], wide)
    within = plain.within
    if narrow > 0:
        whole = np.array([round(within * 2.0**COUNT_BITS)], dtype=np.int64)
        within = float(draw(whole, narrow)[0]) / 2.0**COUNT_BITS
    return Shielded(np.asarray(grains * terms.grain, dtype=np.float64), within)


def next_clip(run: RunConfig, clip: float, within: float, sites: int) -> float:
    """Return the clip of the next round from the noisy sum of the bits of so many sites."""
    agreed = run.privacy.central
    if agreed.quantile is None:
        return clip
    share = min(max(within / sites + 0.5, 0.0), 1.0)
    following = clip * math.exp(-agreed.clip_rate * (share - agreed.quantile))
    return min(max(following, LEAST_CLIP), run.aggregation.max_update_norm)


def clip_of(run: RunConfig, facts: Mapping[str, Any]) -> float:
    """Return the clip of the next round of a run whose state holds these facts."""
    return float(facts.get(CENTRAL, {}).get("clip", run.privacy.central.clip))


def clip_sum(clip: float) -> Sum:
    """Return what tells the sites the clip of a round."""
    return Sum({CLIP[0][0]: np.array([clip])})


def spent_by(run: RunConfig, draws: int) -> dict[str, Any]:
    """Return epsilon of so many noisy sums, of a site and of one patient of it; None: no bound."""
    agreed = run.privacy
    of_site, of_patient = (
        found if math.isfinite(found := epsilon_of([(noise, 1.0, draws)], agreed.delta)) else None
        for noise in (agreed.noise_multiplier, agreed.patient_noise)
    )
    return {
        "draws": draws,
        "noise_multiplier": agreed.noise_multiplier,
        "delta": agreed.delta,
        "epsilon_site": of_site,
        "epsilon_patient": of_patient,
        "trust": trust_words(run),
    }


def spent_words(spent: Mapping[str, Any]) -> str:
    """Return `spent_by` for readers."""
    figures = (spent.get(key) for key in ("epsilon_site", "epsilon_patient"))
    site, patient = ("without bound" if f is None else f"{f:.3g}" for f in figures)
    return (
        f"epsilon {site} for a whole site, {patient} for one patient of it, at delta "
        f"{spent.get('delta'):g} after {spent.get('draws')} noisy sums, {spent.get('trust')}"
    )


def trust_words(run: RunConfig) -> str:
    """Return whom the guarantee trusts."""
    if not run.secure_sum.enabled:
        return "trusting the server"
    most = run.privacy.central.colluding_sites
    return f"trusting no server; up to {most} of the sites may put their noise together"


def mechanism_words(run: RunConfig) -> str:
    """Return the mechanism in one line."""
    agreed, noise = run.privacy.central, run.privacy.noise_multiplier
    what = "the head's update" if run.privacy.trainable == "head" else "update"
    follows = f", then the {agreed.quantile:g} quantile" if agreed.adaptive else ""
    where = f"1/{_sharing(run)} of it per site" if run.secure_sum.enabled else "by the server"
    return (
        f"central DP, {what} of every site clipped to {agreed.clip:g}{follows}, discrete Gaussian "
        f"of {noise:g} x clip on the sum, {where}"
    )


def central_problems(run: RunConfig) -> list[str]:
    """Return why central DP is impossible in this run; empty if it is not."""
    agreed, problems = run.privacy.central, []
    if run.aggregation.inspects:
        problems.append(
            "aggregation.combine must be mean, without norm_bound: noise is made for a sum in "
            "which every site can move as much as the clip"
        )
    if agreed.clip > run.aggregation.max_update_norm:
        problems.append(
            f"privacy.central.clip is {agreed.clip:g}, aggregation.max_update_norm allows "
            f"{run.aggregation.max_update_norm:g}"
        )
    if run.secure_sum.enabled:
        problems += _sharing_problems(run)
    limit = run.gates.max_epsilon
    planned = spent_by(run, run.rounds)["epsilon_patient"]
    if limit is not None and (planned is None or planned > limit):
        found = "no bound" if planned is None else f"epsilon {planned:.3g}"
        problems.append(
            f"{run.rounds} rounds come to {found} for a patient, gates.max_epsilon is {limit:g}: "
            "more noise_multiplier or fewer rounds"
        )
    return problems


def _sharing_problems(run: RunConfig) -> list[str]:
    """Return why noise cannot be shared out among the sites of a secure sum."""
    problems, agreed = [], run.privacy.central
    if run.secure_sum.updates == "quantised":
        problems.append("secure_sum.updates must be exact: rounding would lengthen clipped updates")
    if _sharing(run) < 1:
        problems.append(
            f"privacy.central.colluding_sites is {agreed.colluding_sites}: of the "
            f"{run.secure_sum.min_sites} sites of secure_sum.min_sites nobody's noise would be left"
        )
    largest = run.aggregation.max_update_norm if agreed.adaptive else agreed.clip
    noise = run.privacy.noise_multiplier
    if agreed.adaptive:
        noise /= math.sqrt(1 - agreed.count_share)
    if (reach := largest * (1 + TAIL * noise)) >= largest_number():
        problems.append(
            f"clip and noise reach {reach:.3g}, the ring of a secure sum takes less than "
            f"{largest_number():.3g} a site: a smaller clip (aggregation.max_update_norm with "
            "quantile) or less noise"
        )
    return problems
