"""Only the architecture this site builds itself, and only weights such as training gives.

A server can send weights, never code or layers: names and shapes are held by the wire, the code
by its hash. Weights alone can still be crafted so that a gradient holds a copy of an image (Fowl
et al., "Robbing the Fed", arXiv:2110.13057). Such traps in their plain form need weights far from
what starting and training give, so those are refused before anything is computed: per tensor, the
largest value and the root mean square against the same tensor of a new model.

A check of ranges stops no trap that is built within them; only private training bounds what any
weights can draw out. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from client.site import Site
from mfm_core.autoencoder import Autoencoder
from mfm_core.checkpoint import weight_schema
from mfm_core.errors import UpdateRejected
from strategies.plan import Kind

LEAST_SCALE = 0.5
"""Tensors that start at or near zero are judged as if they started at this value."""

USUAL_SCALES = {"linear_path.gain_in": 20.0, "linear_path.mean_image": 1.0}
"""Tensors that the patch PCA sets. A gain is one over the spread of a patch component, at most 100
at the start (`mfm_core.patches.SMALLEST_VARIANCE`) and 58 in finished runs."""


def graph_hash(model: Autoencoder) -> str:
    """Return the SHA-256 (hex) of the layers in order, with their settings, names and shapes."""
    digest = hashlib.sha256()
    for name, layer in model.named_modules():
        own = layer.extra_repr()
        digest.update(
            f"{name}\0{type(layer).__module__}.{type(layer).__qualname__}\0{own}\n".encode()
        )
    for name, shape in weight_schema(model):
        digest.update(f"{name}\0{shape}\n".encode())
    return digest.hexdigest()


def check_graph(site: Site) -> None:
    """Return if the architecture of the run is the one this site has pinned, or none is.

    Raises:
        UpdateRejected: "graph".
    """
    pinned = site.config.limits.graph
    if pinned is not None and pinned != (found := graph_hash(site.model)):
        raise UpdateRejected(
            "graph", f"limits.graph is {pinned}, the run's architecture is {found}; check what "
            "changed before you pin another"
        )  # fmt: skip


def check_weights(site: Site, kind: Kind, weights: NDArray[np.float32]) -> None:
    """Return if weights `[D]` lie where those of new and trained models do.

    The head is judged only where it is trained on: later ones come from sums, of any size.

    Raises:
        UpdateRejected: "weights"; all tensors outside their range are named in the text.
    """
    margin, start, problems = site.config.limits.weight_margin, 0, []
    new = site.starting_weights
    for name, shape in site.schema:
        size = math.prod(shape)
        part = slice(start, start + size)
        start += size
        if name.startswith("head.") and kind != "train":
            continue
        if problem := _problem(name, weights[part], new[part], margin):
            problems.append(problem)
    if problems:
        raise UpdateRejected(
            "weights",
            f"{len(problems)} tensors lie outside what models usually have: "
            f"{'; '.join(problems[:5])}; nothing was computed (limits.weight_margin)",
        )


def _problem(
    name: str, found: NDArray[np.float32], new: NDArray[np.float32], margin: float
) -> str | None:
    """Return in which way one tensor is unusual, or None."""
    scale = max(float(np.abs(new).max(initial=0.0)), LEAST_SCALE, USUAL_SCALES.get(name, 0.0))
    largest = float(np.abs(found).max(initial=0.0))
    if not largest <= margin * scale:
        return f"{name}: largest value {largest:.3g}, allowed {margin * scale:.3g}"
    started, now = (math.sqrt(float(np.square(a, dtype=np.float64).mean())) for a in (new, found))
    usual = max(started, USUAL_SCALES.get(name, 0.0))
    if started > 0 and not started / margin <= now <= margin * usual:
        low, high = started / margin, margin * usual
        return f"{name}: root mean square {now:.3g}, allowed {low:.3g} to {high:.3g}"
    return None
