"""Scores a finished run's explanations on phantoms that it has never seen.

Where a method was chosen on the phantoms of a run, its figures there flatter it; other patients of
the same kind, drawn from another seed, do not.
What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from mfm_core.atlas import load_atlas
from mfm_core.checkpoint import encoder_hash, load_model
from mfm_core.errors import ConfigError
from simulation.config import PhantomSource, load_study
from simulation.hospitals import prepare
from simulation.study import score_explanations


def score_on_others(run: Path, seed: int, per_class: int) -> list[dict[str, Any]]:
    """Return the rows of `explanation_figures` for a finished run on patients of another seed.

    Args:
        run: folder of a finished study of phantoms.
        seed: of the phantoms; not the run's own.
        per_class: test images scored per class, at most.

    Raises:
        ConfigError: the study has no phantoms, or these are its own.
        CheckpointError: model or atlas are missing or damaged.
    """
    given = load_study(run / "study.yaml")
    if not isinstance(given.source, PhantomSource):
        raise ConfigError(str(run), ["is no study of phantoms; other patients cannot be drawn"])
    if seed == given.source.phantoms.seed:
        problem = f"was made of the phantoms of seed {seed}; choose another"
        raise ConfigError(str(run), [problem])
    changes = {"source.phantoms.seed": str(seed), "explained_per_class": str(per_class)}
    study = load_study(run / "study.yaml", changes)
    torch.set_num_threads(1)
    model, _ = load_model(run / "final.safetensors")
    atlas = load_atlas(run / "atlas.safetensors", encoder_hash(model))
    with tempfile.TemporaryDirectory(prefix="mfm-others-") as place:
        prepare(study, Path("."), Path(place))
        return score_explanations(study, Path(place), model, atlas)[0]


def lines_of(rows: list[dict[str, Any]]) -> list[str]:
    """Return a Markdown table: how well each method tells the place of a finding.

    A gain is that of `located_change` over another method, image by image.
    """
    known = [row for row in rows if row["n_masks"]]
    if not known:
        return ["No test image of these patients has a known region."]
    methods, others = tuple(known[0]["iou"]), tuple(known[0]["iou_gain"])
    head = ["finding", "n", *(f"IoU {m}" for m in methods), *(f"gain over {m}" for m in others)]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for row in known:
        cells = [_shown(row["iou"][method]) for method in methods]
        gains = [_shown(row["iou_gain"][method]) for method in others]
        lines.append(f"| {' | '.join([row['class'], str(row['n_masks']), *cells, *gains])} |")
    return lines


def _shown(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return "-"
    value = f"{figure['value']:.2f}"
    return (
        value if figure["low"] is None else f"{value} ({figure['low']:.2f} to {figure['high']:.2f})"
    )
