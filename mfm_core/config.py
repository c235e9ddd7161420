"""The frozen parts of the configuration tree that the algorithms read.

Every part is immutable, refuses unknown keys and describes each field with its unit and range.
Files are YAML; `load_yaml` reports every problem of a file at once by dotted path, and
`canonical_hash` is the identity of a configuration: equal settings give equal hashes whatever
the order or the formatting of the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from mfm_core.errors import ConfigError


class Part(BaseModel):
    """A frozen piece of configuration that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Name = Annotated[str, StringConstraints(min_length=1, max_length=64, strip_whitespace=True)]
FieldName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,39}$")]


TaskTarget = Literal[
    "BINARY_CLASSIFICATION",
    "MULTICLASS_CLASSIFICATION",
    "MULTILABEL_CLASSIFICATION",
    "ORDINAL_REGRESSION",
]
"""Kinds of tasks, in the words of the MIMeta layout."""


class TaskConfig(Part):
    """One task of a multi-task pre-training; the order of its labels fixes their index."""

    target: TaskTarget = Field(description="What is asked of an image.")
    labels: tuple[Annotated[str, StringConstraints(min_length=1, max_length=200)], ...] = Field(
        min_length=1, description="Names of the labels; index = label."
    )

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels: a name stands twice; give every label its own name")
        if self.target == "BINARY_CLASSIFICATION" and len(self.labels) != 2:
            raise ValueError(f"labels: a binary task has two, found {len(self.labels)}")
        if self.target != "MULTILABEL_CLASSIFICATION" and len(self.labels) < 2:
            raise ValueError("labels: one label leaves nothing to tell apart; name two or more")
        return self

    @property
    def outputs(self) -> int:
        """Return how many rows of the head the task owns."""
        fewer = self.target in ("BINARY_CLASSIFICATION", "ORDINAL_REGRESSION")
        return len(self.labels) - int(fewer)


TaskName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
LONGEST_NAME = 64


def output_names(tasks: Mapping[str, TaskConfig]) -> tuple[str, ...]:
    """Return a class name for every row of a head for tasks, two at least.

    The order is that of the tasks' names, whatever the order in the file.
    """
    rows = [label for name in sorted(tasks) for label in tasks[name].labels[-tasks[name].outputs :]]
    named = [f"{number:03d} {label}"[:LONGEST_NAME].strip() for number, label in enumerate(rows)]
    return tuple([*named, "unused"] if len(named) == 1 else named)


class OntologyConfig(Part):
    """What the consortium calls its classes and attributes; order fixes every index."""

    classes: tuple[Name, ...] = Field(min_length=2, description="Class names; index = label.")
    attributes: dict[FieldName, tuple[Name, ...]] = Field(
        default_factory=dict, description="Attribute name to its values, e.g. view: [AP, PA]."
    )
    tasks: dict[TaskName, TaskConfig] = Field(
        default_factory=dict,
        description="Tasks of a multi-task pre-training, by <data set>/<task>; the classes then "
        "follow from them and are left out.",
    )

    @model_validator(mode="before")
    @classmethod
    def _tasks_make_the_classes(cls, found: Any) -> Any:
        if not isinstance(found, dict) or not found.get("tasks"):
            return found
        try:
            tasks = TypeAdapter(dict[TaskName, TaskConfig]).validate_python(found["tasks"])
            rows = output_names(tasks)
        except ValidationError:
            rows = ("a", "b")  # what is wrong with the tasks is said by their own check
        if "classes" in found and tuple(found["classes"]) != rows:
            raise ValueError("classes: stand beside tasks; leave them out, they follow from these")
        return {**found, "classes": rows}

    @field_validator("classes", "attributes", mode="before")
    @classmethod
    def _yaml_words_are_text(cls, found: Any) -> Any:
        words = [found] if not isinstance(found, dict) else list(found.values())
        if any(isinstance(word, bool) for row in words if isinstance(row, list) for word in row):
            raise ValueError(
                "YAML reads yes, no, on and off as true or false; put quotes round them"
            )
        return found

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: a name stands twice; give every class its own name")
        for name, values in self.attributes.items():
            if len(values) < 2 or len(set(values)) != len(values):
                raise ValueError(f"attributes.{name}: needs two or more different values")
        return self


class ImageConfig(Part):
    """The picture every model input is brought to."""

    size_px: int = Field(64, ge=32, le=256, multiple_of=32, description="Side in pixels.")
    channels: Literal[1, 3] = Field(1, description="1 grayscale, 3 RGB.")
    fit: Literal["pad", "crop", "stretch"] = Field(
        "pad", description="How a non-square image becomes square."
    )


class ModelConfig(Part):
    """Shape of the autoencoder (paper section 2.1; DESIGN: GroupNorm, spatial latent)."""

    stem: Literal[4, 8] = Field(4, description="Pixel-unshuffle factor of the first layer.")
    widths: tuple[Annotated[int, Field(ge=16, le=1024)], ...] = Field(
        (64, 128, 256), min_length=1, max_length=4, description="Channels per stage."
    )
    depths: tuple[Annotated[int, Field(ge=1, le=16)], ...] = Field(
        (1, 2, 4), min_length=1, max_length=4, description="ShuffleNet units per stage."
    )
    groups: int = Field(2, ge=1, le=8, description="Groups of the pointwise convolutions.")
    bottleneck: float = Field(0.5, gt=0, le=1, description="Inner width over outer width.")
    norm_channels: int = Field(16, ge=4, description="Channels per GroupNorm group.")
    latent_channels: int = Field(32, ge=4, le=128, description="Channels of the spatial latent.")
    linear_path: bool = Field(True, description="Linear patch path, started from patch PCA.")
    overlap: int = Field(
        0,
        ge=0,
        le=8,
        description="Pixels (of a patch averaged down to 16) by which a patch of the linear path "
        "reaches into its neighbours.",
    )

    @model_validator(mode="after")
    def _stages_agree(self) -> Self:
        if len(self.widths) != len(self.depths):
            raise ValueError("widths and depths need the same number of stages")
        pieces = self.groups**2
        if bad := [w for w in self.widths if w % pieces or int(w * self.bottleneck) % pieces]:
            raise ValueError(
                f"widths {bad} and their inner widths must divide into groups x groups ({pieces}) "
                "equal pieces for the shuffle"
            )
        return self


class AttentionConfig(Part):
    """Two-stage pixel attention (paper section 2.3.2), bounded: W = 2 sigmoid(a)."""

    rounds: int = Field(0, ge=0, description="Rounds of stage one; 0 switches attention off.")
    penalty: float = Field(1.0, gt=0, description="Weight of (mean(W) - 1)^2.")


class ObjectiveConfig(Part):
    """Weights of the named loss terms (paper sections 2.1, 2.2)."""

    beta: float = Field(0.03, ge=0, le=1, description="Weight of the KL term per latent number.")
    class_weight: float = Field(0.5, ge=0, description="Weight of the cross-entropy term.")
    label_smoothing: float = Field(0.05, ge=0, lt=0.5, description="Share given to other classes.")
    cycle_weight: float = Field(
        10.0, ge=0, description="Weight of reading back what was drawn; 0 leaves the term out."
    )
    attention: AttentionConfig = AttentionConfig()


class AugmentationConfig(Part):
    """Random changes of a training image (paper section 2.3.1). 0 switches one off."""

    rotation_deg: float = Field(10.0, ge=0, le=180, description="Largest rotation, degrees.")
    scale: float = Field(0.1, ge=0, lt=1, description="Largest relative change of size.")
    shift: float = Field(0.05, ge=0, lt=0.5, description="Largest shift, part of the side.")
    perspective: float = Field(0.1, ge=0, lt=0.5, description="Corner displacement, part of side.")
    flip_probability: float = Field(0.5, ge=0, le=1, description="Left-right mirror.")
    brightness: float = Field(0.1, ge=0, lt=1, description="Largest relative change of contrast.")
    blur_sigma_px: float = Field(1.0, ge=0, description="Largest Gaussian blur of the input.")
    noise_std: float = Field(0.03, ge=0, lt=1, description="Gaussian noise of the input.")
    erase_boxes: int = Field(2, ge=0, le=8, description="Erased boxes of the input.")
    erase_fraction: float = Field(0.3, ge=0, lt=1, description="Largest box side, part of side.")
    clean_share: float = Field(
        0, ge=0, le=1, description="Probability of an input without blur, noise and boxes."
    )


class TrainingConfig(Part):
    """The local optimiser: AdamW under one cosine over all rounds."""

    batch_size: int = Field(32, ge=2, le=512, description="Images per optimiser step.")
    labelled_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Least share of labelled images in a batch, at sites that have both kinds.",
    )
    steps_per_round: int = Field(40, ge=1, description="Optimiser steps of a site per round.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak of the cosine.")
    weight_decay: float = Field(0.05, ge=0, description="AdamW; norms and biases are left out.")
    warmup_steps: int = Field(5, ge=0, description="Linear warm-up at the start of each round.")
    linear_rate: float = Field(
        0.1, ge=0, le=10, description="Learning rate of the linear path over that of the rest."
    )
    ema_decay: float = Field(0.995, ge=0, lt=1, description="Ceiling of the ramped EMA of weights.")
    max_grad_norm: float = Field(1.0, gt=0, description="Clip of the whole gradient's norm.")


class LoraConfig(Part):
    """Low-rank changes of the weights (`mfm_core.lora`)."""

    rank: int = Field(4, ge=1, le=64, description="Rank of a layer's change; fewer where it fits.")
    alpha: float = Field(8.0, gt=0, le=1000, description="A change is alpha / rank times B A.")


class PseudoLabelConfig(Part):
    """Labels for unlabelled images, from the class Gaussians (`mfm_core.pseudo_labels`)."""

    from_round: int = Field(
        0, ge=0, description="First round that trains with them; 0: never. Earlier rounds do not."
    )
    posterior: float = Field(
        0.95, gt=0.5, lt=1, description="Least posterior of the class that is taken."
    )
    gate: float = Field(
        0.99,
        gt=0.5,
        lt=1,
        description="Share of a class's own images that its Gaussian says lie near enough.",
    )
    own_mean: bool = Field(
        False,
        description="Move a site's latents onto the consortium's mean first; for sites with "
        "another scanner and class shares much as elsewhere.",
    )

    def used_in(self, number: int) -> bool:
        """Return whether a training round, counted from 1, trains with pseudo-labels."""
        return 0 < self.from_round <= number


class LearningConfig(Part):
    """Everything one local training needs beside model and data."""

    trainable: Literal["all", "head", "lora"] = Field(
        "all", description="What learns and leaves: all weights, the head, or low-rank changes."
    )
    lora: LoraConfig = LoraConfig()
    pseudo_labels: PseudoLabelConfig = PseudoLabelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    training: TrainingConfig = TrainingConfig()


class ColumnsConfig(Part):
    """Which column of a manifest holds what."""

    file: str = Field("file", description="File name, relative to the root.")
    label: str = Field("label", description="Label, in the site's own words.")
    patient: str = Field(
        "patient_id", description="Patient, or group of images that belong together."
    )
    split: str | None = Field(
        None, description="train, val or test; None lets us split by patient."
    )
    attributes: dict[str, str] = Field(
        default_factory=dict, description="Attribute name to column; default is its own name."
    )


class DataConfig(Part):
    """Where a site's images are and how its words map to the consortium's."""

    root: Path = Field(description="Folder that file names are relative to.")
    manifest: Path | None = Field(None, description="CSV; None reads one folder per class.")
    columns: ColumnsConfig = ColumnsConfig()
    where: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="Keep rows whose column holds one of these values."
    )
    label_mapping: dict[str, str | None] = Field(
        default_factory=dict,
        description="Site's label to class; None drops the row; '*' is the rest.",
    )
    attribute_mapping: dict[str, dict[str, str | None]] = Field(
        default_factory=dict,
        description="Per attribute: site's word to value; None is unknown; '*' is the rest.",
    )
    mimeta: tuple[str, ...] | None = Field(
        None,
        description="The root holds data sets in the MIMeta layout: use these (folder names), or "
        "all with []; None: it does not. For runs whose ontology has tasks.",
    )
    unlabelled: bool = Field(
        False, description="True: labels are not read; the images train the autoencoder only."
    )
    frame: Annotated[int, Field(ge=0)] | Literal["middle"] = Field(
        "middle", description="Frame of a multi-frame DICOM, from 0."
    )
    val_fraction: float = Field(
        0.1, ge=0, lt=0.5, description="Share of patients, no split column."
    )
    test_fraction: float = Field(0.2, ge=0, lt=0.8, description="Share of patients, likewise.")
    split_seed: int = Field(0, ge=0, description="Seed of the split by patient.")

    @model_validator(mode="after")
    def _something_is_left_to_train(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction must be below 1; train is the rest")
        return self


AnyPart = TypeVar("AnyPart", bound=BaseModel)


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, not a silent overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping; raises YAMLError for a key that stands twice."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := sorted({str(key) for key in keys if keys.count(key) > 1}):
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"{', '.join(twice)} stands twice in the block at line {line}")
        return super().construct_mapping(node, deep)


_PLAIN = {
    "extra_forbidden": "unknown key; remove it or correct its spelling",
    "missing": "is missing; add it",
    **dict.fromkeys(("tuple_type", "list_type"), "expected a list, e.g. [a, b]"),
    **dict.fromkeys(
        ("model_type", "model_attributes_type", "dict_type"), "expected keys with values"
    ),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "expected a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "expected a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "expected true or false"),
    "string_type": "expected text",
    "string_pattern_mismatch": "does not have the pattern {pattern}",
    "too_short": "expected {min_length} or more entries",
    "too_long": "expected {max_length} entries or fewer",
    "union_tag_not_found": "has no kind",
    "union_tag_invalid": "unknown kind; use {expected_tags}",
}
"""Pydantic's words for Python programmers, said to people."""


def problems_of(error: ValidationError, below: str = "") -> list[str]:
    """Return one line per problem: dotted path, what is wrong, what was found.

    A list that is too short only because its entries are wrong is no problem of its own.

    Args:
        error: what pydantic found.
        below: dotted path of the key that was read; empty is the whole file.
    """
    lines = []
    places = [item["loc"] for item in error.errors()]
    for item in error.errors():
        loc = item["loc"]
        if item["type"] == "too_short" and any(
            place != loc and place[: len(loc)] == loc for place in places
        ):
            continue
        path = ".".join(map(str, (below, *loc) if below else loc)) or "(file)"
        message = item["msg"].removeprefix("Value error, ").replace("Input should ", "must ", 1)
        found = f" (found {repr(item['input'])[:80]})"
        if item["type"] in ("missing", "value_error", "extra_forbidden"):
            found = ""
        if item["type"] in _PLAIN:
            message = _PLAIN[item["type"]].format(**item.get("ctx", {}))
        lines.append(f"{path}: {message}{found}")
    return lines


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        ValueError: it is not YAML, or a key stands twice in a block.
    """
    try:
        return yaml.load(text, Loader=_UniqueKeys)
    except Exception as error:  # wrong dates, tags and depths raise whatever Python does
        raise ValueError(str(error) or type(error).__name__) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file.

    Raises:
        ConfigError: the file is missing, or is not YAML with keys at the top.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); check the path"
        raise ConfigError(str(path), [reason]) from None
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 text (byte {error.start}); save it as UTF-8"
        raise ConfigError(str(path), [reason]) from None
    except ValueError as error:
        raise ConfigError(str(path), [f"is not readable YAML: {error}"]) from None
    if not isinstance(content, dict):
        raise ConfigError(str(path), ["expected a mapping of keys to values at the top"])
    return content


def load_yaml(path: Path, part: type[AnyPart]) -> AnyPart:
    """Read a YAML file into `part`.

    Raises:
        ConfigError: the file is missing, is not YAML or has wrong fields; all are listed.
    """
    try:
        return part.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError(str(path), problems_of(error)) from None


def dump_yaml(part: BaseModel, path: Path) -> None:
    """Write a configuration so that `load_yaml` gives an equal one."""
    content: dict[str, Any] = part.model_dump(mode="json")
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def canonical_hash(part: BaseModel) -> str:
    """Return the SHA-256 (hex) of the canonical JSON of a configuration."""
    text = json.dumps(part.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
