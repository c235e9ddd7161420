"""What a report shows: reconstructions, class means, attention, axes of fields, sweeps, methods.

The images are chosen by rule, not by eye: evenly spaced, and for a sweep the image of the class
whose probability is the median of its class. Source: paper figures 2 and 3.
What crosses the hospital's boundary: nothing. `take_pictures` gives pictures of patients (or of
phantoms); `released_pictures` needs model and atlas only and shows no patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from mfm_core.atlas import Atlas
from mfm_core.attention import attention_maps
from mfm_core.autoencoder import Autoencoder
from mfm_core.bias_axes import draw_bias_axis
from mfm_core.contrasts import contrasts_of, sides_of
from mfm_core.dataset import ImageSet
from mfm_core.explanation import METHODS, Explanation, Question, decode_class_means
from mfm_core.inference import infer
from mfm_core.reconstruction import RECONSTRUCTIONS, Reconstruction, reconstruct
from mfm_core.sweep import Pixels, Sweep

__all__ = (
    "RECONSTRUCTIONS",
    "DrawnAxis",
    "Pictures",
    "Reconstruction",
    "released_pictures",
    "take_pictures",
)

MOST_SWEEPS = 10
"""Classes that get a sweep at most; a page of more would be slow to open."""

MOST_METHODS = 5
"""Classes for which all methods are drawn side by side at most."""

MOST_AXES = 10
"""Axes of fields that are drawn at most."""

NO_IMAGES = "This report was made where there are no images, so no picture can be drawn."


@dataclass(frozen=True)
class DrawnAxis:
    """What one side of a field looks like, drawn from model and atlas alone.

    Attributes:
        attribute: the field.
        value: the side that is drawn.
        against: the other side, in words.
        picture: PNG.
    """

    attribute: str
    value: str
    against: str
    picture: bytes


@dataclass(frozen=True)
class Pictures:
    """All that a report draws beside numbers.

    Attributes:
        reconstructions: rows of the reconstruction grid.
        classes: names of the K classes.
        class_means: `[K, C, H, W] float32 in [0, 1]`, NaN for a class without images, or None.
        attention: `[2, H, W] float32`, how much each pixel counted in either stage; None
            where the run learnt no such map.
        axes: what the recorded fields look like to the model; no patient is shown.
        sweeps: at most one per class.
        methods: for a few of the same images, what every method says.
        missing: why something above is empty, a sentence for the reader.
    """

    reconstructions: tuple[Reconstruction, ...] = ()
    classes: tuple[str, ...] = ()
    class_means: Pixels | None = None
    attention: NDArray[np.float32] | None = None
    axes: tuple[DrawnAxis, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    methods: tuple[tuple[Explanation, ...], ...] = ()
    missing: str = NO_IMAGES


def released_pictures(model: Autoencoder, atlas: Atlas) -> Pictures:
    """Return what can be drawn from model and atlas: class means and axes, no patient.

    Raises:
        CheckpointError: the atlas belongs to another encoder.
    """
    return Pictures(
        classes=tuple(atlas.ontology.classes),
        class_means=decode_class_means(model, atlas),
        attention=attention_maps(model),
        axes=_draw_axes(model, atlas),
    )


def take_pictures(
    model: Autoencoder, atlas: Atlas, images: ImageSet, indices: NDArray[np.int64], seed: int = 0
) -> Pictures:
    """Return the pictures of a report, chosen by rule among `images` at `indices`.

    Args:
        model: the trained autoencoder.
        atlas: class means of the same encoder; with the attribute "site", its axes are drawn too.
        images: images that may be shown to the reader of the report.
        indices: `[M] int64`, usually the test split.
        seed: of the noise on the shown inputs.

    Raises:
        CheckpointError: the atlas belongs to another encoder.
    """
    explained: list[list[Explanation]] = []
    for name, index in _typical_images(model, atlas, images, indices)[:MOST_SWEEPS]:
        image = images.batch(np.array([index]))[0].numpy()
        names = list(METHODS) if len(explained) < MOST_METHODS else ["class_shift"]
        explained.append([METHODS[each](model, atlas, image, Question(name)) for each in names])
    return Pictures(
        reconstructions=reconstruct(model, images, indices, seed),
        classes=tuple(atlas.ontology.classes),
        class_means=decode_class_means(model, atlas),
        attention=attention_maps(model),
        axes=_draw_axes(model, atlas),
        sweeps=tuple(rows[0].sweep for rows in explained if rows[0].sweep is not None),
        methods=tuple(tuple(rows) for rows in explained[:MOST_METHODS]),
        missing="There was no test image to draw.",
    )


def _draw_axes(model: Autoencoder, atlas: Atlas) -> tuple[DrawnAxis, ...]:
    """Return a picture of every contrast that has an axis, up to MOST_AXES."""
    if not atlas.counts.sum():
        return ()
    usable = [each for each in contrasts_of(atlas.ontology) if not sides_of(atlas, each).problem]
    return tuple(
        DrawnAxis(
            each.attribute,
            each.value,
            each.against,
            draw_bias_axis(model, atlas, each.attribute, each.value),
        )
        for each in usable[:MOST_AXES]
    )


def _typical_images(
    model: Autoencoder, atlas: Atlas, images: ImageSet, indices: NDArray[np.int64]
) -> list[tuple[str, int]]:
    """Return, per class, the image whose probability is the (lower) median of its class."""
    if len(atlas.present) < 2 or not len(indices):
        return []
    probabilities = softmax(infer(model, images, indices).logits.astype(np.float64), axis=1)
    labels = images.labels[indices]
    chosen = []
    for label, name in enumerate(atlas.ontology.classes):
        own = np.flatnonzero(labels == label)
        if len(own) and name in atlas.present:
            order = np.argsort(probabilities[own, label], kind="stable")
            chosen.append((name, int(indices[own[order[(len(own) - 1) // 2]]])))
    return chosen
