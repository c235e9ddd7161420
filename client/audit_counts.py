"""What a site counts about the final model on its own test images, as one Sum.

The model, the atlas and the heads are those that the run left in the site's state folder, so the
counts that leave and the ones `mfm-client audit` shows here come from the same files.
What crosses the hospital's boundary: histograms and counts over patients, small cells as zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.site import ATLAS, FINAL, HEADS_FILE
from mfm_core.atlas import Atlas, load_atlas
from mfm_core.autoencoder import Autoencoder
from mfm_core.checkpoint import encoder_hash, load_model
from mfm_core.dataset import ImageSet
from mfm_core.devices import to_array
from mfm_core.erasure import why_not_comparable
from mfm_core.errors import CheckpointError
from mfm_core.explanation_sums import explanation_sum
from mfm_core.flips import flip_sum, without_small_cells
from mfm_core.head import Head
from mfm_core.head_files import load_heads
from mfm_core.inference import infer
from mfm_core.subgroups import subgroup_sum
from mfm_core.sums import Sum
from strategies.answers import CHOSEN, EXPLANATIONS, FLIPS, SUBGROUPS, joined, mitigated_methods
from strategies.config import RunConfig


@dataclass(frozen=True)
class Kept:
    """What a finished run left at this site.

    Attributes:
        model: the final one, its head in use.
        atlas: of the same encoder.
        heads: "chosen", the head before any mitigation, and the mitigated ones by method.
    """

    model: Autoencoder
    atlas: Atlas
    heads: dict[str, Head]


def open_kept(folder: Path, config_hash: str | None = None) -> Kept:
    """Return model, atlas and heads of a state folder.

    Args:
        folder: the site's state folder.
        config_hash: if given, the model must come from this run.

    Raises:
        CheckpointError: there is none yet, one is damaged, or they do not belong together.
    """
    model, _ = load_model(folder / FINAL, config_hash)
    encoder = encoder_hash(model)
    atlas = load_atlas(folder / ATLAS, encoder)
    own = Head(to_array(model.head.weight), to_array(model.head.bias))
    heads = {CHOSEN: own}
    if (folder / HEADS_FILE).is_file():
        heads = load_heads(folder / HEADS_FILE, encoder, own.weight.shape)[0]
    return Kept(model, atlas, heads)


def audit_sum(
    kept: Kept,
    images: ImageSet,
    chosen: NDArray[np.int64],
    run: RunConfig,
    smallest: int,
    seed_of: Callable[[str], int],
) -> Sum:
    """Return the audit counts of the images at `chosen`.

    Args:
        kept: what the run left here.
        images: the site's images.
        chosen: `[M] int64`, usually the test split.
        run: the agreed settings.
        smallest: fewest patients of a cell that may leave.
        seed_of: seed of a purpose that only this site knows, so that nobody else can tell which
            patients share a group or were chosen.

    Raises:
        CheckpointError: a head of the agreed run was not kept here.
    """
    attribute = run.mitigation.attribute
    made = attribute is not None and not why_not_comparable(kept.atlas, attribute)
    names = (CHOSEN, *mitigated_methods(run)) if made else (CHOSEN,)
    if missing := [name for name in names if name not in kept.heads]:
        raise CheckpointError(
            f"{HEADS_FILE}: the run's heads {', '.join(missing)} are not there, found "
            f"{', '.join(kept.heads)}; the file is of another run: run again"
        )
    mu = infer(kept.model, images, chosen).mu
    labels, attributes = images.labels[chosen], images.attributes[chosen]
    patients, parts = images.patients[chosen], {}
    for name in (CHOSEN, *mitigated_methods(run)):
        head = kept.heads[name if made else CHOSEN]
        parts[f"{SUBGROUPS}/{name}"] = subgroup_sum(
            head.logits(mu), labels, attributes, patients, run.ontology,
            smallest=smallest, seed=seed_of(f"subgroups {name}"),
        )  # fmt: skip
        flips = flip_sum(mu, labels, attributes, patients, kept.atlas, head)
        parts[f"{FLIPS}/{name}"] = without_small_cells(flips, smallest)
    if run.audit.explained_per_class:
        parts[EXPLANATIONS] = explanation_sum(
            kept.model, kept.atlas, images, chosen, per_class=run.audit.explained_per_class,
            seed=seed_of("explanations"), smallest=smallest,
        )  # fmt: skip
    return joined(parts)
