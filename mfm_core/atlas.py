"""The atlas: where each class and attribute value lies in latent space, for the whole consortium.

Everything is computed from the merged latent sums (`latent_sums`), so federated equals pooled:

- class axis (paper section 2.5.1, the vector of z* = z + alpha (z1 - z0)): z1 is the mean of the
  class, z0 the mean of all other patients, (S - s_c) / (N - n_c);
- class-conditional attribute axis: the difference of two attribute values *within* each class,
  averaged with omega_y = n_y1 n_y0 / (n_y1 + n_y0). The paper's own (section 3.3) is the
  difference of the marginal means; where view and disease go together that one carries disease;
- pooled within-class covariance (T - sum_c s_c s_c' / n_c) / (N - C), C classes with patients.

What crosses the hospital's boundary: nothing new; the atlas comes back to every site.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from mfm_core.checkpoint import arrays_hash, load_arrays, save_arrays
from mfm_core.config import OntologyConfig, problems_of
from mfm_core.errors import CheckpointError, ConfigError, DataError
from mfm_core.sums import Array, Sum

COVARIANCE_FLOOR = 1e-6
"""Smallest eigenvalue of the covariance, as a part of the mean eigenvalue."""

SMALLEST_VARIANCE = 1e-12
"""Smallest eigenvalue of all, for latents that do not vary at all."""


@dataclass(frozen=True)
class Atlas:
    """Means, axes and spread of the latents of one encoder.

    Attributes:
        ontology: names and order of classes and attribute values.
        counts: `[K] float64` patients per class.
        means: `[K, L] float64`; zeros where the count is 0 (ask `class_mean`, which refuses).
        covariance: `[L, L] float64` pooled within-class covariance, positive definite.
        attribute_counts: per attribute `[K, V] float64` patients (parts of one where a patient
            has images of several values).
        attribute_means: per attribute `[K, V, L] float64`; zeros where the count is 0.
        encoder_hash: SHA-256 of the weights whose latents these are.
        config_hash: canonical hash of the run, or empty.
    """

    ontology: OntologyConfig
    counts: Array
    means: Array
    covariance: Array
    attribute_counts: Mapping[str, Array] = field(default_factory=dict)
    attribute_means: Mapping[str, Array] = field(default_factory=dict)
    encoder_hash: str = ""
    config_hash: str = ""

    @property
    def latent_size(self) -> int:
        """L, numbers in one latent."""
        return int(self.means.shape[1])

    @property
    def present(self) -> tuple[str, ...]:
        """Names of the classes that have patients, in the ontology's order."""
        return tuple(n for n, c in zip(self.ontology.classes, self.counts, strict=True) if c > 0)

    def class_mean(self, name: str) -> Array:
        """Return `[L]`, z1 of the paper.

        Raises:
            ConfigError: no such class. DataError: no patient of it.
        """
        mean: Array = self.means[self._class_index(name)]
        return mean

    def others_mean(self, name: str) -> Array:
        """Return `[L]`, z0 of the paper: the mean of all patients of the other classes.

        Raises:
            ConfigError: no such class. DataError: no patient of it, or of any other class.
        """
        index = self._class_index(name)
        counts = np.delete(self.counts, index)
        if counts.sum() == 0:
            reason = f"only {name!r} has patients; an axis needs a second class to compare with"
            raise DataError("atlas", [reason])
        mean: Array = counts @ np.delete(self.means, index, axis=0) / counts.sum()
        return mean

    def class_axis(self, name: str, versus: str | None = None) -> Array:
        """Return `[L]`, z1 - z0 (paper section 2.5.1).

        Args:
            name: the class of z1.
            versus: the class of z0; None takes all other classes' patients together.

        Raises:
            ConfigError: no such class, or both are the same. DataError: one has no patients.
        """
        if versus == name:
            raise ConfigError("atlas", [f"class {name!r} against itself; name two classes"])
        start = self.others_mean(name) if versus is None else self.class_mean(versus)
        return self.class_mean(name) - start

    def attribute_axis(
        self, name: str, positive: str, negative: str, conditional: bool = True
    ) -> Array:
        """Return `[L]`, the way from one attribute value to another.

        Args:
            name: the attribute, e.g. "view".
            positive: the value the axis points to.
            negative: the value it starts from.
            conditional: True compares within classes only and leaves out classes that have one
                of the two values only; False is the paper's difference of the marginal means.

        Raises:
            ConfigError: no such attribute or value. DataError: a side has no patients, or no
                class has both.
        """
        one, zero = self._value_index(name, positive), self._value_index(name, negative)
        if one == zero:
            raise ConfigError("atlas", [f"{name}: {positive!r} against itself; name two values"])
        count, mean = self.attribute_counts[name], self.attribute_means[name]
        n1, n0 = count[:, one], count[:, zero]
        for value, total in ((positive, n1.sum()), (negative, n0.sum())):
            if total == 0:
                reason = f"no patient has {name} {value!r}; nothing to compare with"
                raise DataError("atlas", [f"{reason}; choose values that occur at some site"])
        if not conditional:
            difference: Array = n1 @ mean[:, one] / n1.sum() - n0 @ mean[:, zero] / n0.sum()
            return difference
        omega = n1 * n0 / np.maximum(n1 + n0, np.finfo(np.float64).tiny)
        if omega.sum() == 0:
            reason = f"no class has patients with both {positive!r} and {negative!r}"
            advice = "ask for conditional=False, and read that axis as attribute and class mixed"
            raise DataError("atlas", [f"{name}: {reason}; {advice}"])
        axis: Array = omega @ (mean[:, one] - mean[:, zero]) / omega.sum()
        return axis

    def _class_index(self, name: str) -> int:
        classes = self.ontology.classes
        if name not in classes:
            known = ", ".join(classes)
            raise ConfigError("atlas", [f"class {name!r} is not in the ontology; it has {known}"])
        if self.counts[classes.index(name)] == 0:
            reason = f"no site has a training patient of class {name!r}"
            raise DataError("atlas", [f"{reason}; choose one of {', '.join(self.present)}"])
        return classes.index(name)

    def _value_index(self, name: str, value: str) -> int:
        values = self.ontology.attributes.get(name, ())
        if not values:
            known = ", ".join(self.ontology.attributes) or "none"
            raise ConfigError("atlas", [f"attribute {name!r} is not in the ontology ({known})"])
        if value not in values:
            reason = f"{name} {value!r} is not in the ontology; it has {', '.join(values)}"
            raise ConfigError("atlas", [reason])
        return values.index(value)


def atlas_from(
    total: Sum, ontology: OntologyConfig, encoder_hash: str, config_hash: str = ""
) -> Atlas:
    """Return the atlas of merged latent sums.

    Args:
        total: `latent_sum` of all sites, merged.
        ontology: the one the sums were made with.
        encoder_hash: SHA-256 of the encoder's weights.
        config_hash: canonical hash of the run.

    Raises:
        DataError: not more patients than classes, so there is no spread within a class.
    """
    counts, sums = total["class.count"], total["class.sum"]
    patients, classes = counts.sum(), int((counts > 0).sum())
    if patients <= classes:
        found = f"found {patients:.0f} patients in {classes} classes"
        raise DataError("latent sums", [f"{found}; the covariance needs more patients than that"])
    means = _divide(sums, counts)
    scatter = total["second_moment"] - means.T @ sums
    names = tuple(ontology.attributes)
    cells = {name: total[f"attribute.{name}.count"] for name in names}
    return Atlas(
        ontology=ontology,
        counts=counts,
        means=means,
        covariance=_floored(scatter / (patients - classes)),
        attribute_counts=cells,
        attribute_means={n: _divide(total[f"attribute.{n}.sum"], cells[n]) for n in names},
        encoder_hash=encoder_hash,
        config_hash=config_hash,
    )


def _divide(sums: Array, counts: Array) -> Array:
    """Return sums over counts along the last axis; zeros where nothing was counted."""
    safe = np.where(counts > 0, counts, 1.0)[..., None]
    means: Array = np.where(counts[..., None] > 0, sums / safe, 0.0)
    return means


def _floored(covariance: Array) -> Array:
    """Return the symmetric matrix with eigenvalues of at least COVARIANCE_FLOOR of their mean."""
    symmetric: Array = (covariance + covariance.T) / 2
    variances, directions = np.linalg.eigh(symmetric)
    floor = max(COVARIANCE_FLOOR * float(variances.mean()), SMALLEST_VARIANCE)
    if variances[0] >= floor:
        return symmetric
    raised: Array = (directions * np.maximum(variances, floor)) @ directions.T
    return raised


def save_atlas(path: Path, atlas: Atlas) -> None:
    """Write the atlas as safetensors, whole or not at all."""
    arrays = {"counts": atlas.counts, "means": atlas.means, "covariance": atlas.covariance}
    for name, counts in atlas.attribute_counts.items():
        arrays[f"attribute.{name}.counts"] = counts
        arrays[f"attribute.{name}.means"] = atlas.attribute_means[name]
    metadata = {
        "kind": "atlas",
        "arrays_hash": arrays_hash(arrays),
        "ontology": atlas.ontology.model_dump_json(),
        "encoder_hash": atlas.encoder_hash,
        "config_hash": atlas.config_hash,
    }
    save_arrays(path, arrays, metadata)


def load_atlas(path: Path, encoder_hash: str | None = None) -> Atlas:
    """Return the atlas of a file.

    Args:
        path: written by `save_atlas`.
        encoder_hash: if given, the atlas must describe this encoder's latents.

    Raises:
        CheckpointError: missing, damaged, not an atlas, or made with another encoder; all arrays
            that do not fit the ontology at once.
    """
    arrays, metadata = load_arrays(path, {"kind": "atlas"})
    found = metadata.get("encoder_hash", "none")
    if encoder_hash is not None and found != encoder_hash:
        raise CheckpointError(
            f"{path}: made with encoder {found[:12]}, the model is {encoder_hash[:12]}; "
            "latents of two encoders cannot be compared; use model and atlas of the same run"
        )
    try:
        ontology = OntologyConfig.model_validate_json(metadata["ontology"])
        names = tuple(ontology.attributes)
        atlas = Atlas(
            ontology=ontology,
            counts=arrays["counts"],
            means=arrays["means"],
            covariance=arrays["covariance"],
            attribute_counts={name: arrays[f"attribute.{name}.counts"] for name in names},
            attribute_means={name: arrays[f"attribute.{name}.means"] for name in names},
            encoder_hash=found,
            config_hash=metadata.get("config_hash", ""),
        )
    except KeyError as error:
        raise CheckpointError(f"{path}: {error} is missing; restore it from a copy") from None
    except ValidationError as error:
        reasons = "; ".join(problems_of(error))
        raise CheckpointError(f"{path}: ontology: {reasons}; restore it from a copy") from None
    if problems := _array_problems(atlas):
        raise CheckpointError(f"{path}: {'; '.join(problems)}; restore it from a copy")
    if metadata.get("arrays_hash", "") not in ("", arrays_hash(arrays)):
        raise CheckpointError(f"{path}: its numbers were changed after saving; restore a copy")
    return atlas


def _array_problems(atlas: Atlas) -> list[str]:
    """Return which arrays are not what the ontology asks for, or hold impossible numbers."""
    classes, size = len(atlas.ontology.classes), atlas.means.shape[-1] if atlas.means.ndim else 0
    expected: dict[str, tuple[Array, tuple[int, ...]]] = {
        "counts": (atlas.counts, (classes,)),
        "means": (atlas.means, (classes, size)),
        "covariance": (atlas.covariance, (size, size)),
    }
    for name, values in atlas.ontology.attributes.items():
        cells = (classes, len(values))
        expected[f"attribute.{name}.counts"] = (atlas.attribute_counts[name], cells)
        expected[f"attribute.{name}.means"] = (atlas.attribute_means[name], (*cells, size))
    problems = []
    for name, (array, shape) in expected.items():
        if array.shape != shape or array.dtype != np.float64:
            found = f"{name} is {array.shape} {array.dtype}"
            problems.append(f"{found}, expected {shape} float64")
        elif not np.isfinite(array).all():
            problems.append(f"{name} holds numbers that are not finite")
        elif name.endswith("counts") and (array < 0).any():
            problems.append(f"{name} holds negative numbers of patients")
    return problems
