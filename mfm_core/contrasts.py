"""Which values of an attribute are compared, and where they lie: the axes of every bias question.

An attribute of two values is one contrast, the first value against the second. One of more values
is a contrast per value: that value against all the others together, pooled by counts. Axes are
class-conditional, delta = sum_y omega_y (m_y1 - m_y0) / sum_y omega_y with
omega_y = n_y1 n_y0 / (n_y1 + n_y0), as `Atlas.attribute_axis` has them for two values. Site
identity is an attribute like any other: `with_sites` for the coordinator, `here_or_elsewhere` for
a hospital that knows only its own sums and the pooled ones.

Source: paper section 3.3 (its axis is the difference of the marginal means).
What crosses the hospital's boundary: nothing new; everything is computed from released cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mfm_core.atlas import Atlas
from mfm_core.config import OntologyConfig
from mfm_core.errors import ConfigError, DataError
from mfm_core.sums import Array, Sum

SITE = "site"
"""Name of the attribute that holds site identity."""

NAMED = 3
"""At most this many other values are named one by one."""

ROUNDING = 1e-4
"""Patients by which fixed-point sums may disagree."""


@dataclass(frozen=True)
class Contrast:
    """One question about an attribute: images with `value` against those with another value.

    Attributes:
        attribute: name in the ontology.
        value: the value that the axis points to.
        against: what it is compared with, in words.
        one: index of `value`.
        rest: indices of the values it is compared with.
    """

    attribute: str
    value: str
    against: str
    one: int
    rest: tuple[int, ...]


@dataclass(frozen=True)
class Sides:
    """Both sides of a contrast in every class (K classes, L latent numbers).

    Attributes:
        counts: `[2, K] float64` patients with the value, and with another known value.
        means: `[2, K, L] float64`; zeros where the count is 0.
    """

    counts: Array
    means: Array

    @property
    def omega(self) -> Array:
        """`[K] float64`: what each class tells, n1 n0 / (n1 + n0); 0 where a side is empty."""
        one, rest = self.counts
        known: Array = one * rest / np.maximum(one + rest, np.finfo(np.float64).tiny)
        return known

    @property
    def problem(self) -> str:
        """Why there is no class-conditional axis, in words; empty when there is one."""
        if not self.counts.any():
            return "no patient with a known value was counted"
        if not self.counts.any(axis=1).all():
            return "every patient is on one side; nothing to compare with"
        if not self.omega.any():
            return "no class has patients on both sides, so value and class cannot be told apart"
        return ""

    @property
    def axis(self) -> Array:
        """`[L] float64`, class-conditional, from the others to the value.

        Raises:
            DataError: there is none (`problem`).
        """
        if self.problem:
            raise DataError("contrast", [f"{self.problem}; choose another attribute or value"])
        delta: Array = self.omega @ (self.means[0] - self.means[1]) / self.omega.sum()
        return delta


def contrasts_of(ontology: OntologyConfig, attribute: str | None = None) -> tuple[Contrast, ...]:
    """Return the contrasts of one attribute, or of all in the ontology's order.

    Raises:
        ConfigError: no such attribute.
    """
    if attribute is not None and attribute not in ontology.attributes:
        known = ", ".join(ontology.attributes) or "none"
        raise ConfigError("bias", [f"attribute {attribute!r} is not in the ontology ({known})"])
    found = []
    for name, values in ontology.attributes.items():
        if attribute in (None, name):
            ones = range(1 if len(values) == 2 else len(values))
            found += [_contrast(name, values, one) for one in ones]
    return tuple(found)


def contrast_to(ontology: OntologyConfig, attribute: str, value: str) -> Contrast:
    """Return the contrast that points to `value`; of two values either may be asked for.

    Raises:
        ConfigError: no such attribute or value.
    """
    contrasts_of(ontology, attribute)
    values = ontology.attributes[attribute]
    if value not in values:
        reason = f"{attribute} {value!r} is not in the ontology; it has {', '.join(values)}"
        raise ConfigError("bias", [reason])
    return _contrast(attribute, values, values.index(value))


def _contrast(attribute: str, values: tuple[str, ...], one: int) -> Contrast:
    rest = tuple(index for index in range(len(values)) if index != one)
    named = " or ".join(values[index] for index in rest)
    return Contrast(attribute, values[one], named if len(rest) <= NAMED else "others", one, rest)


def sides_of(atlas: Atlas, contrast: Contrast) -> Sides:
    """Return counts and means of both sides of a contrast."""
    counts = atlas.attribute_counts[contrast.attribute]
    means = atlas.attribute_means[contrast.attribute]
    rest = list(contrast.rest)
    pooled = counts[:, rest].sum(axis=1)
    shares = counts[:, rest] / np.maximum(pooled, np.finfo(np.float64).tiny)[:, None]
    others = np.einsum("kv,kvl->kl", shares, means[:, rest])
    return Sides(
        counts=np.stack([counts[:, contrast.one], pooled]),
        means=np.stack([means[:, contrast.one], others]),
    )


def with_sites(atlas: Atlas, cells: Mapping[str, Sum]) -> Atlas:
    """Return the atlas with the attribute "site", one value per site.

    With fewer than two sites there is nothing to compare, and the atlas is returned as it is.

    Args:
        atlas: of the pooled sums.
        cells: per site the latent sum it released, or only "class.count" `[K]` and "class.sum"
            `[K, L]` of it.

    Raises:
        ConfigError: the ontology has an attribute "site" already.
        DataError: arrays are missing, of another shape, not finite, or of more patients than
            the atlas has; all problems at once.
    """
    if SITE in atlas.ontology.attributes:
        raise ConfigError("sites", [f"the ontology has an attribute {SITE!r}; rename that one"])
    problems = [text for name, total in cells.items() for text in _problems(atlas, name, total)]
    if not problems and cells:
        counted = np.sum([total["class.count"] for total in cells.values()], axis=0)
        if (counted > atlas.counts + ROUNDING).any():
            problems.append("the sites have more patients than the atlas; use sums of one release")
    if problems:
        raise DataError("sites", problems)
    if len(cells) < 2:
        return atlas
    counts = np.stack([total["class.count"] for total in cells.values()], axis=1)
    sums = np.stack([total["class.sum"] for total in cells.values()], axis=1)
    return _with_site(atlas, tuple(cells), counts, sums)


def here_or_elsewhere(atlas: Atlas, own: Sum) -> Atlas:
    """Return the atlas with the attribute "site" of the values "here" and "elsewhere".

    Args:
        atlas: of the pooled sums, this site's among them.
        own: this site's latent sum of the same release ("class.count", "class.sum").

    Raises:
        ConfigError: the ontology has an attribute "site" already.
        DataError: arrays are missing, of another shape, not finite, or not part of the atlas.
    """
    checked = with_sites(atlas, {"here": own})
    counts = np.stack([own["class.count"], atlas.counts - own["class.count"]], axis=1)
    counts[np.abs(counts) < ROUNDING] = 0.0
    pooled = atlas.means * atlas.counts[:, None]
    sums = np.stack([own["class.sum"], pooled - own["class.sum"]], axis=1)
    return _with_site(checked, ("here", "elsewhere"), counts, sums)


def _with_site(atlas: Atlas, names: tuple[str, ...], counts: Array, sums: Array) -> Atlas:
    ontology = atlas.ontology
    attributes = {**ontology.attributes, SITE: names}
    safe = np.where(counts > 0, counts, 1.0)[..., None]
    means = np.where(counts[..., None] > 0, sums / safe, 0.0)
    return replace(
        atlas,
        ontology=OntologyConfig(classes=ontology.classes, attributes=attributes),
        attribute_counts={**atlas.attribute_counts, SITE: counts},
        attribute_means={**atlas.attribute_means, SITE: means},
    )


def _problems(atlas: Atlas, name: str, total: Sum) -> list[str]:
    """Return what is wrong with one site's cells."""
    expected = {"class.count": atlas.counts.shape, "class.sum": atlas.means.shape}
    problems = []
    for key, shape in expected.items():
        array = total.arrays.get(key)
        if array is None or array.shape != shape:
            found = "nothing" if array is None else f"shape {array.shape}"
            problems.append(f"{name}: expected {key} of shape {shape}, found {found}")
        elif not np.isfinite(array).all():
            problems.append(f"{name}: {key} is not finite; ask the site for a new release")
        elif key == "class.count" and (array < 0).any():
            problems.append(f"{name}: {key} is below 0; ask the site for a new release")
    return problems
