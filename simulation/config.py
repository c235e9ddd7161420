"""StudyConfig: an agreed run plus the hospitals a researcher invents for it.

A study is one YAML file. Paths to images are relative to `--data`, so that the file holds no
path of one machine. What crosses a hospital's boundary: only the `run` part, as in deployment.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from mfm_core.config import DataConfig, Part, parse_yaml, problems_of, read_yaml
from mfm_core.devices import Wanted
from mfm_core.errors import ConfigError
from simulation.options import other_command
from simulation.phantoms import PhantomConfig
from simulation.released import start_problems
from strategies.config import RunConfig

MANIFEST_COLUMNS = ("file", "label", "patient", "split")
"""Columns of an invented hospital's manifest; its attributes stand beside them."""

NAME = r"^[a-z0-9][a-z0-9_-]{0,39}$"


class PhantomSource(Part):
    """Chest phantoms, drawn into the run folder; their hospital stands in column `hospital`."""

    kind: Literal["phantoms"]
    phantoms: PhantomConfig


class FolderSource(Part):
    """A labelled folder of images; `data.root` is relative to `--data`."""

    kind: Literal["folder"]
    data: DataConfig

    @model_validator(mode="after")
    def _root_is_relative(self) -> Self:
        if self.data.root.is_absolute() or ".." in self.data.root.parts:
            raise ValueError(
                f"data.root is {self.data.root}; write it relative to the folder given as --data"
            )
        return self


Source = Annotated[PhantomSource | FolderSource, Field(discriminator="kind")]


class DirichletRule(Part):
    """Hospitals with different class shares, drawn per class from Dirichlet(alpha, ..., alpha)."""

    kind: Literal["dirichlet"]
    by: Literal["label"] = "label"
    sites: int = Field(ge=2, le=200, description="Number of hospitals.")
    alpha: float = Field(0.5, gt=0, le=1000, description="Small is skewed, large is even.")


class AttributeRule(Part):
    """One hospital per value of an attribute of the ontology, e.g. all AP films in one."""

    kind: Literal["attribute"]
    attribute: str = Field(description="Name of the attribute; unknown values are left out.")


class ColumnRule(Part):
    """One hospital per value of a column of the manifest, e.g. the data set or the scanner."""

    kind: Literal["column"]
    column: str = Field(description="Name of the column.")
    values: tuple[str, ...] = Field((), description="Values to use; empty: all that occur.")


class SiteCoupling(Part):
    """Ties an attribute value to a class in one hospital by leaving patients out."""

    attribute: str = Field(description="Attribute of the ontology, e.g. view.")
    value: str = Field(description="One of its values, e.g. AP.")
    label: str = Field(description="Class it is tied to.")
    share: float = Field(gt=0, lt=1, description="Wanted P(value | class).")
    share_of_others: float = Field(gt=0, lt=1, description="Wanted P(value | any other class).")


class ExplicitSite(Part):
    """One hospital by row filter."""

    name: str = Field(pattern=NAME)
    where: dict[str, tuple[str, ...]] = Field(
        min_length=1, description="Keep rows whose column holds one of these values."
    )
    coupling: SiteCoupling | None = None


class ExplicitRule(Part):
    """Hospitals one by one."""

    kind: Literal["explicit"]
    sites: tuple[ExplicitSite, ...] = Field(min_length=2, max_length=200)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        if len({site.name for site in self.sites}) < len(self.sites):
            raise ValueError("sites: a name stands twice; give every hospital its own name")
        return self


Rule = Annotated[
    DirichletRule | AttributeRule | ColumnRule | ExplicitRule, Field(discriminator="kind")
]


class FractionSplit(Part):
    """Stratified split of the patients (or groups) of all hospitals together."""

    kind: Literal["fractions"]
    val: float = Field(0.1, gt=0, lt=0.5)
    test: float = Field(0.2, gt=0, lt=0.8)

    @model_validator(mode="after")
    def _leaves_training_images(self) -> Self:
        if self.val + self.test > 0.8:
            raise ValueError(f"val + test is {self.val + self.test:.2f}; leave 0.2 for training")
        return self


class ColumnSplit(Part):
    """The manifest says train, val or test in a column."""

    kind: Literal["column"]
    column: str = "split"


class FoldSplit(Part):
    """Stratified folds of the patients; one is the test set, the rest is training and val."""

    kind: Literal["folds"]
    folds: int = Field(4, ge=2, le=20)
    test_fold: int = Field(0, ge=0)
    val: float = Field(0.1, gt=0, lt=0.5, description="Share of the other folds.")

    @model_validator(mode="after")
    def _fold_exists(self) -> Self:
        if self.test_fold >= self.folds:
            raise ValueError(f"test_fold is {self.test_fold}; use 0 to {self.folds - 1}")
        return self


Split = Annotated[FractionSplit | ColumnSplit | FoldSplit, Field(discriminator="kind")]

BaselineKind = Literal["local", "pooled", "nearest_neighbour", "pca_logistic"]


class BaselineConfig(Part):
    """What the federation is compared with."""

    kinds: tuple[BaselineKind, ...] = get_args(BaselineKind)
    pooled_steps: Literal["one_site", "all_sites"] = Field(
        "all_sites",
        description="Optimiser steps of the pooled model: as many as one hospital took in the "
        "federation, or as all of them together.",
    )


class SeedConfig(Part):
    """Random choices of the study itself; the training's own seed is run.seed."""

    split: int = Field(0, ge=0, lt=2**31)
    hospitals: int = Field(0, ge=0, lt=2**31)


class LimitConfig(Part):
    """Hard limits, so that a hung virtual hospital is a failure and not a wait without end."""

    start_s: int = Field(180, ge=10, description="From the start to the server's first word.")
    phase_s: int = Field(1800, ge=10, description="Longest time without any progress.")
    total_s: int = Field(86_400, ge=30, description="Longest time of the whole federated run.")


class StudyConfig(Part):
    """One study: an agreed run, invented hospitals, baselines."""

    run: RunConfig
    source: Source
    hospitals: Rule
    split: Split = FractionSplit(kind="fractions")
    pretrained: Path | None = Field(
        None, description="Released model file whose SHA-256 is run.pretrained; from where we are."
    )
    min_images: int = Field(16, ge=4, description="Fewest training images of a hospital.")
    quorum: int | None = Field(None, ge=1, description="Hospitals a round needs; None: all.")
    workers: int | None = Field(
        None, ge=1, le=256, description="Virtual hospitals at once; None: one per core."
    )
    device: Wanted = Field(
        "cpu",
        description="Where hospitals and baselines train; auto takes a graphics card where there "
        "is one, and all workers share it.",
    )
    baselines: BaselineConfig = BaselineConfig()
    public: Source | None = Field(
        None,
        description="Pictures of nobody in the hospitals, for a private run or atlas; their hash "
        "goes into run.privacy.public_pictures.",
    )
    seeds: SeedConfig = SeedConfig()
    limits: LimitConfig = LimitConfig()
    min_cell_count: int = Field(
        10, ge=1, description="Fewest patients of a class that a hospital releases sums of."
    )
    max_epsilon: float = Field(8.0, gt=0, description="Most that a hospital's ledger lets through.")
    held_out: tuple[str, ...] = Field(
        (),
        description="Hospitals that take no part in the run, for the researcher to test on; of "
        "explicit ones, patients who are also at a hospital that takes part are left out.",
    )
    explained_per_class: int = Field(
        8, ge=1, le=100, description="Test images of each class, and of the others, to score."
    )


def _ontology_problems(study: StudyConfig) -> list[str]:
    ontology = study.run.ontology
    named: list[tuple[str, str, str | None, str | None]] = []
    if isinstance(study.hospitals, AttributeRule):
        named.append(("hospitals.attribute", study.hospitals.attribute, None, None))
    if isinstance(study.hospitals, ExplicitRule):
        for site in study.hospitals.sites:
            if site.coupling is not None:
                at, tie = f"hospitals.sites.{site.name}.coupling", site.coupling
                named.append((at, tie.attribute, tie.value, tie.label))
    problems = [
        f"run.ontology.attributes.{name}: is a column of every hospital's own; name it otherwise"
        for name in ontology.attributes
        if name in MANIFEST_COLUMNS
    ]
    for where, attribute, value, label in named:
        values = ontology.attributes.get(attribute, ())
        if not values:
            known = ", ".join(ontology.attributes) or "none"
            problems.append(f"{where}: {attribute!r} is not an attribute ({known})")
        elif value is not None and value not in values:
            problems.append(f"{where}: {value!r} is no value of {attribute}: {', '.join(values)}")
        if label is not None and label not in ontology.classes:
            problems.append(f"{where}: {label!r} is not a class: {', '.join(ontology.classes)}")
    return problems


def expected_sites(study: StudyConfig) -> int | None:
    """Return the number of hospitals that take part when the file alone tells it, else None."""
    formed = _formed_sites(study)
    return None if formed is None else formed - len(study.held_out)


def _formed_sites(study: StudyConfig) -> int | None:
    rule = study.hospitals
    if isinstance(rule, DirichletRule):
        return rule.sites
    if isinstance(rule, ExplicitRule):
        return len(rule.sites)
    if isinstance(rule, AttributeRule):
        return len(study.run.ontology.attributes.get(rule.attribute, ())) or None
    return len(rule.values) or None


def _site_problems(study: StudyConfig) -> list[str]:
    problems, sites, rule = [], expected_sites(study), study.hospitals
    if study.quorum is not None and sites is not None and study.quorum > sites:
        problems.append(f"quorum is {study.quorum} of {sites} hospitals; use {sites} or fewer")
    if isinstance(rule, ColumnRule) and len(rule.values) == 1:
        problems.append("hospitals.values: one hospital is no federation; name two or more")
    if isinstance(rule, ColumnRule) and len(set(rule.values)) < len(rule.values):
        problems.append("hospitals.values: a value stands twice; name every one once")
    problems += [*_held_out_problems(study), *_public_problems(study)]
    source = study.source
    if isinstance(source, PhantomSource):
        patients = sum(hospital.patients for hospital in source.phantoms.hospitals)
        if sites is not None and sites > patients:
            problems.append(f"hospitals: {sites} hospitals for {patients} patients; use fewer")
        if source.phantoms.size_px < study.run.image.size_px:
            problems.append(
                f"source.phantoms.size_px is {source.phantoms.size_px}, smaller than "
                f"run.image.size_px {study.run.image.size_px}; draw the films at least that large"
            )
    return problems


def _public_problems(study: StudyConfig) -> list[str]:
    public, source, privacy = study.public, study.source, study.run.privacy
    if (public is None) != (privacy.public_pictures is None):
        if public is None:
            return ["run.privacy.public_pictures: a study names `public`, and the hash follows"]
        if not (privacy.private or privacy.atlas.private):
            return ["public: neither run.privacy.training nor run.privacy.atlas is private"]
    if not isinstance(public, PhantomSource) or not isinstance(source, PhantomSource):
        return []
    same = public.phantoms.seed == source.phantoms.seed
    return ["public.phantoms.seed is that of the hospitals' phantoms; use another"] * same


def _held_out_problems(study: StudyConfig) -> list[str]:
    problems, rule = [], study.hospitals
    if len(set(study.held_out)) < len(study.held_out):
        problems.append("held_out: a hospital stands twice; name every one once")
    if isinstance(rule, ExplicitRule):
        names = [site.name for site in rule.sites]
        problems += [
            f"held_out: {name!r} is not a hospital of this study: {', '.join(names)}"
            for name in study.held_out
            if name not in names
        ]
    sites = expected_sites(study)
    if study.held_out and not problems and sites is not None and sites < 2:
        problems.append(f"held_out: leaves {max(sites, 0)} hospitals; a federation needs two")
    return problems


def override(content: dict[str, Any], settings: Mapping[str, str]) -> dict[str, Any]:
    """Return a copy of a study's content with dotted keys set; values are YAML.

    Raises:
        ConfigError: a key runs through something that is not a mapping, or a value is not YAML.
    """
    result: dict[str, Any] = yaml.safe_load(yaml.safe_dump(content, sort_keys=False))
    problems = []
    for key, text in settings.items():
        *path, last = key.split(".")
        place: Any = result
        for step in path:
            place = place.setdefault(step, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            problems.append(f"{key}: does not lead to a key of the study")
            continue
        try:
            place[last] = parse_yaml(text)
        except ValueError:
            problems.append(f"{key}: {text!r} is not a YAML value")
    if problems:
        raise ConfigError("--set", problems)
    return result


def load_study(path: Path, settings: Mapping[str, str] | None = None) -> StudyConfig:
    """Read a study file, with `--set` values in place.

    Raises:
        ConfigError: every problem of the file, by dotted path.
    """
    content = override(read_yaml(path), settings or {})
    study, problems = read_study(content)
    if problems or study is None:
        raise ConfigError(str(path), other_command(content) or problems)
    return study


def read_study(content: dict[str, Any]) -> tuple[StudyConfig | None, list[str]]:
    """Return the study of a file's content and all its problems; None where it cannot be read."""
    problems: list[str] = []
    study: StudyConfig | None = None
    try:
        study = StudyConfig.model_validate(content)
    except ValidationError as error:
        problems = [_without_tag(line) for line in problems_of(error)]
        study = _without_unknown_keys(content, error)
    if study is not None:
        problems += [*_ontology_problems(study), *_site_problems(study)]
        problems += start_problems(study.run.pretrained, study.pretrained, study.baselines.kinds)
        if study.run.ontology.tasks:
            problems.append("run.ontology.tasks: is for `mfm-simulate pretrain`; name classes here")
    return study, problems


def _without_unknown_keys(content: dict[str, Any], error: ValidationError) -> StudyConfig | None:
    """Return the study without its unknown keys, None where more than these is wrong."""
    known = copy.deepcopy(content)
    for item in error.errors():
        if item["type"] != "extra_forbidden":
            return None
        *path, last = item["loc"]
        if path and path[0] in ("source", "hospitals", "split"):
            del path[1]  # the kind, which pydantic puts among the keys
        place: Any = known
        for step in path:
            place = place[step]
        place.pop(last)
    try:
        return StudyConfig.model_validate(known)
    except ValidationError:
        return None


def _without_tag(line: str) -> str:
    """Return a problem whose path names keys of the file only, without pydantic's union tags."""
    return re.sub(r"^(source|hospitals|split)\.(?!sites)[a-z]+(?=:|\.[a-z_]+)", r"\1", line)
