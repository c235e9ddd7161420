"""Turns labelled images into the folders of invented hospitals, as real ones would have them.

Patients are split first (train, val, test), then divided among hospitals; each hospital gets
sites/<name>/manifest.csv and a settings file sites/<partition-id>.yaml, which the same client
reads in a simulation and in a hospital. What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from client.config import LimitsConfig, SiteConfig, load_site_config
from client.secret import keep_secret
from client.site import CACHE
from mfm_core.config import ColumnsConfig, DataConfig, OntologyConfig, canonical_hash, dump_yaml
from mfm_core.dataset import SPLITS, ImageSet, open_images, whole_problems
from mfm_core.errors import ConfigError, DataError
from mfm_core.manifest import Entry, read_manifest
from mfm_core.splits import grouped_split, stratified_grouped_folds
from mfm_core.whole_file import write_whole
from server.config import ConsortiumConfig
from simulation.config import (
    MANIFEST_COLUMNS,
    ColumnSplit,
    FolderSource,
    FoldSplit,
    FractionSplit,
    LimitConfig,
    StudyConfig,
)
from simulation.partition import Integers, Partition, Table, divide
from simulation.phantoms import generate
from simulation.public_source import write_public_of
from simulation.released import RELEASED, copy_released
from strategies.config import RunConfig

RECORD = "prepared.json"
SITES, HELD_OUT = "sites", "held_out"
"""Folders of the hospitals that take part, and of those that only the researcher looks at."""
IDENTITY_LEAVES_OUT = {"workers", "limits", "pretrained"}
"""What may change between two parts of one run without changing its result."""


@dataclass(frozen=True)
class Prepared:
    """The hospitals that take part: names by partition id, and whose study it is."""

    names: tuple[str, ...]
    study_hash: str
    data: str


def study_hash(study: StudyConfig) -> str:
    """Return the SHA-256 (hex) of everything in a study that can change its result."""
    return canonical_hash(study.model_copy(update=dict.fromkeys(IDENTITY_LEAVES_OUT)))


def read_prepared(folder: Path) -> Prepared | None:
    """Return what a folder was prepared for, None for a new or half prepared one."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return Prepared(tuple(content["names"]), content["study_hash"], content["data"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def prepare(study: StudyConfig, data: Path, folder: Path) -> Prepared:
    """Write the hospitals of a study into its run folder, or accept those that are there.

    Decodes every image once, into each hospital's own cache, so that a broken file is found
    before anything is trained.

    Raises:
        ConfigError: the folder belongs to another study.
        DataError: rows, images or hospitals cannot be used; all problems at once.
    """
    wanted, root = study_hash(study), str(data.resolve())
    found = read_prepared(folder)
    if found is not None:
        _refuse_other(folder, found, wanted, root)
        return found
    folder.mkdir(parents=True, exist_ok=True)
    if study.pretrained is not None:
        copy_released(study.pretrained, study.run, folder)
    source_root, table = read_table(study, data, folder)
    try:
        table = replace(table, splits=split_patients(study, table))
        partition = divide(study, table)
    except DataError as error:
        problems = [*error.problems, *_image_problems(study, data, folder)]
        raise DataError(error.subject, problems) from None
    public = study.public if isinstance(study.public, FolderSource) else None
    config = None if public is None else source_config(study, public, data)
    study = write_public_of(study, folder, config, table)
    _write_sites(study, source_root, (table, partition), folder)
    dump_yaml(study.run, folder / "run.yaml")
    dump_yaml(study, folder / "study.yaml")
    names = tuple(name for name in partition.names if name not in study.held_out)
    dump_yaml(consortium_of(study, len(names)), folder / "consortium.yaml")
    try:
        open_hospitals(folder, study.run)
        open_hospitals(folder, study.run, HELD_OUT)
    except DataError:
        _say_by_source_row(study, data, folder)
        raise
    prepared = Prepared(names, wanted, root)
    write_whole(folder / RECORD, json.dumps(vars(prepared), indent=1).encode())
    return prepared


def _refuse_other(folder: Path, found: Prepared, wanted: str, data: str) -> None:
    problems = []
    if found.study_hash != wanted:
        problems.append(
            f"holds another study (hash {found.study_hash[:12]}, this one is {wanted[:12]})"
        )
    if found.data != data:
        problems.append(f"was prepared with --data {found.data}, not {data}")
    if problems:
        advice = "give another run.name or --out, or start anew with --fresh"
        raise ConfigError(str(folder), [f"{problem}; {advice}" for problem in problems])


def consortium_of(study: StudyConfig, sites: int) -> ConsortiumConfig:
    """Return the coordinator's settings: every hospital is asked once and waited for.

    Raises:
        ConfigError: the quorum is larger than the number of hospitals.
    """
    quorum = study.quorum or sites
    if quorum > sites:
        raise ConfigError("study", [f"quorum is {quorum} of {sites} hospitals; use fewer"])
    settings = asked_once(study.limits, sites, quorum)
    start = None if study.pretrained is None else Path(RELEASED)
    return settings.model_copy(update={"pretrained": start})


def asked_once(limits: LimitConfig, sites: int, quorum: int) -> ConsortiumConfig:
    """Return settings by which every simulated hospital is asked once and waited for."""
    return ConsortiumConfig(
        simulated_sites=sites,
        quorum=quorum,
        deadline_s=limits.phase_s,
        grace_s=limits.phase_s,
        attempts=1,
        node_wait_s=limits.start_s,
        poll_s=0.1,
        output=Path("."),
    )


def read_table(study: StudyConfig, data: Path, folder: Path) -> tuple[Path, Table]:
    """Return the images' root and the rows of the source; phantoms are drawn when absent.

    Raises:
        DataError: rows cannot be used; all problems at once, those of the images too.
    """
    source, ontology = study.source, study.run.ontology
    if isinstance(source, FolderSource):
        config = source_config(study, source, data)
        manifest = read_manifest(config, ontology)
        if manifest.findings.lines() or whole_problems(manifest.entries, ontology):
            open_images(config, ontology, study.run.image, folder / "checked")
        return config.root, _table(manifest.entries)
    root, tables = folder / "images", []
    for hospital in source.phantoms.hospitals:
        place = root / hospital.name
        if not (place / "manifest.csv").is_file():
            generate(place, source.phantoms, hospital)
        manifest = read_manifest(_phantom_config(place), ontology)
        if manifest.findings.lines():
            raise DataError(f"phantoms of {hospital.name}", manifest.findings.lines())
        tables.append(_table(manifest.entries, hospital.name))
    return root.resolve(), _join(tables)


def source_config(study: StudyConfig, source: FolderSource, data: Path) -> DataConfig:
    """Return the source's DataConfig with paths below `--data` and the study's split column."""
    split = study.split.column if isinstance(study.split, ColumnSplit) else None
    root = data.resolve() / source.data.root
    manifest = source.data.manifest
    return source.data.model_copy(
        update={
            "root": root,
            "manifest": None if manifest is None else data.resolve() / manifest,
            "columns": source.data.columns.model_copy(update={"split": split}),
        }
    )


def _phantom_config(place: Path) -> DataConfig:
    columns = ColumnsConfig(split="split")
    return DataConfig(root=place, manifest=place / "manifest.csv", columns=columns)


def _table(entries: Sequence[Entry], hospital: str = "") -> Table:
    before = f"{hospital}/" if hospital else ""
    names = dict.fromkeys(name for entry in entries for name in entry.cells)
    columns = {n: tuple(entry.cells.get(n, "") for entry in entries) for n in names}
    if hospital:
        columns["hospital"] = (hospital,) * len(entries)
    return Table(
        files=tuple(before + entry.file for entry in entries),
        labels=np.array([entry.label for entry in entries], dtype=np.int64),
        patients=tuple(before + entry.patient for entry in entries),
        attributes=np.array([entry.attributes for entry in entries], dtype=np.int64).reshape(
            len(entries), -1
        ),
        splits=np.array([entry.split for entry in entries], dtype=np.int64),
        columns=columns,
    )


def _join(tables: Sequence[Table]) -> Table:
    shared = [n for n in tables[0].columns if all(n in table.columns for table in tables)]
    return Table(
        files=tuple(file for table in tables for file in table.files),
        labels=np.concatenate([table.labels for table in tables]),
        patients=tuple(patient for table in tables for patient in table.patients),
        attributes=np.concatenate([table.attributes for table in tables]),
        splits=np.concatenate([table.splits for table in tables]),
        columns={n: tuple(cell for t in tables for cell in t.columns[n]) for n in shared},
    )


def split_patients(study: StudyConfig, table: Table) -> Integers:
    """Return `[N]` the split of every row; no patient (or group) is divided.

    Raises:
        DataError: no row is left.
    """
    if len(table) == 0:
        raise DataError("study", ["no image is left; check where and label_mapping"])
    rule, groups, seed = study.split, table.groups, study.seeds.split
    if isinstance(rule, FractionSplit):
        fractions = (1.0 - rule.val - rule.test, rule.val, rule.test)
        return grouped_split(table.labels, groups, fractions, seed)
    if isinstance(rule, FoldSplit):
        return _fold_splits(rule, table.labels, groups, seed)
    return table.splits


def _fold_splits(rule: FoldSplit, labels: Integers, groups: Integers, seed: int) -> Integers:
    fold = stratified_grouped_folds(labels, groups, rule.folds, seed)
    splits = np.full(len(labels), SPLITS.index("test"), dtype=np.int64)
    rest = np.flatnonzero(fold != rule.test_fold)
    fractions = (1.0 - rule.val, rule.val, 0.0)
    splits[rest] = grouped_split(labels[rest], groups[rest], fractions, seed)
    return splits


def _write_sites(
    study: StudyConfig, root: Path, divided: tuple[Table, Partition], folder: Path
) -> None:
    table, partition = divided
    written = {SITES: 0, HELD_OUT: 0}
    for index, name in enumerate(partition.names):
        kind = HELD_OUT if name in study.held_out else SITES
        sites, number = folder / kind, written[kind]
        written[kind] += 1
        (sites / name).mkdir(parents=True, exist_ok=True)
        mine = table.take(np.flatnonzero(partition.hospital == index))
        write_manifest(sites / name / "manifest.csv", mine, study.run.ontology)
        secret = hashlib.sha256(f"{study.run.seed}\0{name}".encode()).digest()
        keep_secret(sites / name / "state", secret)
        dump_yaml(
            SiteConfig(
                name=name,
                data=DataConfig(
                    root=root,
                    manifest=Path(name) / "manifest.csv",
                    columns=ColumnsConfig(patient="patient", split="split"),
                    unlabelled=not (mine.labels >= 0).any(),
                ),
                limits=LimitsConfig(
                    accepted_runs=(canonical_hash(study.run),),
                    min_cell_count=study.min_cell_count,
                    max_epsilon=study.max_epsilon,
                ),
                state_folder=Path(name) / "state",
                device=study.device,
                simulated=True,
            ),
            sites / f"{number}.yaml",
        )


def write_manifest(path: Path, table: Table, ontology: OntologyConfig) -> None:
    """Write a hospital's rows in the consortium's words; what is unknown stays empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*MANIFEST_COLUMNS, *ontology.attributes])
        for row in range(len(table)):
            label = int(table.labels[row])
            values = zip(ontology.attributes.values(), table.attributes[row], strict=True)
            writer.writerow(
                [
                    table.files[row],
                    ontology.classes[label] if label >= 0 else "",
                    table.patients[row],
                    SPLITS[table.splits[row]],
                    *(names[value] if value >= 0 else "" for names, value in values),
                ]
            )


def open_hospitals(
    folder: Path, run: RunConfig, kind: str = SITES
) -> tuple[tuple[str, ...], list[ImageSet]]:
    """Return names and images of the hospitals of a prepared folder, by partition id.

    Args:
        folder: made by `prepare`.
        run: the agreed run.
        kind: SITES for those that take part, HELD_OUT for those that do not.

    Raises:
        DataError: images cannot be used; those of all hospitals at once.
    """
    names, sets, problems = [], [], []
    for path in sorted((folder / kind).glob("*.yaml"), key=lambda path: int(path.stem)):
        config = load_site_config(path)
        try:
            cache = config.state_folder / CACHE
            sets.append(open_images(config.data, run.ontology, run.image, cache))
            names.append(config.name)
        except DataError as error:
            problems += [f"{config.name}: {problem}" for problem in error.problems]
    if problems:
        raise DataError("hospitals", problems)
    return tuple(names), sets


def read_files(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the file names of all hospitals' rows, in the order of `open_hospitals`."""
    files = []
    for name in names:
        with (folder / "sites" / name / "manifest.csv").open(encoding="utf-8", newline="") as file:
            files += [row["file"] for row in csv.DictReader(file)]
    return files


def _image_problems(study: StudyConfig, data: Path, folder: Path) -> tuple[str, ...]:
    """Return what is wrong with the images of a study whose hospitals cannot be formed."""
    try:
        _say_by_source_row(study, data, folder)
    except DataError as error:
        return error.problems
    return ()


def _say_by_source_row(study: StudyConfig, data: Path, folder: Path) -> None:
    """Raise the same problems by the rows of the researcher's own manifest, where there is one."""
    if isinstance(study.source, FolderSource):
        config = source_config(study, study.source, data)
        open_images(config, study.run.ontology, study.run.image, folder / "checked")


def describe_hospitals(
    study: StudyConfig, folder: Path, kind: str = SITES
) -> list[dict[str, object]]:
    """Return per hospital: name, images per split, patients, images per class, attribute shares."""
    names, sets = open_hospitals(folder, study.run, kind)
    rows: list[dict[str, object]] = []
    for name, images in zip(names, sets, strict=True):
        classes = np.bincount(
            images.labels[images.labels >= 0], minlength=len(study.run.ontology.classes)
        )
        counts = dict(zip(study.run.ontology.classes, classes.tolist(), strict=True))
        attributes = {
            attribute: {
                value: int((images.attributes[:, column] == index).sum())
                for index, value in enumerate(values)
            }
            for column, (attribute, values) in enumerate(study.run.ontology.attributes.items())
        }
        rows.append(
            {
                "name": name,
                **{split: len(images.select(split)) for split in SPLITS},
                "patients": len(np.unique(images.patients)),
                "classes": counts,
                "attributes": attributes,
            }
        )
    return rows
