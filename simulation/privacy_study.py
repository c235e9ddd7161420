"""What a private atlas costs: axes and heads from noisy cells against epsilon, on phantoms.

An encoder learns from uncoupled phantoms. The cohort of the release is other patients, in whom the
view goes with a finding, divided among sites; their cells go through the very functions of a run
(`private_cells`, `discrete_noise`, `noisy_cells`), once per epsilon and draw, with each site's
share of the noise under a secure sum and with all of it without. From each noisy atlas come

- the cosine of every class axis, and of the view axis, with those of the exact latent sums, in all
  L dimensions: what the public directions leave out is lost in every row, that of epsilon inf too;
- the AUC of the coupled finding under a plain discriminant head and one that leaves the view out,
  on patients coupled as in the cohort and on patients coupled the other way round.

Intervals are the 2.5 and 97.5 % quantiles over draws of the noise, of the same patients.
What crosses a hospital's boundary: nothing; there is no real patient here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from mfm_core.atlas import Atlas, atlas_from
from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.config import ImageConfig, ModelConfig, OntologyConfig
from mfm_core.dataset import ImageSet
from mfm_core.discrete_noise import noise_multiplier_for, with_noise
from mfm_core.errors import ConfigError
from mfm_core.head import Head, fit_heads
from mfm_core.inference import infer
from mfm_core.latent_sums import latent_sum
from mfm_core.noisy_cells import lifted, repaired
from mfm_core.patches import patch_moments, start_linear_path
from mfm_core.private_cells import GRAINS, CellPlan, as_sum, exact_cells
from mfm_core.public_basis import PublicBasis, public_basis
from mfm_core.sums import Array
from mfm_core.sums_head import lda_head
from mfm_core.training import Schedule, train
from simulation.phantoms import (
    ATTRIBUTES,
    CLASSES,
    CouplingConfig,
    HospitalPhantoms,
    PhantomConfig,
    draw_phantoms,
)
from simulation.plants import LEARNING
from simulation.progress import Display, Step, choose_display
from simulation.stopwatch import one_thread

Integers = NDArray[np.int64]
BasisKind = Literal["generated", "public films"]

FINDING, VIEW = "effusion", "AP"
PHI = 0.45
EPSILONS = (np.inf, 8.0, 4.0, 2.0, 1.0)
DELTA = 1e-6
SHRINKAGE = 0.1
SMALLEST = 50.0
ONTOLOGY = OntologyConfig(classes=CLASSES, attributes={"view": ATTRIBUTES["view"]})


@dataclass(frozen=True)
class StudySize:
    """How much is drawn and how the release is agreed.

    Attributes:
        patients: of the release, in all sites.
        tests: patients of either test set.
        teachers: patients that the encoder learns from.
        steps: optimiser steps.
        sites, min_sites: of the release; a site's share of the noise is 1 / min_sites.
        directions: d.
        draws: of the noise, per row.
        films: public films of other patients, for the basis that is not generated.
    """

    patients: int = 10_000
    tests: int = 1_500
    teachers: int = 800
    steps: int = 200
    sites: int = 8
    min_sites: int = 6
    directions: int = 32
    draws: int = 20
    films: int = 512


@dataclass(frozen=True)
class Latents:
    """Encoded films: `[N, L]` latents, `[N]` labels, `[N, 1]` view, `[N]` patients."""

    mu: NDArray[np.float32]
    labels: Integers
    views: Integers
    patients: Integers


@dataclass(frozen=True)
class Figure:
    """A mean over draws of the noise with its 2.5 and 97.5 % quantiles."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


def figure_of(values: Sequence[float]) -> Figure:
    """Return mean and quantiles."""
    low, high = np.quantile(values, [0.025, 0.975])
    return Figure(float(np.mean(values)), float(low), float(high))


def auc(scores: Array, wanted: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve; ties count half."""
    ranks, positive = rankdata(scores), int(wanted.sum())
    below = ranks[wanted].sum() - positive * (positive + 1) / 2
    return float(below / (positive * (len(wanted) - positive)))


def draw_films(name: str, patients: int, phi: float, seed: int) -> ImageSet:
    """Return the films of patients in whom view and finding go together with this phi."""
    coupling = CouplingConfig(attribute="view", value=VIEW, finding=FINDING, phi=phi)
    hospital = HospitalPhantoms(
        name=name, patients=patients, ap_share=0.5, couplings=(coupling,) if phi else ()
    )
    films = draw_phantoms(PhantomConfig(seed=seed, hospitals=(hospital,)), hospital)
    view = list(ATTRIBUTES).index("view")
    zeros = np.zeros(len(films), dtype=np.int64)
    return ImageSet(
        films.images, films.labels, films.attributes[:, view : view + 1], films.patients, zeros
    )


def train_encoder(size: StudySize, seed: int) -> Autoencoder:
    """Return an encoder that learned from uncoupled patients."""
    films, shape = draw_films("teachers", size.teachers, 0.0, seed), ModelConfig()
    everybody = np.arange(len(films))
    model = build_autoencoder(shape, ImageConfig(), len(CLASSES), seed)
    start_linear_path(model, patch_moments(films, everybody, shape))
    plan = Schedule(0, size.steps)
    train(model, films, everybody, LEARNING, schedule=plan, steps=size.steps, seed=seed)
    return model.eval()


def encode(model: Autoencoder, films: ImageSet) -> Latents:
    """Return the films' latents."""
    mu = infer(model, films, np.arange(len(films))).mu
    return Latents(mu, films.labels, films.attributes, films.patients)


def scores_of(exact: Atlas, found: Atlas, tests: Sequence[Latents], like: Head) -> dict[str, float]:
    """Return the figures of one atlas against the exact one; 0 where it has no such axis."""
    cosines = [_cosine(exact, found, name) for name in CLASSES]
    known = FINDING in found.present
    views = found.attribute_counts["view"][CLASSES.index(FINDING)]
    heads: dict[str, Head | None] = {"plain": None, "erased": None}
    if known:
        heads["plain"] = fit_heads(found, (SHRINKAGE,))[0]
    if known and (views > 0).all():
        heads["erased"] = lda_head(found, "view", like, SHRINKAGE)
    figures = {
        "class axes": float(np.mean(cosines)),
        f"{FINDING} axis": _cosine(exact, found, FINDING),
    }
    figures["view axis"] = _view_cosine(exact, found)
    for name, head in heads.items():
        for where, seen in zip(("as trained", "reversed"), tests, strict=True):
            figures[f"{name}, {where}"] = _auc_of(head, seen)
    return figures


def _auc_of(head: Head | None, seen: Latents) -> float:
    if head is None:
        return 0.5
    logits, column = head.logits(seen.mu), CLASSES.index(FINDING)
    rest = np.delete(logits, column, axis=1)
    score = logits[:, column] - np.logaddexp.reduce(rest, axis=1)
    return auc(score, seen.labels == column)


def _cosine(exact: Atlas, found: Atlas, name: str) -> float:
    if name not in found.present or len(found.present) < 2:
        return 0.0
    return angle(exact.class_axis(name), found.class_axis(name))


def _view_cosine(exact: Atlas, found: Atlas) -> float:
    counts = found.attribute_counts["view"]
    if not ((counts > 0).sum(axis=1) == 2).any():
        return 0.0
    one, zero = ATTRIBUTES["view"][:2]
    wanted, axis = (a.attribute_axis("view", one, zero) for a in (exact, found))
    return angle(wanted, axis)


def angle(one: Array, other: Array) -> float:
    """Return the cosine of two axes; 0 where one has no length."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths > 0 else 0.0


def noisy_atlas(
    cells: Sequence[Integers],
    basis: PublicBasis,
    plan: CellPlan,
    deviation: float,
    ontology: OntologyConfig = ONTOLOGY,
) -> Atlas:
    """Return the atlas of all sites' cells, each with noise of this deviation in patients."""
    total = np.sum(cells, axis=0)
    if deviation > 0:
        total = np.sum([with_noise(own, deviation * GRAINS) for own in cells], axis=0)
    pooled = deviation * np.sqrt(len(cells))
    found = repaired(as_sum(total, plan), plan, float(pooled), SMALLEST)
    return atlas_from(lifted(found, basis, ontology), ontology, "")


def site_cells(cohort: Latents, basis: PublicBasis, plan: CellPlan, sites: int) -> list[Integers]:
    """Return each site's exact cells; patients go to the sites in turn."""
    where = cohort.patients % sites
    found = []
    for site in range(sites):
        own = np.flatnonzero(where == site)
        coordinates = basis.coordinates(cohort.mu[own])
        parts = (cohort.labels[own], cohort.views[own], cohort.patients[own])
        found.append(exact_cells(coordinates, *parts, plan))
    return found


def run_study(size: StudySize, seed: int, display: Display) -> dict[str, Any]:
    """Return all rows of the study, JSON ready."""
    display.show(Step("training an encoder", 0, 1))
    model = train_encoder(size, seed)
    parts: list[Latents] = []
    wanted = [("cohort", size.patients, PHI), ("as_trained", size.tests, PHI)]
    wanted += [("reversed", size.tests, -PHI)]
    for number, (name, patients, phi) in enumerate(wanted):
        display.show(Step("drawing and encoding patients", number, len(wanted)))
        parts.append(encode(model, draw_films(name, patients, phi, seed)))
    cohort, tests = parts[0], parts[1:]
    total = latent_sum(cohort.mu, cohort.labels, cohort.views, cohort.patients, ONTOLOGY)
    exact = atlas_from(total, ONTOLOGY, "")
    like = Head(model.head.weight.detach().numpy(), model.head.bias.detach().numpy())
    films = draw_films("public", size.films, 0.0, seed + 1).images / np.float32(255)
    bases = {
        "generated": public_basis(model, size.directions, seed),
        "public films": public_basis(
            model, size.directions, seed, pictures=films.astype(np.float32)
        ),
    }
    rows: list[dict[str, Any]] = [
        {"basis": "all L, exact", "sum": "-", "epsilon": None}
        | {k: asdict(figure_of([v])) for k, v in scores_of(exact, exact, tests, like).items()}
    ]
    clipped = {}
    for name, basis in bases.items():
        lengths = np.linalg.norm(basis.coordinates(cohort.mu), axis=1)
        clipped[name] = float(np.mean(lengths > 1))
        rows += _rows_of(name, basis, (cohort, tests, exact, like), size, display)
    return {
        "seed": seed,
        "size": asdict(size),
        "delta": DELTA,
        "phi": PHI,
        "images": len(cohort.labels),
        "patients_per_class": np.round(exact.counts).tolist(),
        "clipped_share": clipped,
        "rows": rows,
    }


def _rows_of(
    name: str,
    basis: PublicBasis,
    known: tuple[Latents, Sequence[Latents], Atlas, Head],
    size: StudySize,
    display: Display,
) -> list[dict[str, Any]]:
    """Return the rows of one basis: every epsilon, with and without a secure sum."""
    cohort, tests, exact, like = known
    plan = CellPlan(len(CLASSES), (("view", len(ATTRIBUTES["view"])),), size.directions)
    cells = site_cells(cohort, basis, plan, size.sites)
    rows = []
    for number, epsilon in enumerate(EPSILONS):
        display.show(Step(f"noise, {name}", number, len(EPSILONS)))
        private = bool(np.isfinite(epsilon))
        for kind in ("secure sum", "each site alone") if private else ("-",):
            share = size.min_sites if kind == "secure sum" else 1
            sigma = noise_multiplier_for(epsilon, DELTA) if private else 0.0
            deviation = sigma * plan.sensitivity / float(np.sqrt(share))
            drawn = [
                scores_of(exact, noisy_atlas(cells, basis, plan, deviation), tests, like)
                for _ in range(size.draws if private else 1)
            ]
            figures = {key: asdict(figure_of([one[key] for one in drawn])) for key in drawn[0]}
            facts = {"basis": name, "sum": kind, "epsilon": epsilon if private else None}
            rows.append({**facts, **figures})
    return rows


def run_privacy(size: StudySize, seed: int = 0, *, as_json: bool = False) -> None:
    """Run the study and print it as a table (or as JSON, nothing else).

    Raises:
        ConfigError: the sizes make no release.
    """
    if not 2 <= size.min_sites <= size.sites or size.patients < 10 * size.sites:
        found = f"{size.sites} sites, min_sites {size.min_sites}, {size.patients} patients"
        raise ConfigError("privacy", [f"{found}; min_sites is 2 to sites, 10 patients a site"])
    with one_thread(), choose_display(quiet=as_json) as display:
        content = run_study(size, seed, display)
    if as_json:
        print(json.dumps(content, indent=1))
        return
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(make_table(content))


def make_table(content: dict[str, Any]) -> Table:
    """Return the rows as a table."""
    size = content["size"]
    clipped = ", ".join(f"{name} {share:.1%}" for name, share in content["clipped_share"].items())
    caption = (
        f"{size['patients']} patients ({content['images']} films) at {size['sites']} sites, each "
        f"with 1/{size['min_sites']} of the noise under the secure sum; d = {size['directions']}, "
        f"delta {content['delta']:g}, {size['draws']} draws of the noise, mean (95 % of draws); "
        f"{size['tests']} test patients either way, phi {content['phi']}; seed {content['seed']}. "
        f"Films beyond the clip: {clipped}."
    )
    table = Table(title="A private atlas", title_justify="left", caption=caption)
    names = [key for key in content["rows"][0] if key not in ("basis", "sum", "epsilon")]
    for heading in ("basis", "epsilon", "noise", *names):
        table.add_column(heading)
    for row in content["rows"]:
        epsilon = "inf" if row["epsilon"] is None else f"{row['epsilon']:g}"
        figures = [Figure(**row[name]) for name in names]
        shown = [f"{f.value:.3f}" if f.low == f.high else str(f) for f in figures]
        table.add_row(row["basis"], epsilon, row["sum"], *shown)
    return table
