"""What a private atlas would be good for with this site's patients, before the site agrees to it.

The encoder of the release is not trained yet, so the forecast is made with the one that the run
would begin with: its linear path, from the public pictures or from this site's own patches. The
dry run repeats it with an encoder that took one round here.
What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from client.config import SiteConfig, public_pictures
from client.finding import Finding
from client.private_release import USEFUL, forecast_release, forecast_words
from client.site import Site
from mfm_core.checkpoint import flat_weights
from mfm_core.config import canonical_hash
from mfm_core.errors import ConfigError, system_refusal
from mfm_core.patches import patch_moments, start_linear_path
from mfm_core.public_pictures import Pixels
from strategies.atlas_release import basis_of
from strategies.config import RunConfig
from strategies.starting_weights import first_weights


def check_forecast(config: SiteConfig, run: RunConfig) -> Iterator[Finding]:
    """Yield whether public pictures are those agreed on, and the forecast of a private atlas."""
    try:
        pictures = public_pictures(config, run)
    except ConfigError as error:
        text, advice = f"{error.subject}: {error.problems[0]}", "`mfm-client join` a new kit"
        yield Finding("data", "fail", text, advice)
        return
    if pictures is not None:
        yield Finding("data", "ok", f"{len(pictures)} public pictures, as the run names them")
    if not run.privacy.atlas.private:
        return
    try:
        yield _forecast(config, run, pictures)
    except OSError as error:
        yield Finding("data", "fail", system_refusal(error), "see machine")


def _forecast(config: SiteConfig, run: RunConfig, pictures: Pixels | None) -> Finding:
    site = Site(config, run, canonical_hash(run))
    weights = _first_encoder(site, pictures)
    site.load(weights)
    basis = basis_of(run, weights, pictures)
    rows = forecast_release(site, basis, run.privacy.atlas.min_sites)
    good = [row for row in rows if row.cosine >= USEFUL]
    text = f"private atlas, with an untrained encoder: {forecast_words(site, basis)}"
    if len(good) == len(rows) and rows:
        return Finding("data", "ok", text)
    advice = (
        f"{len(rows) - len(good)} of {len(rows)} axes would be of little use: agree on more sites, "
        "a larger epsilon, fewer attributes or public pictures, or expect the site's own atlas only"
    )
    return Finding("data", "warn", text, advice)


def _first_encoder(site: Site, pictures: Pixels | None) -> NDArray[np.float32]:
    """Return the starting weights `[D]`, the linear path of other runs from this site's patches."""
    run, weights = site.run, first_weights(site.run, pictures)
    if run.privacy.private or not run.model.linear_path:
        return weights
    model, images = site.load(weights), site.images
    start_linear_path(model, patch_moments(images, images.select("train"), run.model))
    return flat_weights(model)
