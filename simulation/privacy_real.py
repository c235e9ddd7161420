"""What a private atlas costs on real films: three small hospitals, far below 2,500 patients.

The hospitals of a study file (chest films by default) are prepared as for a run; an encoder learns
from all their training films, and their patients' cells are released with noise as in a run, once
per epsilon and draw. Two uses of what is released are measured, on each hospital's own test films:

- *released*: a head from the released atlas, the same at every hospital;
- *own, shrunk*: a head from the hospital's own exact moments, drawn towards the released atlas
  (`mfm_core.local_moments`); they stay there, so noise and the few released directions matter less.

Beside them *own alone* and the *exact* sums of all hospitals, which no noise protects. Public
pictures are generated ones or chest phantoms; no film of the hospitals is among either. Hospitals
with fewer than TESTS test films of a class are left out of the AUC, not of the release.
What crosses a hospital's boundary: nothing; here one researcher holds all films.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mfm_core.atlas import Atlas, atlas_from
from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.config import OntologyConfig
from mfm_core.dataset import ImageSet
from mfm_core.discrete_noise import noise_multiplier_for
from mfm_core.errors import DataError
from mfm_core.head import fit_heads
from mfm_core.inference import infer
from mfm_core.latent_sums import latent_sum
from mfm_core.local_moments import shrunk_atlas
from mfm_core.patches import patch_moments, start_linear_path
from mfm_core.private_cells import CellPlan, exact_cells
from mfm_core.public_basis import PublicBasis, public_basis
from mfm_core.sums import Array, Sum
from mfm_core.training import Schedule, train
from simulation.baselines import pool
from simulation.config import StudyConfig, load_study
from simulation.hospitals import open_hospitals, prepare
from simulation.privacy_study import (
    DELTA,
    EPSILONS,
    SHRINKAGE,
    Figure,
    Integers,
    Latents,
    angle,
    auc,
    draw_films,
    figure_of,
    noisy_atlas,
)
from simulation.progress import Display, Step, choose_display
from simulation.stopwatch import one_thread

STUDY = Path(__file__).parent / "studies" / "chest_view.yaml"
TESTS = 10
STEPS, DIRECTIONS, FILMS, DRAWS = 400, 32, 512, 8


@dataclass(frozen=True)
class Hospital:
    """One hospital's encoded films and its exact latent sums."""

    name: str
    train: Latents
    test: Latents
    own: Sum

    @property
    def tested(self) -> bool:
        """Return whether its test films say anything."""
        known = self.test.labels[self.test.labels >= 0]
        return bool(len(known) and np.bincount(known, minlength=2).min() >= TESTS)


def run_real(data: Path, seed: int, display: Display) -> dict[str, Any]:
    """Return all rows, JSON ready.

    Args:
        data: folder that the study's image paths are relative to.
        seed: of training and of the generated pictures.
        display: shows how far it is.

    Raises:
        ConfigError, DataError: the films are not there or cannot be used.
    """
    study = load_study(STUDY)
    display.show(Step("reading films, training an encoder", 0, 1))
    with tempfile.TemporaryDirectory(prefix="mfm-privacy-") as place:
        folder = Path(place) / "run"
        prepare(study, data, folder)
        names, sets = open_hospitals(folder, study.run)
        model = _encoder(study, sets, seed)
        hospitals = [
            _hospital(model, name, images, study.run.ontology)
            for name, images in zip(names, sets, strict=True)
        ]
    side = study.run.image.size_px
    phantoms = draw_films("public", FILMS, 0.0, seed + 1).images
    assert phantoms.shape[-1] == side
    bases = {
        "generated": public_basis(model, DIRECTIONS, seed),
        "phantoms": public_basis(
            model, DIRECTIONS, seed, pictures=phantoms.astype(np.float32) / np.float32(255)
        ),
    }
    rows = _rows(hospitals, bases, study.run.ontology, display)
    return {
        "seed": seed,
        "delta": DELTA,
        "directions": DIRECTIONS,
        "draws": DRAWS,
        "hospitals": {
            h.name: {
                "train_patients": len(np.unique(h.train.patients)),
                "test_films": len(h.test.labels),
                "tested": h.tested,
            }
            for h in hospitals
        },
        "clipped_share": {
            name: float(np.mean(np.concatenate([_lengths(b, h) for h in hospitals]) > 1))
            for name, b in bases.items()
        },
        "rows": rows,
    }


def _encoder(study: StudyConfig, sets: Sequence[ImageSet], seed: int) -> Autoencoder:
    """Return an encoder that learned from the training films of all hospitals."""
    run, films = study.run, pool(sets)
    chosen = films.select("train")
    model = build_autoencoder(run.model, run.image, len(run.ontology.classes), seed)
    start_linear_path(model, patch_moments(films, chosen, run.model))
    plan = Schedule(0, STEPS)
    train(model, films, chosen, run.learning, schedule=plan, steps=STEPS, seed=seed)
    return model.eval()


def _hospital(
    model: Autoencoder, name: str, images: ImageSet, ontology: OntologyConfig
) -> Hospital:
    parts = []
    for split in ("train", "test"):
        rows = images.select(split)
        mu = infer(model, images, rows).mu
        known = (images.labels[rows], images.attributes[rows], images.patients[rows])
        parts.append(Latents(mu, *known))
    train, test = parts
    own = latent_sum(train.mu, train.labels, train.views, train.patients, ontology)
    return Hospital(name, train, test, own)


def _lengths(basis: PublicBasis, hospital: Hospital) -> Array:
    return np.asarray(np.linalg.norm(basis.coordinates(hospital.train.mu), axis=1))


def _released(
    cells: Sequence[Integers],
    basis: PublicBasis,
    plan: CellPlan,
    noise: tuple[float, OntologyConfig],
) -> Atlas | None:
    """Return the released atlas, None where too few patients are left after the noise."""
    try:
        return noisy_atlas(cells, basis, plan, *noise)
    except DataError:
        return None


def _rows(
    hospitals: Sequence[Hospital],
    bases: dict[str, PublicBasis],
    ontology: OntologyConfig,
    display: Display,
) -> list[dict[str, Any]]:
    """Return the rows: exact sums, own sums, then every basis, epsilon and way of adding."""
    total = reduce(Sum.merge, (hospital.own for hospital in hospitals))
    exact = atlas_from(total, ontology, "")
    alone = [atlas_from(hospital.own, ontology, "") for hospital in hospitals]
    rows = [
        {"atlas": "exact", "sum": "-", "epsilon": None}
        | _figures([scores_of(exact, exact, hospitals)]),
        {"atlas": "own alone", "sum": "-", "epsilon": None}
        | _figures([{"own, shrunk": _mean_auc(alone, hospitals)}]),
    ]
    ((attribute, values),) = ontology.attributes.items()
    plan = CellPlan(len(ontology.classes), ((attribute, len(values)),), DIRECTIONS)
    for name, basis in bases.items():
        cells = [
            exact_cells(basis.coordinates(h.train.mu), h.train.labels, h.train.views,
                        h.train.patients, plan)
            for h in hospitals
        ]  # fmt: skip
        for number, epsilon in enumerate(EPSILONS):
            display.show(Step(f"noise, {name}", number, len(EPSILONS)))
            private = bool(np.isfinite(epsilon))
            for kind in ("secure sum", "each site alone") if private else ("-",):
                share = len(hospitals) if kind == "secure sum" else 1
                sigma = noise_multiplier_for(epsilon, DELTA) if private else 0.0
                deviation = sigma * plan.sensitivity / float(np.sqrt(share))
                drawn = [
                    scores_of(
                        exact, _released(cells, basis, plan, (deviation, ontology)), hospitals
                    )
                    for _ in range(DRAWS if private else 1)
                ]
                facts = {"atlas": name, "sum": kind, "epsilon": epsilon if private else None}
                rows.append({**facts, **_figures(drawn)})
    return rows


def scores_of(exact: Atlas, found: Atlas | None, hospitals: Sequence[Hospital]) -> dict[str, float]:
    """Return the figures of a released atlas; where none could be made, those of guessing."""
    if found is None or len(found.present) < 2:
        alone = [atlas_from(hospital.own, exact.ontology, "") for hospital in hospitals]
        own = _mean_auc(alone, hospitals)
        return {"class axis": 0.0, "view axis": 0.0, "released": 0.5, "own, shrunk": own}
    name = exact.ontology.classes[1]
    ((attribute, (one, zero, *_)),) = exact.ontology.attributes.items()
    view = 0.0
    if ((found.attribute_counts[attribute] > 0).sum(axis=1) == 2).any():
        axes = [a.attribute_axis(attribute, one, zero) for a in (exact, found)]
        view = angle(axes[0], axes[1])
    shrunk = [shrunk_atlas(h.own, found) if h.tested else found for h in hospitals]
    return {
        "class axis": angle(exact.class_axis(name), found.class_axis(name)),
        "view axis": view,
        "released": _mean_auc([found] * len(hospitals), hospitals),
        "own, shrunk": _mean_auc(shrunk, hospitals),
    }


def _mean_auc(atlases: Sequence[Atlas], hospitals: Sequence[Hospital]) -> float:
    """Return the mean over hospitals of the AUC on their own test films."""
    found = []
    for atlas, hospital in zip(atlases, hospitals, strict=True):
        if not hospital.tested:
            continue
        logits = fit_heads(atlas, (SHRINKAGE,))[0].logits(hospital.test.mu)
        known = hospital.test.labels >= 0
        found.append(auc((logits[:, 1] - logits[:, 0])[known], hospital.test.labels[known] == 1))
    return float(np.mean(found))


def _figures(drawn: Sequence[dict[str, float]]) -> dict[str, Any]:
    return {key: asdict(figure_of([one[key] for one in drawn])) for key in drawn[0]}


def make_table(content: dict[str, Any]) -> Table:
    """Return the rows as a table."""
    seen = ", ".join(
        f"{name} {facts['train_patients']} + {facts['test_films']} films"
        + ("" if facts["tested"] else " (too few to test)")
        for name, facts in content["hospitals"].items()
    )
    clipped = ", ".join(f"{name} {share:.1%}" for name, share in content["clipped_share"].items())
    caption = (
        f"Training patients + test films: {seen}; d = {content['directions']}, delta "
        f"{content['delta']:g}, {content['draws']} draws of the noise, mean (95 % of draws); "
        f"seed {content['seed']}. AUC on each hospital's own test films, mean of hospitals. Films "
        f"beyond the clip: {clipped}."
    )
    table = Table(title="A private atlas of real films", title_justify="left", caption=caption)
    names = ("class axis", "view axis", "released", "own, shrunk")
    for heading in ("atlas", "epsilon", "noise", *names):
        table.add_column(heading)
    for row in content["rows"]:
        epsilon = "inf" if row["epsilon"] is None else f"{row['epsilon']:g}"
        cells = []
        for name in names:
            figure = Figure(**row[name]) if name in row else None
            one = figure is not None and figure.low == figure.high
            cells.append("-" if figure is None else f"{figure.value:.3f}" if one else str(figure))
        table.add_row(row["atlas"], epsilon, row["sum"], *cells)
    return table


def print_real(data: Path, seed: int, *, as_json: bool) -> None:
    """Run the study and print it as a table, or as JSON and nothing else."""
    with one_thread(), choose_display(quiet=as_json) as display:
        content = run_real(data, seed, display)
    if as_json:
        print(json.dumps(content, indent=1))
        return
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(make_table(content))
