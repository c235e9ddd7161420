"""A question to the model about one image, and the answer that every method gives.

A question names a class ("what would the model have to see to say effusion?") or a value of an
attribute ("what would this film look like as PA?"). `ask` holds it against model, atlas and image
and refuses with every problem at once; what it returns is all that a method needs. A class is
judged by the model's head. A value of an attribute, for which the model has no head, is judged by
a linear discriminant from the atlas: class-conditional means, so that a finding that goes with
the value does not count as the value (ours; the paper's axis, section 3.3, is the difference of
the marginal means). What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from mfm_core.atlas import Atlas
from mfm_core.autoencoder import Autoencoder
from mfm_core.checkpoint import encoder_hash
from mfm_core.devices import to_array, to_device
from mfm_core.errors import CheckpointError, DataError
from mfm_core.head import Head
from mfm_core.sums import Array
from mfm_core.sweep import Pixels, Sweep

ALPHA_LIMIT = 4.0
"""Largest |alpha|; beyond it the decoder is far outside what it was trained on. Ours."""

ALPHAS: tuple[float, ...] = tuple(round(-2.0 + 0.4 * step, 1) for step in range(11))
"""Eleven steps in [-2, 2]."""

PROBABILITY_RANGE = (0.5, 0.999)
"""What a counterfactual may be asked for; beyond 0.999 it is the head's scale that is shown."""

ATTRIBUTE_SHRINKAGE = 0.3
"""Share of the identity in the covariance of an attribute's discriminant. Ours."""


@dataclass(frozen=True)
class Question:
    """What is asked about an image: a class, or a value of an attribute.

    Attributes:
        target: the class in question; None when an attribute is asked about.
        versus: the class (or the value) to compare with; None is all others.
        alphas: steps in [-4, 4] for methods that move along a direction; 0 is added when missing.
        probability: in [0.5, 0.999], how sure the turned answer of a counterfactual has to be:
            of the target where the image is not read as the target, else of the others.
        attribute: the attribute in question, e.g. "view".
        value: its value that alpha > 0 moves towards, e.g. "PA".
    """

    target: str | None = None
    versus: str | None = None
    alphas: Sequence[float] = ALPHAS
    probability: float = 0.9
    attribute: str | None = None
    value: str | None = None

    @property
    def words(self) -> str:
        """What is compared, for the heading of a picture."""
        asked = self.target if self.attribute is None else f"{self.attribute} {self.value}"
        return f"“{asked}” against {f'“{self.versus}”' if self.versus else 'all others'}"


@dataclass(frozen=True)
class Explanation:
    """What one method says about one image.

    Attributes:
        method: its name in `METHODS`.
        question: what was asked.
        image: `[C, H, W] float32 in [0, 1]`, what it was asked about.
        saliency: `[H, W] float32 >= 0`, how much each place counts; the scale is the method's own.
        sweep: the decoded frames, None for methods that draw none.
        figures: what else the method measured, by name.
    """

    method: str
    question: Question
    image: Pixels
    saliency: Pixels
    sweep: Sweep | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


Method = Callable[[Autoencoder, Atlas, Pixels, Question], Explanation]
"""`(model, atlas, image [C, H, W] float32 in [0, 1], question) -> Explanation`."""


@dataclass(frozen=True)
class Sides:
    """What a question compares. K names, L numbers in a latent.

    Attributes:
        names: the K names that are judged, in the head's order.
        label: position of the target.
        rival: position of `versus`; None is all others.
        axis: `[L] float64`, z1 - z0.
        origin: `[L] float64`, z0: the mean of those without the target.
        head: the linear judge of the names.
    """

    names: tuple[str, ...]
    label: int
    rival: int | None
    axis: Array
    origin: Array
    head: Head

    def score(self, logits: torch.Tensor) -> torch.Tensor:
        """Return `[N]` log odds of the target against the rival, or all others, of `[N, K]`."""
        if self.rival is not None:
            return logits[:, self.label] - logits[:, self.rival]
        others = [column for column in range(len(self.names)) if column != self.label]
        return logits[:, self.label] - logits[:, others].logsumexp(dim=1)

    def judge(self, latent: torch.Tensor) -> torch.Tensor:
        """Return `[N, K]` logits of `[N, L]` latents; gradients pass."""
        weight, bias = (torch.from_numpy(part) for part in (self.head.weight, self.head.bias))
        return latent @ weight.to(latent.device).T + bias.to(latent.device)


@dataclass(frozen=True)
class Asked:
    """A question that can be answered.

    Attributes:
        question: as it was asked.
        sides: what it compares.
        picture: `[1, C, H, W] float32`, the image.
        latent: `[1, L] float32`, its mu.
    """

    question: Question
    sides: Sides
    picture: torch.Tensor
    latent: torch.Tensor


def check_encoder(model: Autoencoder, atlas: Atlas) -> None:
    """Refuse an atlas whose latent means were made by another encoder.

    Raises:
        CheckpointError: the hashes differ.
    """
    found = encoder_hash(model)
    if found != atlas.encoder_hash:
        raise CheckpointError(
            f"the atlas was made with encoder {atlas.encoder_hash[:12]}, the model is "
            f"{found[:12]}; use model and atlas files of the same run"
        )


@contextmanager
def reading(model: Autoencoder) -> Iterator[None]:
    """Hold the model in evaluation mode, then put its mode back."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def ask(model: Autoencoder, atlas: Atlas, image: Pixels, question: Question) -> Asked:
    """Return the question with all that is needed to answer it.

    Raises:
        CheckpointError: the atlas belongs to another encoder.
        DataError: class, attribute, alpha, probability or picture do not fit, or the latent is
            not finite; all that can be found at once.
    """
    check_encoder(model, atlas)
    problems = _side_problems(model, atlas, question) + _alpha_problems(question.alphas)
    low, high = PROBABILITY_RANGE
    if not low <= question.probability <= high:
        found = f"probability {question.probability:g} is outside [{low:g}, {high:g}]"
        problems.append(f"{found}; say how sure the turned answer has to be, e.g. 0.9")
    problems += _image_problems(model, image)
    if problems:
        raise DataError("explanation", problems)
    picture = to_device(np.array(image, dtype=np.float32), model)[None]
    with reading(model), torch.no_grad():
        latent, _ = model.encode(picture)
    sides = _attribute_sides(atlas, question) if question.attribute else None
    sides = sides or _class_sides(model, atlas, question)
    numbers = (to_array(latent), sides.axis, sides.head.weight)
    if not all(np.isfinite(part).all() for part in numbers):
        problem = "the model gives a latent that is not finite; load an undamaged model file"
        raise DataError("explanation", [problem])
    return Asked(question, sides, picture, latent)


def _class_sides(model: Autoencoder, atlas: Atlas, question: Question) -> Sides:
    names, target = tuple(atlas.ontology.classes), str(question.target)
    weight = to_array(model.head.weight.float()).copy()
    bias = to_array(model.head.bias.float()).copy()
    rival = None if question.versus is None else names.index(question.versus)
    axis = atlas.class_axis(target, question.versus)
    origin = atlas.others_mean(target) if rival is None else atlas.means[rival].astype(np.float64)
    return Sides(names, names.index(target), rival, axis, origin, Head(weight, bias))


def _attribute_sides(atlas: Atlas, question: Question) -> Sides:
    """Return the value against one other value, or all others, compared within each class."""
    name, value = str(question.attribute), str(question.value)
    counts, means = _cells(atlas, question)
    omega = counts[:, 0] * counts[:, 1] / np.maximum(counts.sum(axis=1), 1e-300)
    zero, one = omega @ means[:, 0] / omega.sum(), omega @ means[:, 1] / omega.sum()
    spread = (1 - ATTRIBUTE_SHRINKAGE) * atlas.covariance
    spread[np.diag_indices_from(spread)] += (
        ATTRIBUTE_SHRINKAGE * np.trace(atlas.covariance) / len(spread)
    )
    half = np.linalg.solve(spread, one - zero) / 2
    weight, middle = np.stack([-half, half]), (one + zero) / 2
    head = Head(weight.astype(np.float32), (-weight @ middle).astype(np.float32))
    values = atlas.ontology.attributes[name]
    others = [other for other in values if other != value]
    rival = question.versus or (others[0] if len(others) == 1 else f"another {name}")
    return Sides((rival, value), 1, None, one - zero, zero, head)


def _cells(atlas: Atlas, question: Question) -> tuple[Array, Array]:
    """Return counts `[K, 2]` and means `[K, 2, L]` of the compared value(s) and the asked one."""
    name = str(question.attribute)
    values = atlas.ontology.attributes[name]
    count, mean = atlas.attribute_counts[name], atlas.attribute_means[name]
    one = [values.index(str(question.value))]
    rest = [position for position in range(len(values)) if position not in one]
    zero = rest if question.versus is None else [values.index(question.versus)]
    counts = np.stack([count[:, zero].sum(axis=1), count[:, one].sum(axis=1)], axis=1)
    sums = np.stack([(count[:, side, None] * mean[:, side]).sum(axis=1) for side in (zero, one)], 1)
    safe = np.where(counts > 0, counts, 1.0)
    return counts, sums / safe[..., None]


def _side_problems(model: Autoencoder, atlas: Atlas, question: Question) -> list[str]:
    """Return what keeps the compared sides from being found."""
    problems = []
    known, heads = len(atlas.ontology.classes), model.head.out_features
    if known != heads:
        found = f"the model tells {heads} classes apart, the atlas has {known}"
        problems.append(f"{found}; use model and atlas files of the same run")
    if (question.target is None) == (question.attribute is None):
        problems.append("name either a class or an attribute with a value")
    elif question.attribute is not None:
        problems += _attribute_problems(atlas, question)
    else:
        problems += class_problems(atlas, str(question.target), question.versus)
    return problems


def class_problems(atlas: Atlas, target: str, versus: str | None) -> list[str]:
    """Return why there is no axis from `versus` (None is all others) to `target`."""
    classes = atlas.ontology.classes
    problems = []
    for name in dict.fromkeys((target, versus)):
        if name is not None and name not in classes:
            problems.append(
                f"class {name!r} is not in the atlas; choose one of {', '.join(classes)}"
            )
        elif name is not None and atlas.counts[classes.index(name)] <= 0:
            problems.append(f"class {name!r} had no images when the atlas was made; choose another")
    if target in classes and versus is None and len(atlas.present) < 2:
        problems.append(f"no class but {target!r} had images; an axis needs two classes")
    if target == versus:
        problems.append(f"class and versus are both {target!r}; name two different classes")
    return problems


def _attribute_problems(atlas: Atlas, question: Question) -> list[str]:
    name, value, versus = str(question.attribute), question.value, question.versus
    values = atlas.ontology.attributes.get(name, ())
    if not values:
        known = ", ".join(atlas.ontology.attributes) or "none"
        return [f"attribute {name!r} is not in the atlas, which has: {known}"]
    words = (value,) if versus is None else dict.fromkeys((value, versus))
    problems = [
        f"{name} {word!r} is not in the atlas; choose one of {', '.join(values)}"
        for word in words
        if word not in values
    ]
    if value is not None and value == versus:
        problems.append(f"value and versus are both {value!r}; name two different values")
    return problems or _one_sided(atlas, question)


def _one_sided(atlas: Atlas, question: Question) -> list[str]:
    """Return why the cells of the atlas cannot tell the two sides apart."""
    name, counts = str(question.attribute), atlas.attribute_counts[str(question.attribute)]
    values, total = atlas.ontology.attributes[name], counts.sum(axis=0)
    seen = [value for value, count in zip(values, total, strict=True) if count > 0]
    asked = [word for word in (question.value, question.versus) if word is not None]
    if missing := [word for word in asked if word not in seen]:
        found = f"no patient of the atlas has {name} {' or '.join(map(repr, missing))}"
        return [f"{found} (only {', '.join(seen) or 'none'}); ask about a value that occurs"]
    if len(seen) < 2:
        return [f"every patient of the atlas has {name} {seen[0]!r}; there is no other value"]
    cells, _ = _cells(atlas, question)
    if not (cells.min(axis=1) > 0).any():
        found = f"no class of the atlas has patients on both sides of {name} {question.value!r}"
        return [f"{found}; the value cannot be told from the classes, ask about another"]
    return []


def _alpha_problems(alphas: Sequence[float]) -> list[str]:
    bad = [alpha for alpha in alphas if not abs(alpha) <= ALPHA_LIMIT]
    if bad:
        found = ", ".join(f"{alpha:g}" for alpha in bad)
        return [
            f"alpha {found} is outside [-{ALPHA_LIMIT:g}, {ALPHA_LIMIT:g}]; choose smaller steps"
        ]
    return [] if any(alpha != 0 for alpha in alphas) else ["no alpha but 0; give at least one step"]


def _image_problems(model: Autoencoder, image: Pixels) -> list[str]:
    config = model.image_config
    want = (config.channels, config.size_px, config.size_px)
    if tuple(image.shape) != want:
        return [
            f"image of shape {tuple(image.shape)}, the model needs {want}; read it for this model"
        ]
    if not np.isfinite(image).all():
        return ["the image holds values that are not finite; export it again"]
    if image.min() < 0 or image.max() > 1:
        low, high = float(image.min()), float(image.max())
        return [f"image values in [{low:g}, {high:g}], expected [0, 1]; scale them first"]
    return []
