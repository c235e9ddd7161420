"""Which hospital gets which patient: the rules of a study, on labels alone.

Patients (or groups of images that belong together) are never divided. The same seed gives the
same hospitals. Source of the label skew: Hsu et al. 2019, Dirichlet(alpha) per class.
What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mfm_core.config import OntologyConfig
from mfm_core.dataset import SPLITS
from mfm_core.errors import DataError
from simulation.config import (
    AttributeRule,
    ColumnRule,
    DirichletRule,
    ExplicitRule,
    SiteCoupling,
    StudyConfig,
)

Integers = NDArray[np.int64]
DRAWS = 200
"""How often a Dirichlet partition with a hospital that is too small is drawn anew."""


@dataclass(frozen=True)
class Table:
    """The rows of a study's images, without pixels.

    Attributes:
        files: `[N]` file names relative to the root.
        labels: `[N] int64` class index; -1 is unlabelled.
        patients: `[N]` names of patients or groups, as the manifest has them.
        attributes: `[N, A] int64` value index; -1 is unknown.
        splits: `[N] int64` index into SPLITS; -1 is not known yet.
        columns: name to `[N]` texts of the manifest.
    """

    files: tuple[str, ...]
    labels: Integers
    patients: tuple[str, ...]
    attributes: Integers
    splits: Integers
    columns: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def groups(self) -> Integers:
        """Return `[N]` the number of each row's patient, in order of first appearance."""
        order = {name: index for index, name in enumerate(dict.fromkeys(self.patients))}
        return np.array([order[name] for name in self.patients], dtype=np.int64)

    def take(self, rows: Integers) -> Table:
        """Return some rows."""
        return Table(
            files=tuple(self.files[row] for row in rows),
            labels=self.labels[rows],
            patients=tuple(self.patients[row] for row in rows),
            attributes=self.attributes[rows],
            splits=self.splits[rows],
            columns={k: tuple(v[row] for row in rows) for k, v in self.columns.items()},
        )


@dataclass(frozen=True)
class Partition:
    """Names of the hospitals and `[N] int64` the hospital of each row; -1 is left out."""

    names: tuple[str, ...]
    hospital: Integers


def majority(values: Integers, groups: Integers, known_from: int = 0) -> Integers:
    """Return the most frequent value of each group (ties: the smallest); -1 without any.

    Args:
        values: `[N]`; values below `known_from` do not count.
        groups: `[N]` 0..G-1.
        known_from: 0 leaves out -1, which stands for unknown.
    """
    usable = values >= known_from
    width = int(values.max(initial=0)) + 1
    table = np.zeros((int(groups.max(initial=-1)) + 1, width), dtype=np.int64)
    np.add.at(table, (groups[usable], values[usable]), 1)
    return np.where(table.sum(axis=1) > 0, table.argmax(axis=1), -1)


def draw_dirichlet(
    labels: Integers, strata: Integers, sites: int, alpha: float, seed: Sequence[int]
) -> Integers:
    """Return `[G]` the hospital of each group.

    For each class one share per hospital is drawn; the groups of that class are shuffled and cut
    by these shares, in each stratum (split) on its own, so train and test have the same skew.

    Args:
        labels: `[G]` majority class of each group; -1 is a class of its own.
        strata: `[G]` split of each group.
        sites: number of hospitals.
        alpha: concentration.
        seed: entropy of the draw.
    """
    generator = np.random.default_rng(list(seed))
    hospital = np.full(len(labels), -1, dtype=np.int64)
    for label in np.unique(labels):
        shares = generator.dirichlet(np.full(sites, alpha))
        for stratum in np.unique(strata):
            members = generator.permutation(np.flatnonzero((labels == label) & (strata == stratum)))
            cuts = np.floor(np.cumsum(shares)[:-1] * len(members) + generator.random()).astype(int)
            for site, piece in enumerate(np.split(members, np.minimum(cuts, len(members)))):
                hospital[piece] = site
    return hospital


def couple(
    labels: Integers,
    values: Integers,
    groups: Integers,
    tie: tuple[int, int, float, float],
    seed: int,
) -> NDArray[np.bool_]:
    """Return `[N]` which rows to keep so that P(value | class) becomes what was asked for.

    Whole patients are left out, in random order, from the side that is too large.

    Args:
        labels: `[N]` class index.
        values: `[N]` attribute index; unknown (-1) rows are left out.
        groups: `[N]` patient number.
        tie: class, value, wanted share in the class, wanted share in all other classes.
        seed: order of leaving out.
    """
    label, value, share, share_of_others = tie
    keep = (values >= 0) & (labels >= 0)
    generator = np.random.default_rng(seed)
    main = majority(labels, groups)[groups]
    for inside, wanted in ((main == label, share), (main != label, share_of_others)):
        _thin(keep, keep & inside, values == value, groups, wanted, generator)
    return keep


def _thin(
    keep: NDArray[np.bool_],
    stratum: NDArray[np.bool_],
    having: NDArray[np.bool_],
    groups: Integers,
    wanted: float,
    generator: np.random.Generator,
) -> None:
    """Leave patients of the side that is too large out of `keep` until the share fits."""
    rows = np.flatnonzero(stratum)
    patients, place = np.unique(groups[rows], return_inverse=True)
    sizes = np.bincount(place, minlength=len(patients)).astype(float)
    hits = np.bincount(place, having[rows], minlength=len(patients))
    total, hit = sizes.sum(), hits.sum()
    side = 1.0 if hit > wanted * total else -1.0
    for patient in generator.permutation(len(patients)):
        if side * (hit - wanted * total) <= 0:
            return
        if side * (hits[patient] - wanted * sizes[patient]) > 0:
            total, hit = total - sizes[patient], hit - hits[patient]
            keep[rows[place == patient]] = False


def _by_value(texts: Sequence[str], names: Sequence[str], groups: Integers) -> Integers:
    place = {name: index for index, name in enumerate(names)}
    values = np.array([place.get(text, -1) for text in texts], dtype=np.int64)
    return majority(values, groups)[groups]


def _explicit(rule: ExplicitRule, table: Table, held_out: Sequence[str]) -> Partition:
    hospital = np.full(len(table), -1, dtype=np.int64)
    twice: list[str] = []
    for index, site in enumerate(rule.sites):
        inside = np.ones(len(table), dtype=bool)
        for column, accepted in site.where.items():
            inside &= np.isin(np.array(table.columns[column], dtype=str), accepted)
        overlap = np.flatnonzero(inside & (hospital >= 0))
        for row in overlap[:5]:
            other = rule.sites[hospital[row]].name
            twice.append(f"{table.files[row]}: belongs to {other} and to {site.name}")
        hospital[inside] = index
    groups = table.groups
    apart = [index for index, site in enumerate(rule.sites) if site.name in held_out]
    outside = np.isin(hospital, apart)
    hospital[outside & np.isin(groups, groups[(hospital >= 0) & ~outside])] = -1
    for group in np.unique(groups):
        members = np.unique(hospital[(groups == group) & (hospital >= 0)])
        if len(members) > 1 and not twice:
            names = " and ".join(rule.sites[member].name for member in members)
            patient = table.patients[int(np.flatnonzero(groups == group)[0])]
            twice.append(f"patient or group {patient!r}: has images in {names}")
    if twice:
        raise DataError("hospitals", [f"{text}; change the filters" for text in twice])
    return Partition(tuple(site.name for site in rule.sites), hospital)


def site_name(text: str, taken: set[str]) -> str:
    """Return a name of letters, digits, - and _ for a hospital named after a value."""
    plain = re.sub("[^a-z0-9_-]", "-", text.lower()).strip("-_")
    name = plain[:32] or "site"
    number = 2
    while name in taken:
        name = f"{plain[:28]}-{number}"
        number += 1
    taken.add(name)
    return name


def _named(values: Sequence[str]) -> tuple[str, ...]:
    taken: set[str] = set()
    return tuple(site_name(value, taken) for value in values)


def _missing_columns(rule: ColumnRule | ExplicitRule, table: Table) -> list[str]:
    asked = (
        [rule.column]
        if isinstance(rule, ColumnRule)
        else list(dict.fromkeys(column for site in rule.sites for column in site.where))
    )
    known = ", ".join(table.columns)
    return [
        f"column {c!r} is not in the manifest ({known})" for c in asked if c not in table.columns
    ]


def small_sites(study: StudyConfig, table: Table, partition: Partition) -> list[str]:
    """Return one problem per hospital that lacks images; held-out ones need two classes only.

    A hospital that shows no label takes part, unless it has to learn alone (`local`) or was drawn.
    """
    problems, drawn = [], isinstance(study.hospitals, DirichletRule)
    alone = drawn or "local" in study.baselines.kinds
    ways = "" if drawn else "; one without labels cannot learn alone: no local in baselines.kinds"
    for index, name in enumerate(partition.names):
        mine = partition.hospital == index
        if name in study.held_out:
            shown = np.unique(table.labels[mine & (table.labels >= 0)])
            if len(shown) < 2:
                problems.append(
                    f"hospital {name} is held out and has images of {len(shown)} classes; a test "
                    "needs two: use other filters"
                )
            continue
        counts = [int((mine & (table.splits == s)).sum()) for s in range(len(SPLITS))]
        train = table.labels[mine & (table.splits == 0)]
        bare = not (table.labels[mine] >= 0).any()
        if len(np.unique(train[train >= 0])) < 2 and (alone or not bare):
            problems.append(
                f"hospital {name} has fewer than 2 classes in its training images; use fewer "
                f"hospitals, a larger alpha or other filters{ways if bare else ''}"
            )
        if counts[0] < study.min_images or min(counts[1:]) < 1:
            found = ", ".join(f"{n} {s}" for n, s in zip(counts, SPLITS, strict=True))
            problems.append(
                f"hospital {name} has {found} images; every one needs {study.min_images} train, "
                "1 val and 1 test: use fewer hospitals, a larger alpha or more images"
            )
    return problems


def _dirichlet(study: StudyConfig, rule: DirichletRule, table: Table) -> Partition:
    groups = table.groups
    labels, strata = majority(table.labels, groups), majority(table.splits, groups)
    names = tuple(f"hospital-{index + 1}" for index in range(rule.sites))
    if rule.sites > len(labels):
        reason = f"{rule.sites} hospitals for {len(labels)} patients or groups; use fewer"
        raise DataError("hospitals", [reason])
    for draw in range(DRAWS):
        seed = (study.seeds.hospitals, draw)
        per_group = draw_dirichlet(labels, strata, rule.sites, rule.alpha, seed)
        partition = Partition(names, per_group[groups])
        problems = small_sites(study, table, partition)
        if not problems:
            return partition
    raise DataError(f"hospitals, after {DRAWS} draws", problems)


def _coupled(study: StudyConfig, table: Table, partition: Partition) -> Partition:
    if not isinstance(study.hospitals, ExplicitRule):
        return partition
    hospital, groups = partition.hospital.copy(), table.groups
    for index, site in enumerate(study.hospitals.sites):
        if site.coupling is None:
            continue
        rows = np.flatnonzero(hospital == index)
        tie, ontology = site.coupling, study.run.ontology
        column = list(ontology.attributes).index(tie.attribute)
        numbers = _tie_numbers(tie, ontology)
        _, order = np.unique(groups[rows], return_inverse=True)
        seed = study.seeds.hospitals + index
        keep = couple(table.labels[rows], table.attributes[rows, column], order, numbers, seed)
        hospital[rows[~keep]] = -1
    return Partition(partition.names, hospital)


def _tie_numbers(tie: SiteCoupling, ontology: OntologyConfig) -> tuple[int, int, float, float]:
    value = ontology.attributes[tie.attribute].index(tie.value)
    return ontology.classes.index(tie.label), value, tie.share, tie.share_of_others


def divide(study: StudyConfig, table: Table) -> Partition:
    """Return the hospital of every row by the study's rule; no hospital is too small.

    Raises:
        DataError: a column is missing, filters overlap, or hospitals are too small; all listed.
    """
    rule = study.hospitals
    if isinstance(rule, DirichletRule):
        partition = _dirichlet(study, rule, table)
    elif isinstance(rule, AttributeRule):
        values = study.run.ontology.attributes[rule.attribute]
        column = list(study.run.ontology.attributes).index(rule.attribute)
        groups = table.groups
        hospital = majority(table.attributes[:, column], groups)[groups]
        partition = Partition(_named(values), hospital)
    else:
        missing = _missing_columns(rule, table)
        if missing:
            raise DataError("hospitals", missing)
        partition = _by_column(rule, study, table)
    partition = _coupled(study, table, partition)
    problems = small_sites(study, table, partition)
    absent = [name for name in study.held_out if name not in partition.names]
    if absent:
        found = ", ".join(partition.names)
        problems.append(f"held_out: no hospital {', '.join(absent)}; this study has {found}")
    taking_part = len(set(partition.names) - set(study.held_out))
    if taking_part < 2:
        problems.append(f"found {taking_part} hospital; a federation needs two or more")
    if problems:
        raise DataError("hospitals", problems)
    return partition


def _by_column(rule: ColumnRule | ExplicitRule, study: StudyConfig, table: Table) -> Partition:
    if isinstance(rule, ExplicitRule):
        return _explicit(rule, table, study.held_out)
    texts = table.columns[rule.column]
    values = rule.values or tuple(sorted({text for text in texts if text}))
    return Partition(_named(values), _by_value(texts, values, table.groups))
