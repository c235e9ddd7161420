"""Planted biases: is the field that was coupled to a finding ranked first, and null fields last?

One encoder learns from uncoupled phantoms; films of other uncoupled phantoms are encoded once. For
each plant a cohort is drawn from these films so that one value of a random field goes with a
random finding at a random phi in PHI, of either sign. A head is fitted to the cohort's latent sums
(LDA, so it may use the shortcut), and `mfm_core.bias.rank_biases` sees sums and head only. Fields:
view, sex, age, marker and scanner of the films, and null fields that nothing in a film depends on.

A linear head can use only what the encoder shows along one direction, and a coupling of a field
that it shows weakly hardly moves the head: less than what heads use of plain fields without any
coupling. Plants of the benchmark are therefore of values that read an encoded AUC of at least
VISIBLE in uncoupled cohorts of the same size; plants of all other values are counted apart, and
both are printed. Age is such a field here. Source: ours (design section 10).
What crosses a hospital's boundary: nothing; there is no real patient here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mfm_core.atlas import Atlas, atlas_from
from mfm_core.autoencoder import build_autoencoder
from mfm_core.bias import BiasRow, rank_biases, rank_fields
from mfm_core.config import (
    AugmentationConfig,
    ImageConfig,
    LearningConfig,
    ModelConfig,
    ObjectiveConfig,
    OntologyConfig,
)
from mfm_core.contrasts import contrasts_of
from mfm_core.dataset import ImageSet
from mfm_core.errors import ConfigError
from mfm_core.head import Head, fit_heads
from mfm_core.inference import infer
from mfm_core.intervals import share_interval
from mfm_core.latent_sums import latent_sum
from mfm_core.patches import patch_moments, start_linear_path
from mfm_core.training import Schedule, train
from simulation.phantoms import (
    ATTRIBUTES,
    CLASSES,
    HospitalPhantoms,
    PhantomConfig,
    ScannerConfig,
    draw_phantoms,
)
from simulation.progress import Display, Step, choose_display
from simulation.stopwatch import Goal, one_thread

PHI = (0.4, 0.8)
CLASS_SHARE = 0.4
"""Share of the coupled finding in a cohort; the value's is the same, or 1 minus it for phi < 0, so
that every |phi| up to 0.8 is possible."""

COHORT = 800
"""Films of a cohort; about 700 patients."""

VISIBLE = 0.8
SHRINKAGE = 0.1
"""Of the head. Stronger shrinkage makes a head use plain fields without any coupling."""

LOOKS = 3
"""Uncoupled cohorts whose mean encoded AUC says what is visible."""

SCANNERS = (
    ScannerConfig(name="A"),
    ScannerConfig(name="B", gamma=1.15, window=0.9, noise_std=0.012),
)
FIELDS = {**ATTRIBUTES, "scanner": tuple(scanner.name for scanner in SCANNERS)}
NULL_FIELDS = {"coin": ("a", "b"), "weekday": ("x", "y", "z"), "clerk": ("most", "few")}
"""Even, of the patient; even, of the film; 15 % of the patients."""

LEARNING = LearningConfig(
    objective=ObjectiveConfig(class_weight=1.0),
    augmentation=AugmentationConfig(
        flip_probability=0, blur_sigma_px=0.4, noise_std=0.02, erase_boxes=1, erase_fraction=0.2
    ),
)

RECALL = Goal(0.95, "at least")
FALSE_ALARMS = Goal(0.05, "at most")

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class PoolSize:
    """How much is drawn and learned: patients in all, how many of them teach, optimiser steps."""

    patients: int = 3600
    teachers: int = 800
    steps: int = 200


@dataclass(frozen=True)
class Pool:
    """Encoded films: `[N, L]` latents, `[N]` labels and patients, `[N, 5]` values of FIELDS."""

    mu: NDArray[np.float32]
    labels: Integers
    attributes: Integers
    patients: Integers

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Plant:
    """One planted coupling: a value of a field, a finding and the phi between them."""

    field: str
    value: str
    finding: str
    phi: float


@dataclass(frozen=True)
class Outcome:
    """What the ranking said about one cohort.

    Attributes:
        plant: what was planted, or None.
        fields: the fields in the ranking's order.
        flagged: the fields with a flagged row.
        encoded_auc: of the planted field's highest row, or None.
        effect: of the same row, or None.
    """

    plant: Plant | None
    fields: tuple[str, ...]
    flagged: tuple[str, ...]
    encoded_auc: float | None = None
    effect: float | None = None


@dataclass(frozen=True)
class Share:
    """One line of the result: hits of n with a 95 % Wilson interval and what is wanted."""

    what: str
    hits: int
    n: int
    goal: Goal | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the line, JSON ready; None where nothing was counted."""
        low, high = share_interval(self.hits, self.n) if self.n else (None, None)
        share = self.hits / self.n if self.n else None
        goal = self.goal
        return {
            "what": self.what,
            "hits": self.hits,
            "n": self.n,
            "share": share,
            "low": low,
            "high": high,
            "goal": None if goal is None else goal.value,
            "direction": None if goal is None else goal.direction,
            "met": None if goal is None or share is None else goal.met_by(share),
        }


def draw_pool(seed: int, size: PoolSize | None = None) -> Pool:
    """Return the encoded films of patients that the encoder did not learn from."""
    size = size or PoolSize()
    hospital = HospitalPhantoms(
        name="pool",
        patients=size.patients,
        ap_share=0.5,
        age_shares=(1, 1, 1),
        marker_probability=2 / 3,
        scanners=SCANNERS,
    )
    films = draw_phantoms(PhantomConfig(seed=seed, hospitals=(hospital,)), hospital)
    fields = np.concatenate([films.attributes, films.scanners[:, None]], axis=1)
    splits = np.zeros(len(films), dtype=np.int64)
    images = ImageSet(films.images, films.labels, fields, films.patients, splits)
    teachers = np.flatnonzero(films.patients < size.teachers)
    rest = np.flatnonzero(films.patients >= size.teachers)
    shape = ModelConfig()
    model = build_autoencoder(shape, ImageConfig(), len(CLASSES), seed)
    start_linear_path(model, patch_moments(images, teachers, shape))
    plan = Schedule(0, size.steps)
    train(model, images, teachers, LEARNING, schedule=plan, steps=size.steps, seed=seed)
    mu = infer(model, images, rest).mu
    return Pool(mu, films.labels[rest], fields[rest], films.patients[rest])


def visible_values(
    pool: Pool, draw: np.random.Generator, films: int = COHORT
) -> dict[tuple[str, str], float]:
    """Return the encoded AUC of every field and value, the mean of LOOKS uncoupled cohorts."""
    wanted = contrasts_of(OntologyConfig(classes=CLASSES, attributes=FIELDS))
    found: dict[tuple[str, str], list[float]] = {(c.attribute, c.value): [] for c in wanted}
    for _ in range(LOOKS):
        for row in rank_biases(*_fit(pool, draw_cohort_rows(pool, None, films, draw), {})):
            found[row.attribute, row.value].append(row.encoded_auc or 0.5)
    return {name: float(np.mean(aucs)) for name, aucs in found.items()}


def draw_plant(values: Sequence[tuple[str, str]], draw: np.random.Generator) -> Plant:
    """Return a random plant: the field first, then one of its values, finding, phi and sign."""
    fields = sorted({field for field, _ in values})
    field = fields[draw.integers(len(fields))]
    own = [value for name, value in values if name == field]
    return Plant(
        field=field,
        value=own[draw.integers(len(own))],
        finding=CLASSES[draw.integers(len(CLASSES))],
        phi=float(draw.uniform(*PHI) * draw.choice([-1, 1])),
    )


def draw_cohort_rows(
    pool: Pool, plant: Plant | None, films: int, draw: np.random.Generator
) -> Integers:
    """Return the films of a cohort, in the pool's order; without a plant all films are as likely.

    Raises:
        ConfigError: the pool has too few films of a kind.
    """
    if plant is None:
        return np.sort(draw.choice(len(pool), films, replace=False))
    column = list(FIELDS).index(plant.field)
    own = pool.labels == CLASSES.index(plant.finding)
    value = pool.attributes[:, column] == FIELDS[plant.field].index(plant.value)
    p, q = CLASS_SHARE, CLASS_SHARE if plant.phi > 0 else 1.0 - CLASS_SHARE
    both = p * q + plant.phi * np.sqrt(p * (1 - p) * q * (1 - q))
    shares = {(1, 1): both, (1, 0): p - both, (0, 1): q - both, (0, 0): 1.0 - p - q + both}
    rows = []
    for (is_own, is_value), share in shares.items():
        there = np.flatnonzero((own == bool(is_own)) & (value == bool(is_value)))
        wanted = round(share * films)
        if wanted > len(there):
            reason = f"{plant.field} {plant.value} with {plant.finding}: {len(there)} of {wanted}"
            raise ConfigError("plants", [f"{reason} films; draw more patients or fewer films"])
        rows.append(draw.choice(there, wanted, replace=False))
    return np.sort(np.concatenate(rows))


def judge_cohort(
    pool: Pool, plant: Plant | None, draw: np.random.Generator, films: int = COHORT
) -> Outcome:
    """Return what the ranking says about one cohort with fresh null fields."""
    rows = draw_cohort_rows(pool, plant, films, draw)
    atlas, head = _fit(pool, rows, _draw_null_fields(pool.patients[rows], draw))
    ranking = rank_biases(atlas, head, seed=int(draw.integers(2**31)))
    fields = rank_fields(ranking)
    flagged = {row.attribute for row in ranking if row.flagged}
    mine = _row_of(fields, plant)
    return Outcome(
        plant=plant,
        fields=tuple(row.attribute for row in fields),
        flagged=tuple(row.attribute for row in fields if row.attribute in flagged),
        encoded_auc=None if mine is None else mine.encoded_auc,
        effect=None if mine is None else mine.effect,
    )


def _row_of(fields: Sequence[BiasRow], plant: Plant | None) -> BiasRow | None:
    return next((row for row in fields if plant and row.attribute == plant.field), None)


def _draw_null_fields(patients: Integers, draw: np.random.Generator) -> dict[str, Integers]:
    """Return a value index per film for each of NULL_FIELDS."""
    people, who = np.unique(patients, return_inverse=True)
    return {
        "coin": draw.integers(0, 2, len(people))[who],
        "weekday": draw.integers(0, 3, len(patients)),
        "clerk": (draw.random(len(people)) < 0.15).astype(np.int64)[who],
    }


def _fit(pool: Pool, rows: Integers, null: dict[str, Integers]) -> tuple[Atlas, Head]:
    """Return atlas and head of a cohort's sums."""
    attributes = {**FIELDS, **{name: NULL_FIELDS[name] for name in null}}
    ontology = OntologyConfig(classes=CLASSES, attributes=attributes)
    columns = np.column_stack([pool.attributes[rows], *null.values()])
    total = latent_sum(pool.mu[rows], pool.labels[rows], columns, pool.patients[rows], ontology)
    atlas = atlas_from(total, ontology, "")
    return atlas, fit_heads(atlas, (SHRINKAGE,))[0]


def summarise(
    planted: Sequence[Outcome], unseen: Sequence[Outcome], uncoupled: Sequence[Outcome]
) -> list[Share]:
    """Return the lines of the result: plants, plants that cannot be seen, cohorts without."""

    def first(outcome: Outcome) -> bool:
        return outcome.plant is not None and outcome.fields[0] == outcome.plant.field

    def own(outcome: Outcome) -> bool:
        return outcome.plant is not None and outcome.plant.field in outcome.flagged

    def alarms(outcomes: Sequence[Outcome], fields: Sequence[str]) -> tuple[int, int]:
        hits = sum(name in outcome.flagged for outcome in outcomes for name in fields)
        return hits, len(outcomes) * len(fields)

    null, seen = tuple(NULL_FIELDS), tuple(FIELDS)
    lines = [
        Share("planted field ranked first", sum(map(first, planted)), len(planted), RECALL),
        Share("planted field flagged", sum(map(own, planted)), len(planted)),
        Share("null fields flagged, beside a plant", *alarms(planted, null), FALSE_ALARMS),
        Share("null fields flagged, no plant", *alarms(uncoupled, null), FALSE_ALARMS),
        Share("fields of the films flagged, no plant", *alarms(uncoupled, seen)),
    ]
    for field in seen:
        mine = [outcome for outcome in planted if outcome.plant and outcome.plant.field == field]
        lines.append(Share(f"ranked first: {field}", sum(map(first, mine)), len(mine)))
    lines.append(Share("other values, ranked first", sum(map(first, unseen)), len(unseen)))
    lines.append(Share("other values, flagged", sum(map(own, unseen)), len(unseen)))
    return lines


def run_plants(plants: int = 50, seed: int = 0, *, as_json: bool = False) -> None:
    """Draw, plant, rank and print the result as a table (or as JSON, nothing else).

    Raises:
        ConfigError: fewer than one plant.
    """
    if plants < 1:
        raise ConfigError("plants", [f"found {plants}; plant at least 1"])
    with one_thread(), choose_display(quiet=as_json) as display:
        display.show(Step("drawing films, training and encoding", 0, 1))
        pool = draw_pool(seed)
        draw = np.random.default_rng(seed)
        values = visible_values(pool, draw)
        found = plant_all(pool, values, plants, draw, display)
    content = {"seed": seed, "films": {"pool": len(pool), "cohort": COHORT}, **found}
    if as_json:
        print(json.dumps(content, indent=1))
        return
    console = Console()
    (console if console.is_terminal else Console(width=110)).print(make_table(content))


def plant_all(
    pool: Pool,
    values: dict[tuple[str, str], float],
    plants: int,
    draw: np.random.Generator,
    display: Display,
    films: int = COHORT,
) -> dict[str, Any]:
    """Return lines and outcomes of plants of visible values, of others, and of none; JSON ready."""
    seen = [name for name, auc in values.items() if auc >= VISIBLE]
    rest = [name for name in values if name not in seen]
    hidden = -(-plants * 2 // 5) if rest else 0
    tasks: list[Plant | None] = [draw_plant(seen, draw) for _ in range(plants)]
    tasks += [draw_plant(rest, draw) for _ in range(hidden)]
    tasks += [None] * plants
    outcomes = []
    for number, plant in enumerate(tasks):
        display.show(Step("ranking cohorts", number, len(tasks)))
        outcomes.append(judge_cohort(pool, plant, draw, films))
    display.show(Step("ranking cohorts", len(tasks), len(tasks)))
    planted, unseen = outcomes[:plants], outcomes[plants : plants + hidden]
    lines = summarise(planted, unseen, outcomes[plants + hidden :])
    return {
        "encoded_auc": {f"{field} {value}": auc for (field, value), auc in values.items()},
        "lines": [line.to_dict() for line in lines],
        "plants": [asdict(outcome) for outcome in (*planted, *unseen)],
    }


def make_table(content: dict[str, Any]) -> Table:
    """Return the lines as a table, the visibility of the values below it."""
    seen = ", ".join(f"{name} {auc:.2f}" for name, auc in content["encoded_auc"].items())
    films = content["films"]
    caption = (
        f"{films['cohort']} films a cohort out of {films['pool']}; seed {content['seed']}. "
        f"Encoded AUC without a plant: {seen}. Plants are of values with at least {VISIBLE}."
    )
    table = Table(title="Planted biases", title_justify="left", caption=caption)
    for heading in ("what", "hits", "share", "95 % interval", "goal"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for line in content["lines"]:
        if not line["n"]:
            continue
        goal = "-"
        if line["goal"] is not None:
            sign = ">=" if line["direction"] == "at least" else "<="
            goal = f"{sign} {line['goal']:g}" + ("" if line["met"] else " MISSED")
        hits = f"{line['hits']} of {line['n']}"
        interval = f"{line['low']:.3f}-{line['high']:.3f}"
        table.add_row(line["what"], hits, f"{line['share']:.3f}", interval, goal)
    return table
