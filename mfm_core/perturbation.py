"""Deletion and insertion: does a map name the pixels that the model's answer rests on?

Deletion replaces the pixels of a map, highest first, by those of a picture without the finding;
the probability should fall early, so a small area under its curve is good. Insertion starts from
that picture and brings the pixels back; a large area is good (Petsiuk, Das, Saenko, "RISE", BMVC
2018). The picture without the finding is the one that the model draws for the mean of the other
classes' patients. A blurred copy of the image, RISE's choice, is no picture without the finding:
on phantoms a model reads it as a hazy infiltrate. The area is over the part of the pixels
replaced, in [0, 1], by the trapezoidal rule on squared steps: a finding covers few pixels, so most
happens at small parts.

The rival of a map is the same map at a random place (moved round the edges by a random offset):
equally coarse and equally concentrated. Noise would be a weaker rival for insertion and, since it
leaves a pattern of single pixels that no image has, an unfair one for deletion.
What crosses the hospital's boundary: nothing; areas go into histograms (`explanation_sums`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mfm_core.autoencoder import Autoencoder
from mfm_core.devices import to_array, to_device
from mfm_core.sums import Array
from mfm_core.sweep import Pixels

PARTS: Array = np.linspace(0.0, 1.0, 11) ** 2
"""Parts of the pixels that are replaced, 0 and 1 among them."""


@dataclass(frozen=True)
class Areas:
    """Areas under the curves of M maps.

    Attributes:
        deletion: `[M] float64 in [0, 1]`, small is good.
        insertion: `[M] float64 in [0, 1]`, large is good.
    """

    deletion: Array
    insertion: Array


def moved_at_random(saliency: Pixels, generator: np.random.Generator) -> Pixels:
    """Return the map `[H, W]` moved round the edges by a random offset of at least a quarter."""
    height, width = saliency.shape
    down = int(generator.integers(height // 4, height - height // 4 + 1))
    across = int(generator.integers(width // 4, width - width // 4 + 1))
    moved: Pixels = np.roll(saliency, (down, across), axis=(0, 1))
    return moved


def areas_of(
    model: Autoencoder,
    pictures: tuple[Pixels, Pixels],
    maps: Pixels,
    label: int,
    generator: np.random.Generator,
) -> Areas:
    """Return the areas under the probability of one class while pixels go or come.

    Args:
        model: judges the images.
        pictures: the image and one without the finding, `[C, H, W] float32 in [0, 1]` each.
        maps: `[M, H, W]`, larger is more important; equal pixels go in random order.
        label: the class whose probability is followed.
        generator: orders equal pixels.
    """
    image, absent = pictures
    ranks = np.stack([_ranks(saliency, generator) for saliency in maps])
    inside = PARTS[1:-1].reshape(1, -1, 1, 1, 1)
    replaced = ranks[:, None, None] < np.rint(inside * ranks[0].size)
    deleted = np.where(replaced, absent, image).reshape(-1, *image.shape)
    inserted = np.where(replaced, image, absent).reshape(-1, *image.shape)
    frames = np.concatenate([image[None], absent[None], deleted, inserted])
    probabilities = _probabilities(model, frames.astype(np.float32), label)
    first, last = probabilities[:2]
    falling, rising = probabilities[2:].reshape(2, len(maps), -1)
    return Areas(_area(first, falling, last), _area(last, rising, first))


def _ranks(saliency: Pixels, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return `[H, W] int64`, the place of each pixel in falling order."""
    order = np.lexsort((generator.random(saliency.size), -saliency.ravel()))
    ranks = np.empty(saliency.size, dtype=np.int64)
    ranks[order] = np.arange(saliency.size)
    return ranks.reshape(saliency.shape)


def _probabilities(model: Autoencoder, frames: Pixels, label: int) -> Array:
    with torch.inference_mode():
        latents, _ = model.encode(to_device(frames, model))
        chances = model.classify(latents).double().softmax(dim=1)
    return np.asarray(to_array(chances[:, label]))


def _area(first: float, inside: Array, last: float) -> Array:
    """Return the area under each of `[M, P]` curves with common ends."""
    ends = np.ones((len(inside), 1))
    curves = np.hstack([first * ends, inside, last * ends])
    area: Array = np.trapezoid(curves, PARTS, axis=1)
    return area
