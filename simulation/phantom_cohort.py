"""Who lies in an invented hospital: findings, attributes and the couplings planted between them.

A coupling ties one value of an attribute to one finding, either by the phi correlation wanted
(the attribute keeps its share in the hospital; the other findings make up for it) or by
P(value | finding) (the other findings keep their share). With a finding of probability p and a
value of share q, phi gives P(value | finding) = q + phi sqrt(q (1 - q) (1 - p) / p).
What crosses the hospital's boundary: nothing; there is no real patient here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mfm_core.config import Part
from simulation.phantom_findings import CLASSES

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "view": ("AP", "PA"),
    "sex": ("F", "M"),
    "age": ("18-39", "40-64", "65+"),
    "marker": ("none", "L", "R"),
}
"""Attributes every hospital records, in the order of `Cohort.attributes`."""
MAX_FILMS = 3
"""Most films of one patient."""


class CouplingConfig(Part):
    """One planted coupling; set exactly one of `phi` and `probability`."""

    attribute: str = Field(description="view, sex, age, marker or scanner.")
    value: str = Field(description="One value of the attribute, e.g. AP.")
    finding: Literal["none", "infiltrate", "effusion", "nodule", "cardiomegaly"] = Field(
        description="The finding it is tied to; the sign of phi may be either."
    )
    phi: float | None = Field(None, ge=-1, le=1, description="Wanted phi correlation.")
    probability: float | None = Field(None, ge=0, le=1, description="P(value | finding).")

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.phi is None) == (self.probability is None):
            raise ValueError("set exactly one of phi and probability")
        return self


class ScannerConfig(Part):
    """The grey curve of one X-ray machine."""

    name: str = Field("A", description="Name in the manifest.")
    gamma: float = Field(1.0, gt=0.3, lt=3, description="Exponent of the grey curve.")
    window: float = Field(1.0, gt=0.3, lt=3, description="Width of the window; < 1 is harder.")
    level: float = Field(
        0.0, gt=-0.3, lt=0.3, description="Shift of all greys, part of full scale."
    )
    noise_std: float = Field(0.008, ge=0, lt=0.2, description="Quantum noise at mid grey.")


class HospitalPhantoms(Part):
    """One invented hospital."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$", description="Name of the hospital.")
    patients: int = Field(ge=1, le=1_000_000, description="Patients with 1 to 3 films each.")
    class_probabilities: dict[str, float] = Field(
        default_factory=lambda: dict.fromkeys(CLASSES, 1.0 / len(CLASSES)),
        description="Share of patients per finding; brought to a sum of 1; absent is 0.",
    )
    ap_share: float = Field(0.45, ge=0, le=1, description="Share of films taken lying down (AP).")
    female_share: float = Field(0.5, ge=0, le=1, description="Share of women.")
    age_shares: tuple[float, float, float] = Field(
        (0.3, 0.4, 0.3), description="Shares of 18-39, 40-64 and 65+; brought to a sum of 1."
    )
    marker_probability: float = Field(
        0.5, ge=0, le=1, description="Share of films with a burned-in L or R (half each)."
    )
    scanners: tuple[ScannerConfig, ...] = Field(
        (ScannerConfig(),),
        min_length=1,
        description="X-ray machines, used equally often.",
    )
    couplings: tuple[CouplingConfig, ...] = Field((), description="Planted couplings.")

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        problems = [
            f"class_probabilities: unknown class {n!r}; use {', '.join(CLASSES)}"
            for n in self.class_probabilities
            if n not in CLASSES
        ]
        if min([*self.class_probabilities.values(), *self.age_shares]) < 0:
            problems.append("class_probabilities, age_shares: a share is below 0")
        elif sum(self.class_probabilities.values()) <= 0 or sum(self.age_shares) <= 0:
            problems.append("class_probabilities, age_shares: all shares are 0")
        if len({scanner.name for scanner in self.scanners}) < len(self.scanners):
            problems.append("scanners: a name stands twice")
        if not problems:
            problems = _coupling_problems(self)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def finding_shares(self) -> NDArray[np.float64]:
        """Return P(finding), `[5] float64`."""
        shares = np.array([self.class_probabilities.get(name, 0.0) for name in CLASSES])
        return np.asarray(shares / shares.sum())

    def attribute_shares(self) -> dict[str, tuple[tuple[str, ...], NDArray[np.float64]]]:
        """Return each attribute's values and their shares before any coupling."""
        marked, scanners = self.marker_probability / 2.0, len(self.scanners)
        ages = np.array(self.age_shares)
        shares = {
            "view": np.array([self.ap_share, 1.0 - self.ap_share]),
            "sex": np.array([self.female_share, 1.0 - self.female_share]),
            "age": ages / ages.sum(),
            "marker": np.array([1.0 - 2.0 * marked, marked, marked]),
            "scanner": np.full(scanners, 1.0 / scanners),
        }
        values = {**ATTRIBUTES, "scanner": tuple(scanner.name for scanner in self.scanners)}
        return {name: (values[name], shares[name]) for name in shares}


class PhantomConfig(Part):
    """All invented hospitals of a study."""

    seed: int = Field(0, ge=0, lt=2**31, description="Same seed, same bytes.")
    size_px: int = Field(64, ge=32, le=1024, description="Side of a film in pixels.")
    hospitals: tuple[HospitalPhantoms, ...] = Field(min_length=1, description="The hospitals.")

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        if len({hospital.name for hospital in self.hospitals}) < len(self.hospitals):
            raise ValueError("hospitals: a name stands twice; give every hospital its own name")
        return self


def _of_attribute(hospital: HospitalPhantoms, attribute: str) -> list[CouplingConfig]:
    return [coupling for coupling in hospital.couplings if coupling.attribute == attribute]


def _coupled_shares(
    p: NDArray[np.float64], q: float, couplings: list[CouplingConfig]
) -> NDArray[np.float64]:
    """Return P(value | finding), `[5]`, before it is checked to lie in [0, 1]."""
    coupled = np.full(len(p), q)
    rows = [CLASSES.index(coupling.finding) for coupling in couplings]
    for row, coupling in zip(rows, couplings, strict=True):
        if coupling.probability is not None:
            coupled[row] = coupling.probability
        elif coupling.phi is not None:
            coupled[row] = q + coupling.phi * np.sqrt(q * (1 - q) * (1 - p[row]) / p[row])
    rest = np.setdiff1d(np.arange(len(p)), rows)
    if any(coupling.phi is not None for coupling in couplings) and p[rest].sum() > 0:
        coupled[rest] = (q - (p[rows] * coupled[rows]).sum()) / p[rest].sum()
    return coupled


def _coupling_problems(hospital: HospitalPhantoms) -> list[str]:
    problems, shares = [], hospital.attribute_shares()
    p = hospital.finding_shares()
    for attribute in dict.fromkeys(coupling.attribute for coupling in hospital.couplings):
        mine = _of_attribute(hospital, attribute)
        where = f"couplings of {attribute}"
        if attribute not in shares:
            problems.append(f"{where}: unknown attribute; use {', '.join(shares)}")
            continue
        values, base = shares[attribute]
        unknown = [c.value for c in mine if c.value not in values]
        absent = [c.finding for c in mine if p[CLASSES.index(c.finding)] == 0]
        if unknown:
            problems.append(f"{where}: unknown value {unknown[0]!r}; use {', '.join(values)}")
        elif absent:
            problems.append(f"{where}: finding {absent[0]!r} has probability 0")
        elif len({c.value for c in mine}) > 1 or len({c.phi is None for c in mine}) > 1:
            problems.append(f"{where}: use one value, and either phi or probability, throughout")
        elif len({c.finding for c in mine}) < len(mine):
            problems.append(f"{where}: a finding stands twice")
        else:
            coupled = _coupled_shares(p, float(base[values.index(mine[0].value)]), mine)[p > 0]
            if coupled.min() < -1e-9 or coupled.max() > 1 + 1e-9:
                problems.append(
                    f"{where}: not possible with these shares: P({mine[0].value} | finding) would "
                    f"reach {coupled.min():.2f} to {coupled.max():.2f}; use a smaller phi"
                )
    return problems


def conditional_shares(hospital: HospitalPhantoms, attribute: str) -> NDArray[np.float64]:
    """Return P(value | finding) of one attribute, `[5, values] float64`; rows sum to 1."""
    values, base = hospital.attribute_shares()[attribute]
    table = np.tile(base, (len(CLASSES), 1))
    mine = _of_attribute(hospital, attribute)
    if not mine:
        return table
    column = values.index(mine[0].value)
    coupled = _coupled_shares(hospital.finding_shares(), float(base[column]), mine)
    others = np.delete(base, column)
    spread = others / others.sum() if others.sum() > 0 else np.full(len(others), 1 / len(others))
    table = np.insert(np.outer(1.0 - coupled, spread), column, coupled, axis=1)
    return np.clip(table, 0.0, 1.0)


@dataclass(frozen=True)
class Cohort:
    """The patients and films of one hospital; no pixels yet.

    Attributes:
        patients: `[N] int64`, patient of each film; films of a patient stand together.
        films: `[N] int64`, number of the film within its patient.
        labels: `[N] int64`, index into CLASSES.
        attributes: `[N, 4] int64`, index into each of ATTRIBUTES' values.
        scanners: `[N] int64`, index into the hospital's scanners.
        splits: `[N] int64`, index into train, val, test.
    """

    patients: NDArray[np.int64]
    films: NDArray[np.int64]
    labels: NDArray[np.int64]
    attributes: NDArray[np.int64]
    scanners: NDArray[np.int64]
    splits: NDArray[np.int64]


def stream(seed: int, hospital: str, *numbers: int) -> np.random.Generator:
    """Return the random stream of one patient or film, independent of every other one."""
    key = int.from_bytes(hashlib.sha256(hospital.encode()).digest()[:8], "big")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, key, *numbers])))


_SPLIT_CYCLE = (0, 2, 1, 0, 0, 2, 0, 0, 0, 0)
"""train, test, val, ...: 70/10/20, dealt to the patients of a class in turn."""


def _pick(shares: NDArray[np.float64], draw: float) -> int:
    """Return the index that a draw from [0, 1) falls on; a share of 0 is never picked."""
    cumulative = np.cumsum(shares)
    return int(np.searchsorted(cumulative / cumulative[-1], draw, side="right"))


def draw_cohort(seed: int, hospital: HospitalPhantoms) -> Cohort:
    """Return who lies in a hospital. A patient does not depend on how many there are in all."""
    tables = {name: conditional_shares(hospital, name) for name in hospital.attribute_shares()}
    findings = hospital.finding_shares()
    seen = np.zeros(len(CLASSES), dtype=np.int64)
    rows: list[tuple[int, ...]] = []
    for patient in range(hospital.patients):
        draws = stream(seed, hospital.name, patient, 0).random(4 + 3 * MAX_FILMS)
        label = _pick(findings, draws[0])
        split = _SPLIT_CYCLE[seen[label] % len(_SPLIT_CYCLE)]
        seen[label] += 1
        sex, age = (_pick(tables[name][label], draws[i]) for i, name in ((1, "sex"), (2, "age")))
        for film in range(1 + int(draws[3] * MAX_FILMS)):
            names = ("view", "marker", "scanner")
            picks = zip(names, draws[4 + 3 * film :], strict=False)
            view, marker, scanner = (_pick(tables[name][label], draw) for name, draw in picks)
            rows.append((patient, film, label, view, sex, age, marker, scanner, split))
    table = np.array(rows, dtype=np.int64)
    return Cohort(
        patients=table[:, 0],
        films=table[:, 1],
        labels=table[:, 2],
        attributes=table[:, 3:7],
        scanners=table[:, 7],
        splits=table[:, 8],
    )
