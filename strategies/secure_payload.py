"""A site's answer as integers of a ring, and the answer of all sites read off their sum.

What `collector` adds for visible replies (image count, images x update, Sum) is laid out here as
one vector, so that both ways add the same numbers. With `exact` updates the result has the bits
of the visible one; with `quantised` ones an update takes 2 bytes a number instead of 8 and is
rounded (`quantise`), while counts and Sums stay exact.

What crosses the hospital's boundary: nothing here; the integers leave under masks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from mfm_core.config import Part
from mfm_core.sums import Array, Schema, Sum
from strategies.quantise import Grain, dequantise, quantise
from strategies.ring import Masked, from_ring, to_ring
from strategies.secure_sum import FEWEST_SITES
from strategies.wire import Payload, model_size

HEADROOM = 2.0
"""Longest update of a round, in root mean squares of the round before."""


class SecureSumConfig(Part):
    """Whether the server sees single sites' answers, or only their sum."""

    enabled: bool = Field(
        False, description="Mask every answer so that the server can read the sum only."
    )
    updates: Literal["quantised", "exact"] = Field(
        "quantised", description="8 bits a number, rounded at random, or exact in 64."
    )
    first_norm: float = Field(
        30.0, gt=0, description="quantised: longest update of the first round, L2; then adapted."
    )
    min_sites: int = Field(
        FEWEST_SITES, ge=FEWEST_SITES, le=256, description="Fewest sites of a sum that is read."
    )


@dataclass(frozen=True)
class Form:
    """How an exchange's answers are laid out; the same at every site and at the server.

    Attributes:
        size: D, numbers of an update; 0 without one.
        total: schema of the Sum, or None.
        grain: how updates are quantised; None leaves them exact.
        largest: images of the largest site, by which quantised updates are weighted.
    """

    size: int
    total: Schema | None
    grain: Grain | None = None
    largest: int = 1

    @property
    def sizes(self) -> tuple[int, int]:
        """Return P and S: how many integers of 16 and of 64 bits."""
        sums = model_size(self.total) if self.total is not None else 0
        if self.grain is not None:
            return self.grain.padded, 2 + sums
        return 0, 1 + self.size + sums


@dataclass(frozen=True)
class Opened:
    """What the sum of all sites says.

    Attributes:
        images: images behind the answers.
        update: `[D] float64`, mean update by images; None without one.
        total: the merged Sum, or None.
        norm: root mean square of the sites' update norms, by images; 0 where it is not counted.
    """

    images: int
    update: Array | None
    total: Sum | None
    norm: float = 0.0


def to_integers(form: Form, images: int, payload: Payload, draw: np.random.Generator) -> Masked:
    """Return a site's answer as integers, before its masks.

    Args:
        form: layout of the exchange.
        images: images behind the answer.
        payload: update and Sum, of the agreed sizes.
        draw: the site's own randomness, for rounding.

    Raises:
        ConfigError: a number is not finite or too large for the ring.
    """
    parts, update = [np.array([float(images)])], np.zeros(0, np.int16)
    if form.grain is not None:
        assert payload.model is not None
        weight = min(1.0, images / form.largest)
        update = quantise(payload.model, weight, form.grain, draw)
        parts.append(np.array([images * float(np.sum(payload.model.astype(np.float64) ** 2))]))
    elif form.size:
        assert payload.model is not None
        parts.append(payload.model.astype(np.float64) * images)
    if payload.total is not None:
        parts.append(payload.total.flatten())
    return Masked(update.view(np.uint16), to_ring(np.concatenate(parts)))


def _root(square: float) -> float:
    """Return the root; of a negative number, which no honest answers give, a negative one."""
    return math.copysign(abs(square) ** 0.5, square)


def from_integers(form: Form, summed: Masked) -> Opened:
    """Return what the sum of `to_integers` over sites says."""
    flat = from_ring(summed.total)
    images = max(float(flat[0]), 1.0)
    update, norm, start = None, 0.0, 1
    if form.grain is not None:
        total = dequantise(summed.update.view(np.int16), form.grain)
        update, norm, start = total * form.largest / images, _root(float(flat[1] / images)), 2
    elif form.size:
        update, start = flat[1 : 1 + form.size] / images, 1 + form.size
    found = None if form.total is None else Sum.unflatten(form.total, flat[start:])
    return Opened(round(float(flat[0])), update, found, norm)
