"""An audit of the final model on the site's own test images, made and kept at the hospital.

Needs the model and the atlas that a run left in the state folder, and no network. Four parts:
how far explanations can be believed, which recorded fields bias the answers, figures per attribute
value, and groups nobody recorded. If the run left other heads for the same encoder, the subgroup
figures and flips stand once more for each of them.
What crosses the hospital's boundary: nothing. audit.json and the drawings are for the site.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from client.audit_picture import draw_centres
from client.config import SiteConfig, load_site_config
from client.limits import guarded_latent_sum
from client.site import ATLAS, CACHE, FINAL, HEADS_FILE, NOT_YET
from mfm_core.atlas import Atlas, load_atlas
from mfm_core.autoencoder import Autoencoder
from mfm_core.bias import flip_figures, flip_sum, here_or_elsewhere, rank_biases
from mfm_core.checkpoint import encoder_hash, load_model
from mfm_core.config import OntologyConfig
from mfm_core.dataset import ImageSet, open_images
from mfm_core.devices import choose_device, to_array
from mfm_core.errors import CheckpointError, ConfigError, DataError, MfmError
from mfm_core.explanation_sums import explanation_figures, explanation_sum
from mfm_core.head import Head
from mfm_core.head_files import load_heads
from mfm_core.inference import Inference, infer
from mfm_core.report import finite
from mfm_core.slices import Slice, decode_slices, find_slices
from mfm_core.subgroups import subgroup_figures, subgroup_sum
from mfm_core.whole_file import write_whole

Part = Literal["explanations", "bias", "subgroups", "slices"]
PARTS: tuple[Part, ...] = get_args(Part)

RECORD, CENTRES = "audit.json", "slices-stay-here.png"
FINAL_HEAD = "final"
MOST_CENTRES = 6
"""Groups that are drawn at most."""

NOTE = (
    "Made at this hospital from its own test images; nothing of it has left or will leave. "
    "Research software, not a medical device."
)


@dataclass(frozen=True)
class Request:
    """What is to be audited.

    Attributes:
        config: the site's settings, site.yaml.
        parts: what is asked for; none means all, and a part that cannot be made then says why
            instead of stopping the rest.
        model: a model file; None takes the one a run left in the state folder. Other heads are
            read from heads.safetensors beside it.
        atlas: an atlas file of the same run; None likewise.
        out: folder for what is written; None is "audit" in the state folder.
    """

    config: Path
    parts: tuple[Part, ...] = ()
    model: Path | None = None
    atlas: Path | None = None
    out: Path | None = None


@dataclass(frozen=True)
class Audited:
    """Where an audit was written and what it says."""

    record: Path
    content: dict[str, Any]


@dataclass(frozen=True)
class Opened:
    """Everything an audit reads.

    Attributes:
        config: the site's settings.
        model: the final model.
        atlas: of the same encoder.
        heads: by name, the model's own first ("final"), then the others that the run left.
        final_is: name of the kept head that the model uses, or empty.
        attribute: what the mitigated heads leave out, or empty.
        images: the site's images.
        test: `[T] int64` labelled test images.
        seen: what the model makes of them.
    """

    config: SiteConfig
    model: Autoencoder
    atlas: Atlas
    heads: Mapping[str, Head]
    final_is: str
    attribute: str
    images: ImageSet
    test: NDArray[np.int64]
    seen: Inference

    @property
    def ontology(self) -> OntologyConfig:
        """Return the names of classes and attributes."""
        return self.atlas.ontology

    @cached_property
    def columns(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return labels `[T]`, attributes `[T, A]` and patients `[T]` of the test images."""
        images = self.images
        return images.labels[self.test], images.attributes[self.test], images.patients[self.test]


def audit_site(request: Request, show: Callable[[int, int], None] | None = None) -> Audited:
    """Write audit.json, and drawings where there are any, into the request's folder.

    Args:
        request: what is to be audited.
        show: is told how many parts are done, and of how many.

    Raises:
        ConfigError: the settings cannot be used.
        CheckpointError: there is no model or atlas yet, or they do not belong together.
        DataError: no labelled test image, or a part that was asked for by name cannot be made.
    """
    return audit_opened(open_audit(request), request, show)


def audit_opened(
    opened: Opened, request: Request, show: Callable[[int, int], None] | None = None
) -> Audited:
    """Write what `audit_site` writes, of a site that is open already."""
    out = request.out or opened.config.state_folder / "audit"
    made: dict[str, Any] = {}
    parts = request.parts or PARTS
    for number, part in enumerate(parts):
        if show is not None:
            show(number, len(parts))
        try:
            made[part] = MAKERS[part](opened, out)
        except MfmError as error:
            if request.parts:
                raise
            made[part] = {"refused": str(error)}
    if show is not None:
        show(len(parts), len(parts))
    labels, _, patients = opened.columns
    content = finite(
        {
            "site": opened.config.name,
            "encoder_hash": opened.atlas.encoder_hash,
            "config_hash": opened.atlas.config_hash,
            "test_images": len(labels),
            "test_patients": len(np.unique(patients)),
            "smallest": opened.config.limits.min_cell_count,
            "heads": list(opened.heads),
            "final_is": opened.final_is,
            "mitigated_attribute": opened.attribute,
            "note": NOTE,
            **made,
        }
    )
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    return Audited(write_whole(out / RECORD, f"{text}\n".encode()), content)


def open_audit(request: Request) -> Opened:
    """Return what the audit reads, after every check.

    Raises:
        as `audit_site`.
    """
    config = load_site_config(request.config)
    folder = config.state_folder
    model_file, atlas_file = request.model or folder / FINAL, request.atlas or folder / ATLAS
    _refuse_missing(model_file, atlas_file, request)
    torch.set_num_threads(config.threads)
    model, metadata = load_model(model_file)
    model.to(choose_device(config.device))
    fingerprint = encoder_hash(model)
    atlas = load_atlas(atlas_file, fingerprint)
    if OntologyConfig.model_validate_json(metadata["ontology"]) != atlas.ontology:
        raise CheckpointError(
            f"{atlas_file}: its classes or attributes are not those of {model_file}; "
            "use model and atlas of the same run"
        )
    images = open_images(
        config.data, atlas.ontology, model.image_config, folder / CACHE, to_train=False
    )
    test = images.select("test")
    test = test[images.labels[test] >= 0]
    if not len(test):
        where = str(config.data.manifest or config.data.root)
        reason = f"none of {len(images)} images is a labelled test image"
        raise DataError(where, [f"{reason}; check columns.split or raise data.test_fraction"])
    heads, names = _heads(model, model_file.with_name(HEADS_FILE), fingerprint)
    seen = infer(model, images, test)
    if not np.isfinite(seen.mu).all():
        raise DataError(str(model_file), ["a latent is not finite: the model has diverged"])
    return Opened(config, model, atlas, heads, *names, images, test, seen)


def _refuse_missing(model_file: Path, atlas_file: Path, request: Request) -> None:
    """Raise unless both files are there; say which option or run would give them."""
    files = ((model_file, request.model), (atlas_file, request.atlas))
    absent = [(str(path), given) for path, given in files if not path.is_file()]
    problems = [f"{path}: is no file; check the path" for path, given in absent if given]
    if left := [path for path, given in absent if not given]:
        advice = "or name files with --model and --atlas"
        problems.append(f"{' and '.join(left)}: {NOT_YET}, {advice}")
    if problems:
        raise CheckpointError("\n".join(problems))


def _heads(
    model: Autoencoder, path: Path, fingerprint: str
) -> tuple[dict[str, Head], tuple[str, str]]:
    """Return the model's own head and the others of the file, and which one is in use.

    The second is the name of the file's head that the model uses, and the attribute that the
    mitigated ones leave out; both empty where there is no file.
    """
    own = Head(to_array(model.head.weight).copy(), to_array(model.head.bias).copy())
    if not path.is_file():
        return {FINAL_HEAD: own}, ("", "")
    kept, attribute = load_heads(path, fingerprint, own.weight.shape)
    same = [
        name
        for name, head in kept.items()
        if np.array_equal(head.weight, own.weight) and np.array_equal(head.bias, own.bias)
    ]
    others = {name: head for name, head in kept.items() if name not in same}
    return {FINAL_HEAD: own, **others}, (same[0] if same else "", attribute)


def audit_explanations(opened: Opened, out: Path) -> list[dict[str, Any]]:
    """Return the table of explanation metrics, a row per class and one for all classes."""
    total = explanation_sum(opened.model, opened.atlas, opened.images, opened.test)
    return explanation_figures(total, opened.ontology)


def audit_bias(opened: Opened, out: Path) -> dict[str, Any]:
    """Return the ranking of fields from the released cells, and flips on the test images.

    The ranking has site identity as a field ("here" against "elsewhere") where the site's own
    training images are those it released sums of; otherwise "site" says why not.
    """
    atlas, site = opened.atlas, ""
    try:
        atlas = here_or_elsewhere(atlas, own_cells(opened))
    except (ConfigError, DataError) as error:
        site = f"this site was not compared with the others: {'; '.join(error.problems)}"
    ranking = [row.to_dict() for row in rank_biases(atlas, opened.heads[FINAL_HEAD])]
    flips = {}
    for name, head in opened.heads.items():
        total = flip_sum(opened.seen.mu, *opened.columns, opened.atlas, head)
        smallest = float(opened.config.limits.min_cell_count)
        flips[name] = flip_figures(total, opened.ontology, smallest=smallest)
    return {"ranking": ranking, "flips": flips, "site": site}


def own_cells(opened: Opened) -> Any:
    """Return this site's latent sum as it was released for the atlas."""
    images, train = opened.images, opened.images.select("train")
    cells = (images.labels[train], images.attributes[train], images.patients[train])
    latents = infer(opened.model, images, train).mu
    smallest = opened.config.limits.min_cell_count
    return guarded_latent_sum(latents, cells, opened.ontology, smallest)


def audit_subgroups(opened: Opened, out: Path) -> dict[str, Any]:
    """Return the rows of the subgroup table for each head.

    Raises:
        DataError: the run has no attributes, or no test image has a known value of any.
    """
    labels, attributes, patients = opened.columns
    names = tuple(opened.ontology.attributes)
    unknown = [name for name, column in zip(names, attributes.T, strict=True) if column.max() < 0]
    if len(unknown) == len(names):
        found = f"{', '.join(names)} unknown for all {len(labels)} test images"
        reason = found if names else "the agreed run has no attributes"
        advice = "check columns.attributes and attribute_mapping" if names else "nothing to compare"
        raise DataError("subgroups", [f"{reason}; {advice}"])
    rows = {}
    for name, head in opened.heads.items():
        logits = head.logits(opened.seen.mu)
        columns = (labels, attributes, patients)
        total = subgroup_sum(logits, *columns, opened.ontology, smallest=1, seed=0)
        smallest = opened.config.limits.min_cell_count
        rows[name] = subgroup_figures(total, opened.ontology, smallest)
    return {"rows": rows, "unknown": unknown}


def audit_slices(opened: Opened, out: Path) -> dict[str, Any]:
    """Return the groups that were tested, and where the most suspect ones are drawn.

    Raises:
        DataError: no class has enough test patients.
    """
    labels, _, patients = opened.columns
    wrong = opened.heads[FINAL_HEAD].logits(opened.seen.mu).argmax(axis=1) != labels
    slices = find_slices(opened.seen.mu, labels, wrong, patients, opened.ontology.classes)
    if not slices:
        reason = "no class has 12 test patients in each half; nothing could be compared"
        raise DataError("slices", [f"{reason}; raise data.test_fraction or add images"])
    shown: tuple[Slice, ...] = tuple(row for row in slices if row.found)[:MOST_CENTRES]
    picture = None
    if shown:
        drawn = decode_slices(opened.model, shown)
        picture = str(write_whole(out / CENTRES, draw_centres(drawn, shown)))
    return {"rows": [row.to_dict() for row in slices], "picture": picture}


MAKERS: dict[Part, Callable[[Opened, Path], Any]] = {
    "explanations": audit_explanations,
    "bias": audit_bias,
    "subgroups": audit_subgroups,
    "slices": audit_slices,
}
