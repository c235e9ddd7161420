"""Refuses head changes and audit counts that a site's declared images cannot give.

What the audit draws from counts (intervals, medians) takes them at their word: a negative count
would end the run and a huge one exhaust the memory. So every count is held against the images that
the site declares, and tables of the same images against each other.
What crosses the hospital's boundary: nothing here; replies are records of `wire`.
"""

from __future__ import annotations

import numpy as np

from mfm_core.errors import UpdateRejected
from mfm_core.sums import Array, Sum
from strategies.answers import EXPLANATIONS, FLIPS, SUBGROUPS, part_of

ROUNDING = 1e-6
IMAGES = "images"


def check_heads(total: Sum, images: int, max_norm: float) -> None:
    """Refuse the change of a site's heads that weighs or moves more than was agreed.

    Args:
        total: `mfm_core.mitigation.head_round_sum` of one site.
        images: declared images behind the reply.
        max_norm: largest L2 norm of a mean change of one head.

    Raises:
        UpdateRejected: "counts" or "norm".
    """
    weight = float(total[IMAGES][0])
    _require(-ROUNDING <= weight <= images + ROUNDING, f"{IMAGES}: expected 0 to {images}")
    for name, array in total.arrays.items():
        norm, most = float(np.linalg.norm(array)), weight * max_norm
        if name != IMAGES and norm > most + ROUNDING:
            text = f"{name}: expected a norm of at most {most:g}, found {norm:g}"
            raise UpdateRejected("norm", text)


def check_audit(total: Sum, images: int) -> None:
    """Refuse audit counts of more images than a site declares, or that contradict each other.

    Args:
        total: audit counts of one site, of the agreed schema.
        images: declared images behind the reply.

    Raises:
        UpdateRejected: "counts".
    """
    parts = dict.fromkeys(name.rpartition("/")[0] for name in total.arrays)
    for part in parts:
        kind, found = part.partition("/")[0], part_of(total, part)
        for name, array in found.arrays.items():
            most = len(found.arrays) if name == "suppressed" else images
            signed = name.endswith("excess")
            _require(signed or _fits(array, most), f"{part}/{name}: outside 0 to {most}")
        if kind == SUBGROUPS:
            _check_subgroups(found, part, images)
        elif kind == FLIPS:
            _check_flips(found, part, images)
        elif kind == EXPLANATIONS:
            _check_explanations(found)


def _fits(array: Array, images: float) -> bool:
    """Tell whether every number is at least 0 and at most the images."""
    return bool(array.min(initial=0.0) >= -ROUNDING and array.max(initial=0.0) <= images + ROUNDING)


def _check_subgroups(found: Sum, part: str, images: int) -> None:
    """Require that all tables of one head hold the same images of each value and class."""
    cells = found["group.decisions"].sum(axis=(0, 3))
    fine, coarse = found["scores"].sum(axis=3), found["group.scores"].sum(axis=(0, 4))
    _require(_fits(cells.sum(axis=1), images), f"{part}: a value has more than {images} images")
    for name, table in (("scores", fine), ("group.scores", coarse)):
        agree = bool((np.abs(table - cells[:, None]) <= ROUNDING).all())
        _require(agree, f"{part}/{name}: counts other images than the decisions")
    few = bool((found["patients"] <= cells + ROUNDING).all())
    _require(few, f"{part}/patients: more patients than images")
    excess = np.abs(found["group.excess"]).sum(axis=(0, 3))
    _require(bool((excess <= cells + ROUNDING).all()), f"{part}/group.excess: more than the images")


def _check_flips(found: Sum, part: str, images: int) -> None:
    for name, flipped in found.arrays.items():
        if name.endswith(".flipped"):
            count = found[name.removesuffix(".flipped") + ".count"]
            _require(
                bool((flipped <= count + ROUNDING).all()), f"{part}/{name}: more than patients"
            )
            _require(_fits(count.sum(axis=1), images), f"{part}/{name}: patients beyond {images}")


def _check_explanations(found: Sum) -> None:
    """Require that no histogram holds more patients than its row says were scored."""
    for name, table in found.arrays.items():
        if table.ndim == 2:
            fits = bool((table.sum(axis=1) <= found["scored"] + ROUNDING).all())
            _require(fits, f"{EXPLANATIONS}/{name}: more patients than were scored")


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise UpdateRejected("counts", text)
